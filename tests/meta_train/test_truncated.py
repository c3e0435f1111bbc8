"""Truncated estimators, on inner loops whose meta-gradient is known."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from learned_opt import untrained
from meta_train.config import CHUNK, NETWORK_SIGMA, NoiseName
from meta_train.devices import Population
from meta_train.estimators import ESTIMATORS, Keys
from meta_train.estimators.base import differences
from meta_train.outer import train
from meta_train.unroll import Run, Score, objective

from .bowls import assert_same_run, run_of, saved
from .fakes import family as bowl
from .tiny import OPTIMIZER, settings

SIZE, TRUNCATIONS = 3, 4
HORIZON = TRUNCATIONS * CHUNK
PAIRS = 510  # whole blocks of SIZE
WEIGHTS = (0.0, 0.0, 1.0)
THETA = {"rule": {"toy": jnp.asarray([0.3, -0.2, 0.5])}}
DRIVE = jnp.asarray(np.random.default_rng(1).normal(size=(2, SIZE)), jnp.float32)
CONFIG = settings(horizons=(HORIZON, HORIZON), truncation=CHUNK, anytime=0.0, objective=WEIGHTS)


class Toy(NamedTuple):
    """x <- memory x + DRIVE theta, once a chunk; the loss is the squared distance to the member's target."""

    memory: float = 0.8
    bent: float = 0.0  # weight of a loss that is even in theta

    def start(self, theta: Any, key: jax.Array, data: Any) -> Run:
        return Run(jnp.zeros(2), (), jnp.zeros((), jnp.int32), jnp.ones(()))

    def train(
        self, theta: Any, run: Run, key: Any, steps: jax.Array, told: Any, data: Any, chunks: int
    ) -> tuple[Run, Score]:
        values = theta["rule"]["toy"]
        target = jax.random.normal(key, (2,))

        def chunk(number: Any, carry: tuple) -> tuple[jax.Array, jax.Array]:
            x, score = carry
            x = self.memory * x + DRIVE @ values
            loss = jnp.sum((x - target) ** 2) * (1 - self.bent) + self.bent * jnp.sum(values**2)
            return x, score + jnp.where(run.step + number * CHUNK < steps, loss, 0.0)

        x, score = jax.lax.fori_loop(0, chunks, chunk, (run.params, jnp.zeros(())))
        return run._replace(params=x, step=run.step + chunks * CHUNK), Score(
            jnp.zeros(()), jnp.zeros(()), score * CHUNK / steps
        )

    def valid(self, run: Run, key: jax.Array, data: Any) -> jax.Array:
        return jnp.zeros(())


def score_of(values: jax.Array, target: jax.Array, truncated: bool) -> jax.Array:
    """Mean loss of a whole run of the toy; `truncated` cuts gradients between truncations."""
    x, total = jnp.zeros(2), 0.0
    for _ in range(TRUNCATIONS):
        x = 0.8 * (jax.lax.stop_gradient(x) if truncated else x) + DRIVE @ values
        total += jnp.sum((x - target) ** 2)
    return total / TRUNCATIONS


@functools.cache
def estimates(name: str, memory: float = 0.8, rounds: int = 3, noise: NoiseName = "gaussian") -> np.ndarray:
    """Raw estimates of sigma times the meta-gradient of a whole run, [steps, pairs, SIZE]."""
    config = dataclasses.replace(CONFIG, pairs=PAIRS, noise=noise)
    estimator = ESTIMATORS[name](bowl(), config, THETA, inner=Toy(memory))
    evaluate = jax.jit(estimator.evaluate)
    workers, found = estimator.workers(PAIRS, None), []
    flat = ravel_pytree(THETA)[0]
    for step in range((1 + rounds) * TRUNCATIONS):
        members, keys = (jnp.arange(PAIRS), workers), Keys.of(0, step, 0)
        scores, workers = evaluate(flat, members, keys, jnp.int32(CHUNK), None)
        if step >= TRUNCATIONS:  # first runs are cut, later ones go through all truncations equally often
            found.append(differences(scores, WEIGHTS)[:, None] / 2 * workers.direction)
    return TRUNCATIONS * np.stack(found)


