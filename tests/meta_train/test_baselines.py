"""The baselines: their schedule, their grids, and that a grid is one vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.baselines import BASELINES, DECAYS, Setting, half_decades, schedule, widen


def warmup_cosine(peak, total_steps):
    return schedule(Setting(peak), total_steps)


def test_schedule_values_at_known_steps():
    schedule = warmup_cosine(0.5, 100)
    assert schedule(0) == pytest.approx(0.5 / 5)
    assert schedule(2) == pytest.approx(0.5 * 3 / 5)
    assert schedule(4) == pytest.approx(0.5)
    assert schedule(5) == pytest.approx(0.5)
    assert schedule(5 + 95 / 2) == pytest.approx(0.25)
    assert schedule(100) == pytest.approx(0.0, abs=1e-8)
    assert schedule(150) == pytest.approx(0.0, abs=1e-8)


def test_schedule_agrees_with_optax_after_the_warm_up():
    ours, theirs = warmup_cosine(0.1, 200), optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 200)
    np.testing.assert_allclose(
        [ours(t) for t in range(10, 200)], [theirs(t) for t in range(10, 200)], rtol=1e-4
    )


def test_a_constant_schedule_only_warms_up():
    values = [schedule(Setting(0.5, constant=1.0), 100)(t) for t in (0, 4, 5, 60, 99)]
    np.testing.assert_allclose(values, [0.1, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("total_steps", [1, 2, 10])
def test_schedule_of_a_very_short_run_is_finite_and_starts_at_its_peak(total_steps):
    values = np.array([warmup_cosine(1.0, total_steps)(t) for t in range(total_steps + 1)])
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(1.0)


def test_every_grid_has_nine_half_decade_rates_over_four_decades():
    for row in BASELINES.values():
        assert len(row.rates) == 9
        np.testing.assert_allclose(np.diff(np.log10(row.rates)), 0.5, atol=2e-3)


def test_widening_continues_the_grid_on_either_side():
    rates = half_decades(-3, -1)
    assert widen(rates, "low") == (3.16e-4, 1e-4)
    assert widen(rates, "high") == (0.316, 1.0)
    assert widen((0.5, 1.0, 2.0), "high") == (4.0, 8.0)


def test_the_wide_grid_crosses_rates_decays_and_schedules():
    wide = BASELINES["adamw"].grid((0.1, 1.0, 10.0), wide=True)
    assert len(set(wide)) == 3 * len(DECAYS) * 2
    assert {setting.weight_decay for setting in BASELINES["adam"].grid((0.1, 1.0), wide=True)} == {0.0}
    assert {setting.constant for setting in BASELINES["schedule-free"].grid((0.1, 1.0), wide=True)} == {1.0}


def test_weight_decay_of_a_setting_reaches_every_optimizer_that_has_one():
    params, grads = {"w": jnp.full((3, 3), 2.0)}, {"w": jnp.full((3, 3), 0.1)}
    for row in BASELINES.values():
        steps = []
        for decay in (0.0, 0.5):
            optimizer = row.factory(Setting(1e-2, decay, 1.0), 20)
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            steps.append(float(updates["w"][0, 0]))
        assert (steps[1] < steps[0]) == (row.weight_decay is not None), row.name


def test_schedule_free_is_evaluated_at_its_average():
    row = BASELINES["schedule-free"]
    optimizer = row.factory(Setting(0.1, 0.0, 1.0), 100)
    params = {"w": jnp.ones(3)}
    state = optimizer.init(params)
    for _ in range(10):
        updates, state = optimizer.update({"w": params["w"]}, state, params)
        params = optax.apply_updates(params, updates)
    average = row.eval_params(state, params)
    np.testing.assert_allclose(0.9 * average["w"] + 0.1 * state.z["w"], params["w"], rtol=1e-5)
    assert not np.allclose(average["w"], params["w"], rtol=1e-3)


@pytest.mark.parametrize("name", BASELINES)
def test_a_vmapped_grid_equals_single_runs(name):
    row = BASELINES[name]
    shapes = {"kernel": (3, 3, 2, 4), "matrix": (5, 4), "stack": (2, 3, 3), "bias": (4,), "scalar": ()}
    params = {key: jnp.full(shape, 0.5) for key, shape in shapes.items()}

    def train(rate, total_steps):
        optimizer = row.factory(Setting(rate, row.weight_decay or 0.0), total_steps)

        def step(state, t):
            now, opt_state = state
            grads = jax.tree.map(
                lambda leaf: leaf - jnp.sin(t + jnp.arange(leaf.size)).reshape(leaf.shape), now
            )
            updates, opt_state = optimizer.update(grads, opt_state, now)
            return (optax.apply_updates(now, updates), opt_state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(8.0))[0][0]

    grid = jax.jit(jax.vmap(train, (0, None)))(jnp.asarray(row.rates), 8.0)
    for index in (2, 6):
        single = train(row.rates[index], 8)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[index], b, rtol=2e-2, atol=2e-4), grid, single)  # noqa: B023
    assert not np.array_equal(grid["matrix"][2], grid["matrix"][6])
