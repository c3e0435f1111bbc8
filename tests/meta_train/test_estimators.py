"""The meta-gradient, on functions of the meta-parameters whose gradient is known."""

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from learned_opt import untrained
from learned_opt.config import FLTConfig, Mode
from meta_train.config import NETWORK_SIGMA, SIGMA, NoiseName
from meta_train.devices import Population
from meta_train.estimators import Keys, base, meta_gradient, pair_scores, perturbation_scale
from meta_train.estimators import full as estimators
from meta_train.estimators.base import CLIP, QUIET
from meta_train.unroll import Score

from .fakes import family as bowl
from .tiny import OPTIMIZER, settings

SIZE = 6
WEIGHTS = (0.5, 0.3, 0.2)
THETA, _ = untrained(OPTIMIZER, jax.random.key(3))

RANDOM = np.random.default_rng(0)
HALF = RANDOM.normal(size=(SIZE, SIZE))
CURVATURE = jnp.asarray(HALF @ HALF.T, jnp.float32)
POINT = jnp.asarray(RANDOM.normal(size=SIZE), jnp.float32)
GRADIENT = np.asarray(CURVATURE @ POINT)
SIGMA_OF_TEST = 1e-2


def quadratic(x: jax.Array) -> jax.Array:
    return 0.5 * x @ CURVATURE @ x


def scores_of(values: Any) -> Score:
    """Scores [pairs, 2] whose objective is `values`: the parts differ, their weighted sum is known."""
    values = jnp.asarray(values, jnp.float32)
    return Score(values + 0.3, values - 0.5, values)


def perturbations(keys: Keys, pairs: int, size: int = SIZE, kind: NoiseName = "gaussian") -> jax.Array:
    return base.perturbations(keys.noise, jnp.arange(pairs), size, pairs, kind)


def estimates(
    function: Any, pairs: int, repeats: int, kind: NoiseName = "gaussian"
) -> tuple[np.ndarray, np.ndarray]:
    """Meta-gradients [repeats, SIZE] at POINT, and root mean squares of their differences [repeats, 1]."""

    def one(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = Keys.of(0, step, 0)
        shifts = SIGMA_OF_TEST * perturbations(keys, pairs, kind=kind)
        values = jax.vmap(lambda e: jnp.stack([function(POINT + e), function(POINT - e)]))(shifts)
        difference = values[:, 0] - values[:, 1]
        scale = jnp.sqrt(jnp.mean(difference**2)) + QUIET
        return meta_gradient(scores_of(values), keys, SIZE, WEIGHTS, kind), scale[None]

    found = jax.jit(jax.vmap(one))(jnp.arange(repeats))
    return np.asarray(found[0]), np.asarray(found[1])


def within_four_errors(samples: np.ndarray, truth: np.ndarray) -> None:
    error = samples.std(axis=0) / np.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(samples.mean(axis=0) - truth), 4 * error)


def test_unbiased_where_nothing_is_clipped() -> None:
    """With CLIP**2 pairs no normalised difference can be clipped; undoing the rest leaves the gradient."""
    pairs, variances = int(CLIP**2), []
    for kind in get_args(NoiseName):
        found, scale = estimates(quadratic, pairs, 4000, kind)
        undone = found * scale / (2 * SIGMA_OF_TEST * np.sqrt(pairs))
        within_four_errors(undone, GRADIENT)
        variances.append(undone.var(0).sum())

    assert variances[1] < variances[0]  # orthogonal less than Gaussian


def test_orthogonal_noise_is_so_in_blocks_and_normal_for_each_pair() -> None:
    draw = jax.jit(jax.vmap(lambda step: perturbations(Keys.of(0, step, 0), 14, kind="orthogonal")))
    drawn = np.asarray(draw(jnp.arange(500)))
    lengths = np.linalg.norm(drawn, axis=-1)

    for block in (slice(0, 6), slice(6, 12), slice(12, 14)):
        products = drawn[:, block] @ drawn[:, block].swapaxes(1, 2)
        squares = lengths[:, block, None] ** 2 * np.eye(products.shape[1])
        np.testing.assert_allclose(products, squares, atol=3e-5)
    assert np.abs(drawn[:, 0] @ drawn[0, 6]).max() > 0.1
    number = drawn.size
    assert drawn.mean() == pytest.approx(0.0, abs=4 / np.sqrt(number))
    assert drawn.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / number))
    assert (drawn**4).mean() == pytest.approx(3.0, abs=4 * np.sqrt(96 / number))
    assert (lengths**2).var() == pytest.approx(2 * SIZE, rel=0.2)