def truth(truncated: bool) -> np.ndarray:
    """Sigma times the mean meta-gradient: linear in the target, whose mean is zero."""
    values = THETA["rule"]["toy"]
    return NETWORK_SIGMA * np.asarray(jax.grad(score_of)(values, jnp.zeros(2), truncated))


def of_blocks(found: np.ndarray) -> np.ndarray:
    """Means over SIZE pairs after another, which orthogonal noise makes dependent, [..., blocks, SIZE]."""
    return found.reshape(*found.shape[:-2], -1, SIZE, SIZE).mean(-2)


def errors(found: np.ndarray, truncated: bool) -> np.ndarray:
    """Distance of estimates [pairs, SIZE] from the truth, in standard errors."""
    blocks = of_blocks(found)
    return (blocks.mean(0) - truth(truncated)) / (blocks.std(0) / np.sqrt(len(blocks)))


@pytest.mark.parametrize(
    ("name", "noise"), [("pes", "gaussian"), ("pes", "orthogonal"), ("nres", "gaussian")]
)
def test_persistent_estimators_are_unbiased(name: str, noise: NoiseName) -> None:
    assert np.abs(errors(estimates(name, noise=noise).mean(0), truncated=False)).max() < 4.0


@pytest.mark.parametrize("noise", ["gaussian", "orthogonal"])
def test_truncated_es_is_biased_as_theory_says(noise: NoiseName) -> None:
    found = estimates("truncated-es", noise=noise).mean(0)

    assert np.abs(errors(found, truncated=True)).max() < 4.0
    assert np.abs(errors(found, truncated=False)).max() > 8.0


def test_orthogonal_noise_makes_truncated_es_less_noisy() -> None:
    """Not `pes`, where products of different steps' noise dominate, which it leaves as they are."""
    found = (of_blocks(estimates("truncated-es", noise=noise)) for noise in get_args(NoiseName))
    gaussian, orthogonal = (blocks.var((0, 1)).sum() for blocks in found)

    assert orthogonal < 0.95 * gaussian


