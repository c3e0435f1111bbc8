"""The statistics: exact on paper, and right about optimizers whose speed is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.baselines import Setting, schedule
from meta_train.evaluation import Optimizer, Protocol, baseline, evaluate
from meta_train.evaluation.compare import comparisons
from meta_train.evaluation.statistics import (
    first_reached,
    half_interval,
    horizon_for,
    interquartile_mean,
    profile,
    speed_ups,
    stratified_interval,
)

from .fakes import family

HORIZONS = np.array([50.0, 70.0, 100.0, 200.0, 400.0])
CURVATURE = jnp.array([1.0, 0.3, 0.1, 0.03])


def test_the_interquartile_mean_ignores_both_outer_quarters():
    assert interquartile_mean(np.array([-100.0, 1.0, 3.0, 1000.0])) == pytest.approx(2.0)
    assert interquartile_mean(np.array([0.0, 3.0, 9.0])) == pytest.approx(
        (0.25 * 0 + 1.0 * 3 + 0.25 * 9) / 1.5
    )


def test_students_interval_is_that_of_the_textbook():
    assert half_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
    assert half_interval(np.array([1.0])) == np.inf


def test_the_stratified_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        low, high = stratified_interval(rng.normal(size=(8, 10)), lambda means: means.mean(axis=-1))
        covered += low <= 0 <= high
    assert 0.85 <= covered / 60 <= 1.0


def test_a_power_law_is_inverted_exactly():
    losses = 3.0 * HORIZONS**-0.5
    for factor in (0.6, 0.9, 1.7, 3.9):
        assert horizon_for(3.0 * (100 * factor) ** -0.5, 2, HORIZONS, losses) == pytest.approx(100 * factor)
    assert horizon_for(losses[2], 2, HORIZONS, losses) == 100
    assert horizon_for(1e-3, 2, HORIZONS, losses) == 400
    assert horizon_for(1e3, 2, HORIZONS, losses) == 50


def test_a_lower_loss_is_never_slower_even_where_longer_runs_overfit():
    losses = np.array([1.0, 0.9, 1.0, 1.2, 1.5])
    assert horizon_for(0.95, 2, HORIZONS, losses) == 400
    assert horizon_for(1.1, 2, HORIZONS, losses) == 50


def test_an_optimizer_compared_with_itself_has_speed_up_one_for_every_choice_of_seeds():
    losses = np.random.default_rng(1).uniform(1, 2, size=(5, 4))
    np.testing.assert_array_equal(speed_ups(losses[2], 100, HORIZONS, losses), 1.0)


def test_a_profile_counts_tasks_within_a_factor_of_the_best():
    losses = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, np.nan]])
    shares = profile(losses, np.array([1.0, 1.9, 2.0]))
    np.testing.assert_allclose(shares, [[2 / 3, 2 / 3, 1.0], [1 / 3, 1 / 3, 2 / 3]])


def test_a_target_is_reached_between_two_points():
    steps = np.array([0.0, 10.0, 20.0])
    assert first_reached(steps, np.array([4.0, np.nan, 1.0]), 2.0) == 20
    assert first_reached(steps, np.array([4.0, 3.0, 1.0]), 2.0) == pytest.approx(15)
    assert first_reached(steps, np.array([4.0, 3.0, 1.0]), 0.5) is None


def valley():
    """A badly conditioned bowl without noise, on which longer runs end lower by a power of their length."""

    def loss(params, batch, config):
        return 1e-3 + 0.5 * jnp.sum(CURVATURE * (params["w"] - 5 * config["target"] - batch) ** 2)

    return family("valley", loss=loss)


def twice(weights, setting, total_steps):
    """Two AdamW steps in one: the second gradient follows from the known curvature."""
    inner = optax.adamw(schedule(setting, 2 * total_steps), weight_decay=setting.weight_decay)

    def update(grads, state, params):
        first, state = inner.update(grads, state, params)
        grads = jax.tree.map(lambda g, u: g + CURVATURE * u, grads, first)
        second, state = inner.update(grads, state, optax.apply_updates(params, first))
        return jax.tree.map(jnp.add, first, second), state

    return optax.GradientTransformation(inner.init, update)


def test_optimizers_of_known_speed_are_measured_as_that(tmp_path):
    adamw = baseline("adamw")
    protocol = Protocol(steps=60, stretched=("adamw",))
    results, _ = evaluate({"valley": valley()}, [adamw], protocol, tmp_path)
    best = Setting(*results[0].setting)

    def fixed(name, setting):
        def build(weights, _, total_steps):
            return adamw.build(weights, setting, total_steps)

        return Optimizer(name, build, fingerprint=name, learned=True)

    candidates = [
        fixed("itself", best),
        fixed("half", best._replace(rate=best.rate / 2)),
        dataclasses.replace(adamw, name="twice", build=twice, fingerprint="twice", learned=True),
    ]
    results, outcome = evaluate({"valley": valley()}, [*candidates, adamw], protocol, tmp_path)
    assert not outcome.failures
    speed = {pair.optimizer: pair.speed_up for pair in comparisons(results)}
    assert speed["itself"].value == pytest.approx(1.0, abs=1e-3)
    low, high = np.quantile(speed["itself"].samples, [0.025, 0.975])
    assert low <= 1.0 + 1e-3
    assert high >= 1.0 - 1e-3
    assert speed["half"].value < 1.0
    assert speed["twice"].value == pytest.approx(2.0, abs=0.15)