@pytest.mark.parametrize("kind", get_args(NoiseName))
def test_a_device_makes_the_same_noise_of_its_share(kind: NoiseName) -> None:
    key, numbers = Keys.of(0, 3, 0).noise, jnp.arange(16)

    def drawn(_: Any, members: jax.Array) -> jax.Array:
        return base.perturbations(key, members, SIZE, 16, kind)

    shares = [Population(drawn, 16, jax.local_devices()[:count])(0.0) for count in (1, 2, 4)]

    for found in shares:
        np.testing.assert_array_equal(found, base.perturbations(key, numbers, SIZE, 16, kind))


def test_parallel_to_the_gradient_with_normalisation_and_clipping() -> None:
    found, _ = estimates(quadratic, pairs=48, repeats=1000)
    direction = GRADIENT / np.linalg.norm(GRADIENT)

    along = found @ direction
    across = found - along[:, None] * direction

    within_four_errors(across, np.zeros(SIZE))
    assert along.mean() > 100 * along.std() / np.sqrt(len(along))


def test_what_both_halves_share_cancels_exactly() -> None:
    keys = Keys.of(1, 2, 3)
    values = jnp.round(jax.random.normal(jax.random.key(0), (8, 2)) * 64) / 1024  # sums of these are exact
    even = jnp.round(jax.random.normal(jax.random.key(1), (8, 1)) * 64) * 2.0
    odd = Score(values, values, values)
    both = Score(values + even, values + even, values + even)
    exact = (0.5, 0.25, 0.25)

    np.testing.assert_array_equal(
        meta_gradient(both, keys, SIZE, exact), meta_gradient(odd, keys, SIZE, exact)
    )
    nothing = Score(*[jnp.broadcast_to(even, (8, 2))] * 3)
    np.testing.assert_array_equal(meta_gradient(nothing, keys, SIZE, exact), np.zeros(SIZE))


def pair_weights(differences: Any) -> np.ndarray:
    """Weight of each pair's noise in the meta-gradient, recovered from it."""
    pairs, size = len(differences), 64
    keys = Keys.of(0, 0, 0)
    values = jnp.stack([jnp.asarray(differences), jnp.zeros(pairs)], axis=1)
    gradient = meta_gradient(scores_of(values), keys, size, WEIGHTS) * np.sqrt(pairs)
    epsilon = np.asarray(perturbations(keys, pairs, size))
    return np.linalg.lstsq(epsilon.T, np.asarray(gradient), rcond=None)[0]


def test_differences_are_divided_by_their_root_mean_square() -> None:
    differences = [0.1, -0.2, 0.3, 0.1, -0.1, 0.2, 0.0, 0.1]

    expected = np.array(differences) / (np.sqrt(np.mean(np.square(differences))) + QUIET)

    np.testing.assert_allclose(pair_weights(differences), expected, atol=1e-4)


def test_the_scale_of_a_family_does_not_matter() -> None:
    differences = np.array([0.1, -0.2, 0.3, 0.1, -0.1, 0.2, 0.0, 0.1])

    np.testing.assert_allclose(pair_weights(3 * differences), pair_weights(differences), rtol=0.01, atol=1e-4)


def test_an_outlier_counts_as_the_clip_and_hardly_silences_the_others() -> None:
    differences = [0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, 1e6]

    found = pair_weights(differences)

    assert found[-1] == pytest.approx(CLIP, abs=1e-3)
    root = np.sqrt(np.mean(np.square(np.clip(differences, -1, 1)))) + QUIET
    np.testing.assert_allclose(found[:-1], np.array(differences[:-1]) / root, atol=1e-3)


def test_rounding_noise_is_not_blown_up() -> None:
    assert np.abs(pair_weights([1e-6, -1e-6, 1e-6, -1e-6])).max() < 1.01e-3


def test_keys_differ_in_seed_step_family_and_use() -> None:
    keys = [Keys.of(seed, step, family) for seed in (0, 1) for step in range(4) for family in range(4)]
    data = {jax.random.key_data(key).tobytes() for each in keys for key in each[:2]}
    of_runs = {jax.random.key_data(each.run).tobytes() for each in keys}

    assert len(data) == 2 * len(keys)
    assert len(of_runs) == 2 * 4  # of seeds and families, the same at every step
    assert not data & of_runs


def test_noise_is_standard_normal_and_differs_between_pairs() -> None:
    drawn = np.asarray(perturbations(Keys.of(0, 0, 0), 64, 512))

    assert len(np.unique(drawn.round(6))) > 0.99 * drawn.size
    assert drawn.mean() == pytest.approx(0.0, abs=4 / np.sqrt(drawn.size))
    assert drawn.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / drawn.size))
    correlation = np.corrcoef(drawn) - np.eye(64)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(512)


