"""The schedule, and what the controller remembers and reports."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import FLTConfig, diagnostics, flt_optimizer, scale_by_flt
from learned_opt.optimizer.controller import (
    FLOOR,
    Controller,
    Measures,
    Past,
    Schedule,
    feature_names,
)

from .common import moved, start

SMALL = FLTConfig(rule_width=2, controller_width=2)
PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}


schedule_of = jax.jit(hk.without_apply_rng(hk.transform(lambda *args: Schedule()(*args))).apply)


def schedule(count, horizon):
    """The factor at a step, untrained."""
    return schedule_of({"schedule": start(SMALL)["flt/~/controller/~/schedule"]}, count, horizon)


@pytest.mark.parametrize(
    ("count", "horizon", "expected"),
    [
        (0, 100, 1 / (100 * np.exp(-3.5) + 1)),
        (2, 100, 3 / (100 * np.exp(-3.5) + 1) * 0.98),
        (50, 100, 0.5),
        (99, 100, 0.01),
        (100, 100, FLOOR),
        (101, 100, FLOOR),
        (10**6, 100, FLOOR),
        (0, 1, 1 / (np.exp(-3.5) + 1)),
        (1, 1, FLOOR),
        (0, np.inf, 1 / (np.exp(2) + 1)),
        (3, np.inf, 4 / (np.exp(2) + 1) * (1 + 3 / np.exp(6)) ** -np.exp(-0.7)),
        (10**4, np.inf, (1 + 1e4 / np.exp(6)) ** -np.exp(-0.7)),
    ],
)
def test_schedule(count, horizon, expected):
    np.testing.assert_allclose(schedule(jnp.int32(count), jnp.float32(horizon)), expected, rtol=1e-4)


def test_schedule_without_a_horizon_decreases_for_ever_and_stays_above_the_floor():
    counts = jnp.asarray([10, 100, 10**4, 10**6, 2 * 10**9], jnp.int32)
    values = np.asarray([schedule(count, jnp.float32(np.inf)) for count in counts])
    assert np.all(np.diff(values) <= 0)
    assert np.all(values >= FLOOR * (1 - 1e-6))


def test_features_are_named_in_the_order_in_which_they_are_built():
    """The law alone reads each feature off: its log step differs by the law's weight times the feature."""
    names = feature_names(SMALL)
    assert len(set(names)) == len(names)
    static = jnp.asarray([[1.0, 1.0, 0.0, 0.3, -0.2, 0.1]])
    one = jnp.ones((1,))
    measures = Measures(
        0.05 * one, 0.4 * one, 0.3 * one, 0.9 * one, -0.9 * one, 0.7 * one, -0.6 * one, 1.9 * one
    )
    before = jnp.zeros((1, 2, 3)).at[0, 0, 1].set(-0.5)
    past = Past((before, jnp.zeros((1, 2, 3))), 1.5 * one, (), None)
    module = hk.without_apply_rng(hk.transform(lambda *args: Controller(SMALL)(*args)))
    theta = {
        name.removeprefix("flt/~/"): group
        for name, group in start(SMALL).items()
        if name.startswith("flt/~/controller")
    }

    @jax.jit
    def log_step(law):
        changed = theta | {"controller": theta["controller"] | {"step_law": law}}
        return module.apply(changed, static, measures, past, jnp.int32(25), jnp.float32(100.0)).log_step[0]

    law = theta["controller"]["step_law"] * 0 - 3 * (np.asarray(names) == "one")
    probes = np.eye(len(names), dtype=np.float32)
    found = {
        name: float(log_step(law + probe) - log_step(law)) for name, probe in zip(names, probes, strict=True)
    }
    # A nearly empty signal memory after 25 steps: its first value is damped, as in any corrected average.
    decays = np.asarray(SMALL.signal_decays)
    share = (1 - decays) / (1 - decays**26)
    lasting = -0.5 * decays[1] - 0.9 * (1 - decays[1])
    expected = {
        "one": 1.0,
        "matrix": 1.0,
        "embedding": 0.0,
        "fan_in": 0.3,
        "fan_out": -0.2,
        "depth": 0.1,
        "parameter": np.log(0.051) / 2 + 0.3,
        "noise_fast": np.log(0.401),
        "noise_slow": np.log(0.301),
        "sparsity": np.log(0.901),
        "decline": -0.6,
        "spread": 1.5,
        "surprise": 0.2,
        "collapse": 0.0,
        "overshoot": lasting + 0.1,
        "undershoot": 1.5 + 0.1 * lasting,
        "horizon": np.log(100 / 500) / 2,
        "anytime": 0.0,
        "elapsed": -0.25,
        "noise_late": np.log(0.401) * 0.25,
        "mean_noise": np.log(0.401),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)
    old = -0.5 * decays[1] / (1 - decays[1] ** 26) * np.asarray([0, 1, 0])
    for signal, value in (("hypergradient", -0.9 * share + old), ("alignment", 0.7 * share)):
        remembered = [found[f"{signal}_{mode}"] for mode in range(3)]
        np.testing.assert_allclose(remembered, value, atol=1e-4)


