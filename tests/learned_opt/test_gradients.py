"""Every optimizer on gradients that are zero, enormous, tiny, or not numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import FLTConfig, Mode, diagnostics, scale_by_flt

from .common import start
from .contract import (
    EVERY,
    LEARNED,
    STEPS,
    build,
    close,
    compiled,
    equal,
    flt_state,
    gradient,
    holds,
    parameters,
    poisoned,
    run,
)


@holds("zero gradients change nothing", EVERY, quick=("flt", "window"))
def test_zero_gradients_change_nothing(name: str) -> None:
    params, _ = run(name, parameters(), change=lambda g, t: jax.tree.map(jnp.zeros_like, g))
    equal(params, parameters())


@holds("a gradient that is not finite leaves later steps unharmed", EVERY, fails=("adamw", "muon"))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_never_happened(name: str, bad: float) -> None:
    optimizer, update = build(name), compiled(name)
    params = parameters()
    state = optimizer.init(params)
    clean = params, state
    for t in range(STEPS):
        gradients = gradient(params, float(t))
        if t % 2 == 0:
            nothing, skipped = update(poisoned(gradients, bad), state, params)
            equal(nothing, jax.tree.map(jnp.zeros_like, params))
            before, after = flt_state(state), flt_state(skipped)
            assert int(after.skipped) == int(before.skipped) + 1
            equal(after._replace(skipped=before.skipped), before)
            state = skipped
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    clean = run(name, parameters())
    equal(params, clean[0])
    equal(flt_state(state)._replace(skipped=flt_state(clean[1]).skipped), flt_state(clean[1]))
    assert int(diagnostics(state)["skipped"]) == STEPS // 2


@holds("one bad leaf stops the whole step", EVERY, fails=("adamw", "muon"))
def test_nothing_else_is_skipped_and_one_leaf_stops_all(name: str) -> None:
    params = parameters()
    state = build(name).init(params)
    updates, state = compiled(name)(gradient(params, 0.0) | {"s": jnp.asarray(np.nan)}, state, params)
    equal(updates, jax.tree.map(jnp.zeros_like, params))
    assert int(flt_state(run(name, params)[1]).skipped) == 0


@holds("parameters that are not finite leave the memory alone", LEARNED)
def test_parameters_that_are_not_finite_leave_the_memory_alone(name: str) -> None:
    params, state = run(name, parameters())
    bad = poisoned(params, np.inf)
    updates, after = compiled(name)(gradient(params, 0.0), state, bad)
    equal(updates, jax.tree.map(jnp.zeros_like, params))
    before, after = flt_state(state), flt_state(after)
    equal(after._replace(skipped=before.skipped), before)


@holds("powers of two in the gradient change no bit", LEARNED)
@pytest.mark.parametrize("power", [-60, -1, 1, 60])
def test_powers_of_two_in_the_gradient_change_no_bit(name: str, power: int) -> None:
    scaled, _ = run(name, parameters(), change=lambda g, t: jax.tree.map(lambda x: x * 2.0**power, g))
    equal(scaled, run(name, parameters())[0])


@holds("gradients of 1e-30 and 1e30 times the size change nothing", EVERY, fails=("adamw", "muon"))
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_size_of_gradients_does_not_matter(name: str, factor: float) -> None:
    scaled, state = run(name, parameters(), change=lambda g, t: jax.tree.map(lambda x: x * factor, g))
    assert int(flt_state(state).skipped) == 0
    tolerance = 2e-2 if name == "thrifty" else 1e-3  # rounding to bfloat16 draws differently
    close(scaled, run(name, parameters())[0], tolerance)


@holds("gradients of 1e-36 to 1e36 in turn leave later steps finite", EVERY, fails=("adamw", "muon"))
def test_gradients_that_change_size_at_every_step_stay_finite(name: str) -> None:
    sizes = [1.0, 1e30, 1e-30, 1e-36, 1e36, 0.0]
    params, state = run(name, parameters(), change=lambda g, t: jax.tree.map(lambda x: x * sizes[t], g))
    assert int(flt_state(state).skipped) == 0
    assert all(np.isfinite(p).all() for p in jax.tree.leaves((params, state)))
    close(params, parameters(), 1.0)


@pytest.mark.parametrize(
    "modes", [(Mode("g", 0.9), Mode("g2", 0.95)), (Mode("g", 0.9),)], ids=["adam", "momentum"]
)
def test_a_bare_read_out_remembers_what_the_gradients_were(modes: tuple[Mode, ...]) -> None:
    """Without a law too, one tiny gradient does not throw the memory of large ones out of its unit."""
    config = FLTConfig(modes=modes, law=False, rule_width=0)
    optimizer = scale_by_flt((start(config), config))
    params = {"w": jnp.ones((2, 2))}

    def step(state: Any, size: jax.Array) -> Any:
        updates, state = optimizer.update({"w": jnp.full((2, 2), size)}, state, params)
        return state, updates["w"]

    sizes = jnp.asarray([1e20, 1e20, 1e-25, 0.0, 1e20])
    state, updates = jax.jit(lambda: jax.lax.scan(step, optimizer.init(params), sizes))()
    assert int(state.skipped) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, updates)))
    # After the fourth gradient: the first two weigh decay^3 and decay^2.
    squares = (0.95**2 + 0.95**3) * 0.05 / (1 - 0.95**4)
    expected = 0.65 * (0.9**2 + 0.9**3) * 0.1 / (1 - 0.9**4)
    expected = expected / np.sqrt(squares) if len(modes) == 2 else expected * 1e20
    np.testing.assert_allclose(updates[3], expected, rtol=1e-3)