def run_with(monkeypatch: pytest.MonkeyPatch, probe: Any, pairs: int, keys: Keys, **changes: Any) -> Score:
    """Scores of a population in which `probe(theta, key, steps, told)` stands for training."""
    monkeypatch.setattr(estimators, "unroll", lambda family, config, theta, *rest: probe(theta, *rest[:3]))
    config = settings(pairs=pairs, **changes)
    flat, _ = ravel_pytree(THETA)
    run = jax.jit(pair_scores(bowl(), config, THETA))
    return run(flat, jnp.arange(pairs), keys, jnp.int32(50), None)


def test_the_noise_that_is_regenerated_is_the_noise_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear function of the meta-parameters is seen with exactly the noise that `meta_gradient` uses."""
    flat, _ = ravel_pytree(THETA)
    sigma, _ = ravel_pytree(perturbation_scale(THETA))
    directions = jax.random.normal(jax.random.key(9), (3, flat.size))
    keys = Keys.of(0, 4, 2)

    scores = run_with(
        monkeypatch, lambda theta, *_: Score(*(directions @ ravel_pytree(theta)[0])), pairs=4, keys=keys
    )

    epsilon = perturbations(keys, 4, flat.size)
    both = jnp.stack([flat + sigma * epsilon, flat - sigma * epsilon], axis=1)
    np.testing.assert_allclose(jnp.stack(scores, axis=-1), both @ directions.T, rtol=1e-5, atol=1e-4)


def test_both_halves_train_the_same_member_under_the_same_conditions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe(theta: Any, key: jax.Array, steps: jax.Array, told: jax.Array) -> Score:
        return Score(jax.random.uniform(key), told.astype(jnp.float32), steps.astype(jnp.float32))

    scores = run_with(monkeypatch, probe, pairs=2000, keys=Keys.of(0, 0, 0), anytime=0.3)

    np.testing.assert_array_equal(scores.valid[:, 0], scores.valid[:, 1])
    np.testing.assert_array_equal(scores.final[:, 0], scores.final[:, 1])
    np.testing.assert_array_equal(scores.mean, 50.0)
    assert len(np.unique(scores.valid)) > 1990  # members differ between pairs
    told = np.asarray(scores.final[:, 0])
    assert told.mean() == pytest.approx(0.7, abs=4 * np.sqrt(0.3 * 0.7 / 2000))


@pytest.mark.parametrize(("anytime", "told"), [(0.0, 1.0), (1.0, 0.0)])
def test_all_or_none_are_told_the_horizon(
    monkeypatch: pytest.MonkeyPatch, anytime: float, told: float
) -> None:
    def probe(theta: Any, key: jax.Array, steps: jax.Array, knows: jax.Array) -> Score:
        return Score(*[knows.astype(jnp.float32)] * 3)

    scores = run_with(monkeypatch, probe, pairs=64, keys=Keys.of(0, 0, 0), anytime=anytime)

    np.testing.assert_array_equal(scores.final, told)


def test_meta_gradient_is_in_units_of_the_perturbation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of theta with slope b is, in these units, one with slope sigma b."""
    flat, _ = ravel_pytree(THETA)
    sigma, _ = ravel_pytree(perturbation_scale(THETA))
    slope = jnp.zeros(flat.size).at[0].set(1.0).at[-1].set(2.0)

    def probe(theta: Any, *_: Any) -> Score:
        return Score(*[slope @ ravel_pytree(theta)[0]] * 3)

    keys = Keys.of(0, 0, 0)
    pairs = 4096
    scores = run_with(monkeypatch, probe, pairs=pairs, keys=keys)
    found = np.asarray(meta_gradient(scores, keys, flat.size, WEIGHTS)) / np.sqrt(pairs)

    truth = np.asarray(sigma * slope)
    direction = truth / np.linalg.norm(truth)
    assert found @ direction / np.linalg.norm(found) > 0.97
    errors = np.abs(found - (found @ direction) * direction) * np.sqrt(pairs)
    assert errors.max() < 5.0  # each coordinate of the rest is noise of variance about 1/pairs


def test_every_meta_parameter_has_the_documented_scale() -> None:
    scale = perturbation_scale(THETA)

    assert jax.tree.structure(scale) == jax.tree.structure(THETA)
    assert scale["flt/~/controller"]["step_law"].shape == THETA["flt/~/controller"]["step_law"].shape
    for group in scale.values():
        for name, values in group.items():
            np.testing.assert_array_equal(values, np.float32(SIGMA.get(name, NETWORK_SIGMA)))


def test_every_name_with_a_scale_is_one_of_a_meta_parameter() -> None:
    modes = (*FLTConfig().modes, Mode("g", 0.9, "complex", 0.1))
    theta, _ = untrained(dataclasses.replace(OPTIMIZER, modes=modes), jax.random.key(0))

    assert set(SIGMA) <= {name for group in theta.values() for name in group}