@pytest.mark.parametrize("noise", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("truncations", [(25, 25, 50), (25, 100), (50, 75)])
def test_pes_is_unbiased_while_truncations_grow(noise: NoiseName, truncations: tuple[int, ...]) -> None:
    """All begin a run of HORIZON steps at the first; the last takes 25 more, which do not count."""
    config = dataclasses.replace(CONFIG, pairs=PAIRS, noise=noise)
    estimator, flat = ESTIMATORS["pes"](bowl(), config, THETA, inner=Toy()), ravel_pytree(THETA)[0]
    evaluate, found = jax.jit(estimator.evaluate), []
    for seed in range(4):
        # The second members: runs of the first ones are cut.
        workers = estimator.workers(PAIRS, None)._replace(episode=jnp.ones(PAIRS, jnp.int32))
        for step, truncation in enumerate(truncations):
            members, keys = (jnp.arange(PAIRS), workers), Keys.of(seed, step, 0)
            scores, workers = evaluate(flat, members, keys, jnp.int32(truncation), None)
            found.append(differences(scores, WEIGHTS)[:, None] / 2 * workers.direction)
        np.testing.assert_array_equal(workers.steps, HORIZON)
        np.testing.assert_array_equal(workers.runs.step, sum(truncations))

    assert np.abs(errors(np.stack(found).sum(0) / 4, truncated=False)).max() < 4.0


def test_reusing_noise_makes_outer_steps_less_noisy_than_persistent_noise() -> None:
    """The less of a step is remembered, the more so; with a perfect memory they are alike."""
    variances = [estimates(name, memory=0.3).var((0, 1)).sum() for name in ("nres", "pes")]

    assert variances[0] < 0.85 * variances[1]


@pytest.mark.parametrize("name", ["truncated-es", "pes", "nres"])
def test_what_is_even_in_the_perturbation_cancels_exactly(name: str) -> None:
    nothing = jax.tree.map(jnp.zeros_like, THETA)
    estimator = ESTIMATORS[name](bowl(), CONFIG, nothing, inner=Toy(bent=1.0))
    members = jnp.arange(8), estimator.workers(8, None)

    scores, _ = estimator.evaluate(jnp.zeros(SIZE), members, Keys.of(0, 1, 0), jnp.int32(CHUNK), None)

    np.testing.assert_array_equal(differences(scores, WEIGHTS), 0.0)
    assert (np.asarray(scores.mean) > 0).all()


@pytest.mark.slow
def test_backpropagation_is_the_gradient_of_the_unroll() -> None:
    theta, _ = untrained(OPTIMIZER, jax.random.key(3))
    weights = (0.5, 0.3, 0.2)
    config = settings(truncation=50, horizons=(50, 50), anytime=0.0, objective=weights)
    family, flat = bowl(noise=0.3), ravel_pytree(theta)[0]
    estimator = ESTIMATORS["backprop"](family, config, theta)
    data, keys = family.data(), Keys.of(0, 0, 0)
    # The second member: the first one's run is cut.
    workers = estimator.workers(1, data)._replace(episode=jnp.ones(1, jnp.int32))

    _, after = jax.jit(estimator.evaluate)(flat, (jnp.arange(1), workers), keys, jnp.int32(0), data)

    key = jax.random.split(jax.random.fold_in(jax.random.fold_in(keys.run, 0), 2), 3)[0]

    def loss(values: jax.Array) -> jax.Array:
        inner = estimator._inner
        run = inner.start(estimator._unravel(values), key, data)
        arguments = key, jnp.int32(50), jnp.asarray(True), data, 2
        run, score = inner.train(estimator._unravel(values), run, *arguments)
        return objective(score._replace(valid=inner.valid(run, key, data)), weights)

    expected = np.asarray(jax.jit(jax.grad(loss))(flat) * estimator._sigma)
    assert np.linalg.norm(expected) > 1e-4
    np.testing.assert_allclose(after.direction[0], expected, atol=1e-5 * np.linalg.norm(expected))


def test_backpropagation_counts_every_pair_equally_and_leaves_out_what_is_not_finite() -> None:
    estimator = ESTIMATORS["backprop"](bowl(), CONFIG, THETA, inner=Toy())
    directions = jnp.asarray([[1.0, 0, 0], [0, 1e6, 0], [0, 0, 0.5], [jnp.nan, 1.0, 1.0]])

    found = estimator.gradient(Score(*[jnp.zeros((4, 2))] * 3), directions, Keys.of(0, 0, 0))

    np.testing.assert_allclose(found, np.asarray([1.0, 1.0, 0.5]) * (3 / 4) ** 0.5, rtol=1e-6)


def test_workers_of_several_devices_are_those_of_one() -> None:
    estimator = ESTIMATORS["pes"](bowl(), CONFIG, THETA, inner=Toy())
    flat, results = ravel_pytree(THETA)[0], []
    for count in (1, 2):
        population = Population(estimator.evaluate, 8, jax.local_devices()[:count], piece=2)
        workers = population.placed(estimator.workers(8, None))
        for step in range(6):
            keys = Keys.of(0, step, 0)
            scores, workers = population(flat, keys, jnp.int32(CHUNK), None, workers=workers)
        results.append(jax.device_get((scores, population.gathered(workers))))

    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        *({"estimator": name} for name in ESTIMATORS if name != "es"),
        {"network_estimator": "nres"},
        {"family_estimators": (("bowl", "pes"),), "last_truncation": 75, "noise": "orthogonal"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_a_run_goes_on_bit_for_bit(changes: dict[str, Any], tmp_path: Path, bowls_in_suites: None) -> None:
    config = run_of(truncation=25, **changes)
    train(config, tmp_path / "whole")
    for _ in range(config.steps):
        train(config, tmp_path / "pieces", time_limit_minutes=1e-9)

    whole, pieces = (saved(tmp_path / each, config) for each in ("whole", "pieces"))
    episodes = whole.workers["bowl"][0] if config.network_estimator else whole.workers["bowl"]
    assert int(episodes.episode.max()) >= 2
    assert_same_run(whole, pieces)
