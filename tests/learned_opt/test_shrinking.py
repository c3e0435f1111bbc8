"""How much parameters shrink: networks that know their examples, exact fits, one example a step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from learned_opt import flt_optimizer
from learned_opt.optimizer.controller import LARGEST_SHARE, LEAST_SHARE, largest_share

from .common import trained, without


@functools.cache
def digits():
    """Images in [-1, 1] and labels."""
    x, labels = load_digits(return_X_y=True)
    return jnp.asarray(x / 8 - 1, jnp.float32), jnp.asarray(labels)


def errors(p, x, labels):
    """Mean loss of a perceptron."""
    logits = jax.nn.relu(x @ p["in"]) @ p["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def perceptron(key):
    return {"in": 0.18 * jax.random.normal(key, (64, 32)), "out": jnp.zeros((32, 10))}


@pytest.mark.parametrize(
    ("count", "horizon", "expected"),
    [
        (0, 100, 0.03),
        (900, 1000, 0.03),
        (0, 2000, 0.015),
        (0, 10**6, 0.01),
        (10, np.inf, 0.03),
        (1499, np.inf, 0.02),
        (10**6, np.inf, 0.01),
    ],
)
def test_longer_runs_forget_more_slowly(count, horizon, expected):
    np.testing.assert_allclose(largest_share(jnp.int32(count), jnp.float32(horizon)), expected, rtol=1e-6)


@pytest.mark.parametrize(("total_steps", "most"), [(10, LARGEST_SHARE), (4000, LEAST_SHARE)])
def test_no_step_shrinks_a_parameter_by_more_than_its_largest_share(total_steps, most):
    params = {"w": jnp.linspace(-2.0, 2.0, 12).reshape(4, 3), "b": jnp.linspace(0.5, 1.0, 3)}

    def change(shrink):
        optimizer = flt_optimizer(weights="flt-v1", total_steps=total_steps, shrink=shrink)
        return optimizer.update(params, optimizer.init(params), params)[0]

    for plain, shrunk, p in zip(*map(jax.tree.leaves, (change(0.0), change(1e9), params)), strict=True):
        share = (plain - shrunk) / p
        np.testing.assert_allclose(share, jnp.where(share > 0, most, 0.0), rtol=1e-4)
        assert jnp.mean(share > 0) > 0.5  # the others' directions have the other sign


def test_a_network_that_knows_its_examples_does_not_become_ever_surer():
    """All of a few separable examples at every step: nothing but the optimizer stops the weights."""
    x = jax.random.normal(jax.random.key(0), (16, 8))
    labels = jnp.sign(x[:, 0])
    params = {"in": 0.3 * jax.random.normal(jax.random.key(1), (8, 16)), "out": jnp.full((16, 1), 0.1)}

    def loss(p):
        return jax.nn.softplus(-labels * (jnp.tanh(x @ p["in"]) @ p["out"])[:, 0]).mean()

    before, now = (
        trained(weights, params, lambda p, _: jax.grad(loss)(p), 400) for weights in ("flt-v0", "flt-v1")
    )
    assert loss(before) < 1e-6 < 1e-5 < loss(now) < 1e-3
    assert jnp.linalg.norm(now["in"]) < jnp.linalg.norm(before["in"]) / 2


def test_a_surprise_does_not_make_a_network_forget_its_examples():
    """One wrong label among thousands: shrinking that grows with the surprise would go on by itself."""
    x, labels = (rows[:512] for rows in digits())
    wrong_at, steps = 300, 340

    def losses(key):
        params = perceptron(key)
        optimizer = flt_optimizer(weights="flt-v1", total_steps=1000)

        def step(carry, t):
            p, state = carry
            rows = jax.random.randint(jax.random.fold_in(key, t), (128,), 0, 512)
            told = labels[rows].at[0].add(t == wrong_at) % 10
            updates, state = optimizer.update(jax.grad(errors)(p, x[rows], told), state, p)
            p = optax.apply_updates(p, updates)
            return (p, state), errors(p, x, labels)

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[1]

    found = jax.jit(jax.vmap(losses))(jax.random.split(jax.random.key(0), 4))
    assert np.median(found[:, wrong_at - 1]) < 5e-3
    assert found[:, wrong_at:].max() < 0.1
    assert np.median(found[:, -1]) < 0.01


def test_a_function_that_is_fitted_exactly_is_not_shrunk_away():
    """Gradients vanish there as they do in a network that knows its examples, but steps overshoot."""
    x = jax.random.normal(jax.random.key(0), (256, 8))
    params = {"in": 0.4 * jax.random.normal(jax.random.key(1), (8, 64)), "out": jnp.zeros(64)}

    def loss(p):
        return jnp.mean((jnp.tanh(x @ p["in"]) @ p["out"] - jnp.sin(x.sum(1))) ** 2)

    def final(weights):
        return loss(trained(weights, params, lambda p, _: jax.grad(loss)(p), 500))

    found = final("flt-v1")
    assert found < 1e-5
    assert 100 * found < final(without("overshoot"))


def test_a_network_remembers_examples_that_come_one_at_a_step():
    x, labels = digits()

    def final(weights, key):
        def gradient(p, t):
            row = jax.random.randint(jax.random.fold_in(key, t), (1,), 0, len(x))
            return jax.grad(errors)(p, x[row], labels[row])

        return errors(trained(weights, perceptron(key), gradient, 1000), x, labels)

    keys = jax.random.split(jax.random.key(0), 8)
    now, before = (
        jnp.median(jax.vmap(functools.partial(final, weights))(keys))
        for weights in ("flt-v1", without("surprise"))
    )
    assert now < 0.7 * before


def test_tables_that_are_learned_by_heart_stay_smaller():
    """Answers at random of 30 users about 30 items, 64 at a step: embeddings shrink, as matrices do."""
    users, items, answers = jax.random.split(jax.random.key(0), 3)
    liked = jnp.sign(jax.random.normal(answers, (30, 30)))
    params = {
        "user_embedding": 0.1 * jax.random.normal(users, (30, 8)),
        "item_embedding": 0.1 * jax.random.normal(items, (30, 8)),
    }

    def loss(p, user, item):
        better = (p["user_embedding"][user] * p["item_embedding"][item]).sum(-1)
        return jax.nn.softplus(-liked[user, item] * better).mean()

    def gradient(p, t):
        return jax.grad(loss)(p, *jax.random.randint(jax.random.fold_in(answers, t), (2, 64), 0, 30))

    now, before = (trained(weights, params, gradient, 1000) for weights in ("flt-v1", without("embedding")))
    for name in params:
        assert jnp.linalg.norm(now[name]) < 0.97 * jnp.linalg.norm(before[name])