def updates(optimizer: optax.GradientTransformationExtraArgs, steps: int) -> jax.Array:
    """What a few steps from PARAMS change, one row a step."""

    def step(state, t):
        gradients = jax.tree.map(
            lambda p: jnp.cos(t + jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS
        )
        change, state = optimizer.update(gradients, state, PARAMS)
        return state, jnp.concatenate([x.ravel() for x in jax.tree.leaves(change)])

    return jax.jit(lambda: jax.lax.scan(step, optimizer.init(PARAMS), jnp.arange(float(steps)))[1])()


@pytest.mark.slow
def test_an_infinite_horizon_is_no_horizon():
    chosen = moved(SMALL, 0.1), SMALL
    unknown, infinite, known = (
        updates(flt_optimizer(weights=chosen, total_steps=total), 4) for total in (None, np.inf, 4)
    )
    np.testing.assert_array_equal(unknown, infinite)
    assert np.abs(unknown - known).max() > 1e-4


def test_after_the_last_step_the_floor():
    """Beyond the horizon nothing diverges: steps are a thousandth of the early ones, and finite."""
    taken = updates(flt_optimizer(weights=(start(SMALL), SMALL), total_steps=5), 12)
    sizes = np.abs(taken).mean(axis=1)
    assert np.all(np.isfinite(taken))
    assert np.all(sizes > 0)
    assert sizes[5:].max() < 0.01 * sizes[0]


def test_diagnostics_under_jit():
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), flt_optimizer(weights=(start(SMALL), SMALL), total_steps=10)
    )
    state = optimizer.init(PARAMS)

    @jax.jit
    def step(gradients, state):
        _, state = optimizer.update(gradients, state, PARAMS)
        return state, diagnostics(state)

    for _ in range(2):
        state, found = step(PARAMS, state)
    assert {name: value.shape for name, value in found.items()} == {
        "step": (2,),
        "blend": (2,),
        "shrink": (2,),
        "signal_to_noise": (2,),
        "hypergradient": (2,),
        "count": (),
        "skipped": (),
    }
    assert (int(found["count"]), int(found["skipped"])) == (2, 0)
    bias, matrix = 0, 1
    assert found["blend"][bias] == 0
    assert 0.5 < found["blend"][matrix] < 1
    np.testing.assert_allclose(found["signal_to_noise"], 1.0, rtol=1e-3)  # the same gradient twice
    assert np.all(found["step"] > 0)
    assert np.all(found["hypergradient"] > 0)  # the last step goes on in this step's direction


def test_diagnostics_needs_exactly_one_state():
    state = scale_by_flt((start(SMALL), SMALL)).init(PARAMS)
    diagnostics({"nested": (state, None)})
    with pytest.raises(ValueError, match="expected one FLTState in the optimizer state, found 0"):
        diagnostics(optax.adam(1e-3).init(PARAMS))
    with pytest.raises(ValueError, match="found 2"):
        diagnostics((state, state))
