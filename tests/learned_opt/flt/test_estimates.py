"""Random encodings and features: unbiased, with errors that fall as the square root of their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.flt import Elu, FavorPlus, GaussianMixture, Relu, encode
from learned_opt.flt.encoding import SOFTENING

from .common import arrays, spectra

KEYS = jax.random.split(jax.random.key(0), 300)
R = np.array([[0.0], [0.4], [1.3]])
X = np.array([[0.5, -0.2, 0.1], [-0.3, 0.6, 0.2]])


def assert_unbiased(samples: jax.Array, expected: np.ndarray) -> None:
    samples = np.asarray(samples)
    error = np.mean(samples, axis=0) - expected
    assert np.all(np.abs(error) <= 4 * np.std(samples, axis=0) / len(samples) ** 0.5 + 1e-12)


def exponent(numbers: list[int], errors: list[float]) -> float:
    return float(np.polyfit(np.log(numbers), np.log(errors), 1)[0])


def masks(name: str, number: int) -> jax.Array:
    """N^ of many draws."""
    spectrum = spectra(1)[name]

    @jax.jit
    @jax.vmap
    def estimate(key):
        sides = encode(jnp.asarray(R), spectrum, spectrum.sample(key, number))
        return sides.query @ sides.key.T

    return estimate(KEYS)


@pytest.mark.parametrize("name", spectra(1))
def test_encodings_estimate_the_mask(name):
    expected = jax.jit(lambda spectrum: spectrum.mask(R[:, None] - R))(spectra(1)[name])
    assert_unbiased(masks(name, 32), expected)


def test_the_error_of_the_mask_falls_with_the_root_of_the_number_of_frequencies():
    expected, numbers = spectra(1)["local"].mask(R[:, None] - R), [16, 64, 256]
    errors = [float(jnp.sqrt(jnp.mean((masks("local", n) - expected) ** 2))) for n in numbers]
    assert abs(exponent(numbers, errors) + 0.5) < 0.1


def test_encodings_depend_on_differences_of_positions_and_are_as_short_as_they_can_be():
    spectrum = spectra(1)["gaussian mixture"]
    frequencies = spectrum.sample(jax.random.key(0), 50)
    here, there = (encode(jnp.asarray(R + shift), spectrum, frequencies) for shift in (0.0, 12.3))
    np.testing.assert_allclose(here.query @ here.key.T, there.query @ there.key.T, atol=1e-12)
    ratio = spectrum.density(frequencies.xi) / frequencies.density
    for side in here:
        squares = np.sum(side**2, axis=-1)
        assert np.all(np.abs(squares - np.mean(np.abs(ratio))) <= SOFTENING)
    np.testing.assert_allclose(here.query @ here.query.T, here.key @ here.key.T, atol=SOFTENING)


def test_a_weight_can_be_learned_from_zero():
    """The mask is linear in the weights; a root of |g| would have an infinite derivative at 0, or none."""
    spectrum = GaussianMixture(*arrays([0.0], [[0.4]], [0.3]))
    frequencies = spectrum.sample(jax.random.key(0), 20)

    def estimate(weight):
        sides = encode(jnp.asarray(R), GaussianMixture(weight, spectrum.mean, spectrum.scale), frequencies)
        return sides.query @ sides.key.T

    slope = jax.jit(jax.jacobian(estimate))(jnp.zeros(1))[..., 0]
    np.testing.assert_allclose(slope, estimate(jnp.ones(1)), atol=1e-12)


def products(kernel) -> jax.Array:
    """Phi(x).Phi(y) of many draws."""

    @jax.jit
    @jax.vmap
    def estimate(key):
        phi = kernel(jnp.asarray(X), kernel.projection(key, X.shape[1]))
        features = phi.values * jnp.exp(phi.log_scale)[:, None]
        return features @ features.T

    return estimate(KEYS)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("hyperbolic", [True, False])
def test_positive_features_estimate_the_exponential(orthogonal, hyperbolic):
    kernel = FavorPlus(32, orthogonal, hyperbolic)
    assert_unbiased(products(kernel), np.exp(X @ X.T))


def test_positive_features_estimate_the_exponential_of_lifted_queries_and_keys():
    """Given the frequencies, Phi(q^) Phi(k^)^T is an unbiased estimate of exp(q^ k^T)."""
    spectrum, kernel = spectra(1)["gaussian mixture"], FavorPlus(32)
    sides = encode(jnp.asarray(R), spectrum, spectrum.sample(jax.random.key(1), 10))

    @jax.jit
    @jax.vmap
    def estimate(key):
        projection = kernel.projection(key, 20)
        queries, keys = (kernel(side, projection) for side in sides)
        scale = jnp.exp(queries.log_scale[:, None] + keys.log_scale)
        return queries.values @ keys.values.T * scale

    assert_unbiased(estimate(KEYS), np.exp(sides.query @ sides.key.T))


def test_rectified_features_estimate_the_arc_cosine_kernel():
    sizes = np.linalg.norm(X, axis=1)
    angle = np.arccos(np.clip(X @ X.T / np.outer(sizes, sizes), -1, 1))
    expected = np.outer(sizes, sizes) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    assert_unbiased(products(Relu(32)), expected)


def test_exponential_linear_features_estimate_an_expectation_over_normal_pairs():
    """By Gauss-Hermite quadrature over the two projections, whose covariance is X X^T."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    pairs = np.linalg.cholesky(X @ X.T) @ np.stack([a.ravel() for a in np.meshgrid(nodes, nodes)])
    values = np.where(pairs > 0, pairs, np.expm1(np.minimum(pairs, 0))) + 1
    expected = np.einsum("p,ip,jp->ij", np.outer(weights, weights).ravel() / (2 * np.pi), values, values)
    assert_unbiased(products(Elu(32)), expected)


@pytest.mark.parametrize("kernel", [FavorPlus, Relu, Elu])
def test_the_error_of_a_weight_falls_with_the_root_of_the_number_of_features(kernel):
    numbers = [16, 64, 256]
    spread = [float(jnp.std(products(kernel(n, orthogonal=False))[:, 0, 1])) for n in numbers]
    assert abs(exponent(numbers, spread) + 0.5) < 0.1


def test_better_features_have_less_variance():
    plain, hyperbolic, orthogonal = (
        float(jnp.var(products(FavorPlus(24, *options))[:, 0, 1]))
        for options in ((False, False), (False, True), (True, True))
    )
    assert orthogonal < 0.8 * hyperbolic < 0.4 * plain


@pytest.mark.parametrize("size", [1e3, 1e-3])
def test_features_of_any_size_are_finite(size):
    x = jnp.asarray(size * X, jnp.float32)
    for kernel in (FavorPlus(8), Relu(8), Elu(8)):
        projection = jnp.asarray(np.random.default_rng(0).normal(size=(kernel.rows, 3)), jnp.float32)
        values, log_scale = kernel(x, projection)
        assert jnp.all(jnp.isfinite(values))
        assert jnp.all(jnp.isfinite(log_scale))
        assert values.dtype == log_scale.dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FavorPlus(7), "features = 7: expected an even number"),
        (lambda: Relu(0), "features = 0: expected at least one"),
    ],
)
def test_bad_numbers_of_features(make, message):
    with pytest.raises(ValueError, match=message):
        make()
