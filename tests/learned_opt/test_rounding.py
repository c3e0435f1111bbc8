"""Stochastic rounding to bfloat16."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import apply_updates
from learned_opt.optimizer.rounding import stochastic_round

STEP = jnp.asarray(7, jnp.int32)


@jax.jit
def rounded(tree, step=STEP):
    return stochastic_round(tree, jnp.dtype(jnp.bfloat16), step)


def test_rounding_is_unbiased_and_goes_to_a_neighbour():
    value, number = 1.0 + 0.3 * 2**-7, 50_000  # three tenths of the way between two bfloat16 numbers
    found = np.asarray(rounded(jnp.full((number,), value)), np.float64)
    assert set(np.unique(found)) == {1.0, 1.0 + 2**-7}
    error = 2**-7 * np.sqrt(0.3 * 0.7 / number)
    assert abs(found.mean() - value) < 4 * error


def test_small_increments_survive_in_expectation():
    """Nearest rounding would leave 1 + 2^-11 at 1 for ever."""

    def step(x, t):
        return rounded(x.astype(jnp.float32) + 2**-11, t), None

    final, _ = jax.lax.scan(step, jnp.ones((400,), jnp.bfloat16), jnp.arange(256))
    deviation = 2**-7 * np.sqrt(256 * 0.25 / 400)  # at most, of the mean of 400
    assert abs(np.asarray(final, np.float64).mean() - (1 + 256 * 2**-11)) < 4 * deviation


def test_steps_and_leaves_decide_the_draw():
    tree = {"a": jnp.full((64,), 1.001), "b": jnp.full((64,), 1.001)}
    first, again, other = rounded(tree), rounded(tree), rounded(tree, STEP + 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.any(first["a"] != first["b"])
    assert np.any(first["a"] != other["a"])


def test_what_bfloat16_holds_is_kept():
    exact = jnp.asarray([0.0, -0.0, 1.0, -1.5, 2.0**-126, 3e38, jnp.inf, -jnp.inf], jnp.float32)
    exact = exact.at[5].set(jnp.asarray(3e38, jnp.bfloat16).astype(jnp.float32))
    for step in range(5):
        found = rounded(exact, jnp.asarray(step))
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(found.astype(jnp.float32), exact)
        assert np.signbit(found[1].astype(jnp.float32))
    assert np.isnan(rounded(jnp.asarray([jnp.nan]))[0])


def test_signs_are_symmetric():
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    np.testing.assert_array_equal(rounded(x), -rounded(-x))


def test_an_empty_tree():
    assert rounded({}) == {}


def test_updates_of_other_dtypes_are_applied_as_optax_does():
    params = {"a": jnp.ones(3), "b": None, "c": jnp.ones((), jnp.float16)}
    updates = {"a": jnp.arange(3.0), "b": None, "c": jnp.asarray(2**-12, jnp.float16)}
    found = apply_updates(params, updates, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, found, optax.apply_updates(params, updates))
    assert found["c"].dtype == jnp.float16
    assert apply_updates({}, {}, jax.random.key(0)) == {}


def test_bfloat16_parameters_end_within_2_percent_of_float32():
    """Rounded to nearest, updates of the annealed Adam vanish below half a unit in the last place."""
    draw = np.random.default_rng(0).normal
    x = jnp.asarray(draw(size=(256, 16)), jnp.float32)
    target = jnp.asarray(x @ draw(size=(16, 4)) + 0.3 * draw(size=(256, 4)), jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 1000))

    def loss(w: jax.Array) -> jax.Array:
        return jnp.mean((x @ w.astype(jnp.float32) - target) ** 2)

    def final(dtype: Any, add: Any) -> float:
        def step(carry: Any, key: jax.Array) -> Any:
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (add(w, updates, key), state), None

        start = jnp.zeros((16, 4), dtype)
        keys = jax.random.split(jax.random.key(0), 1000)
        (w, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), keys))()
        return float(loss(w))

    def nearest(w: jax.Array, updates: jax.Array, key: jax.Array) -> jax.Array:
        return optax.apply_updates(w, updates)

    exact = final(jnp.float32, nearest)
    assert abs(final(jnp.bfloat16, apply_updates) / exact - 1) < 0.02
    assert final(jnp.bfloat16, nearest) > 2 * exact
