"""Masks, densities and the laws that frequencies are drawn from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.flt import GaussianMixture, LocalWindow, LorentzianMixture, ShiftInvariant, Spectrum
from learned_opt.flt.spectrum import student_density

from .common import ALL, arrays, spectra

NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def half_line(edge: float, pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre quadrature of [0, edge] in pieces."""
    step = edge / pieces
    starts = np.arange(pieces)[:, None] * step
    return (starts + (NODES + 1) * step / 2).ravel(), np.tile(WEIGHTS * step / 2, pieces)


@pytest.mark.parametrize(("name", "dimension"), ALL)
def test_the_density_is_the_fourier_transform_of_the_mask(name, dimension):
    """By quadrature over lags, where every mask decays; radially in the plane: masks have cusps at 0."""
    spectrum = spectra(dimension)[name]
    xi = np.array([[0.0], [0.2], [-0.7], [1.9]]) * np.linspace(1.0, 0.6, dimension)
    radius, weight = half_line(45.0, 90)
    if dimension == 1:
        angle = np.array([0.0, np.pi])
    else:
        angle = np.arange(400) * 2 * np.pi / 400
        weight = weight * radius * 2 * np.pi / 400
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=-1)[:, :dimension]
    lags = radius[:, None, None] * directions
    mask, density = jax.jit(lambda s: (s.mask(lags), s.density(xi)))(spectrum)
    for point, found in zip(xi, density, strict=True):
        expected = np.einsum("r,ra,ra->", weight, mask, np.cos(2 * np.pi * lags @ point))
        np.testing.assert_allclose(found, expected, atol=1e-9)


def learned(spectrum: Spectrum) -> Spectrum:
    """The spectrum after some learning: every leaf has moved."""
    return jax.tree.map(lambda leaf: 1.7 * leaf + 0.1, spectrum)


@pytest.mark.parametrize(
    ("name", "dimension"), [(name, 1 + 2 * (name != "lorentzian")) for name in spectra(1)]
)
def test_frequencies_estimate_the_mask(name, dimension):
    """Within four standard errors, also the mask of a spectrum learned at frequencies drawn before."""
    drawn_from = spectra(dimension)[name]
    frequencies = drawn_from.sample(jax.random.key(3), 100_000)
    lags = np.array([[0.0], [0.3], [-1.1]]) * np.linspace(1.0, -0.5, dimension)
    for spectrum in (drawn_from, learned(drawn_from)):
        density, mask = jax.jit(lambda s: (s.density(frequencies.xi), s.mask(lags)))(spectrum)
        terms = np.asarray(density / frequencies.density) * np.cos(2 * np.pi * lags @ frequencies.xi.T)
        error = np.mean(terms, axis=1) - mask
        assert np.all(np.abs(error) <= 4 * np.std(terms, axis=1) / 100_000**0.5 + 1e-12)


@pytest.mark.parametrize(("name", "dimension"), [(name, 1 + (name != "lorentzian")) for name in spectra(1)])
def test_the_law_dominates_the_density_wherever_it_is_learned_to(name, dimension):
    """Along rays g / p does not grow: far out it is at most what it is near by."""
    drawn_from = spectra(dimension)[name]
    spectrum = learned(drawn_from)
    rays = np.geomspace(1e-2, 1e7, 4000)[:, None] * np.linspace(0.3, 1.0, dimension)

    @jax.jit
    def size(spectrum, drawn_from):
        means, scales, freedom = drawn_from._law()
        law = jnp.mean(student_density(rays, means, scales, freedom), axis=-1)
        return jnp.abs(spectrum.density(rays) / law)

    ratio = np.asarray(size(spectrum, drawn_from))
    assert ratio[rays[:, 0] > 20].max() <= 1.01 * ratio[rays[:, 0] < 20].max() < 40


def test_a_density_drawn_from_itself_has_weights_without_variance():
    for kernel in ("laplace", "matern32", "matern52"):
        spectrum = ShiftInvariant(*arrays(0.6, [0.8, 2.0]), kernel)
        frequencies = spectrum.sample(jax.random.key(0), 50)
        np.testing.assert_allclose(spectrum.density(frequencies.xi) / frequencies.density, 0.6, rtol=1e-10)


def test_the_bump_sets_the_edges_of_a_window():
    spectrum = LocalWindow(*arrays(2.0, [1.0], [0.01]))
    np.testing.assert_allclose(spectrum.mask(np.array([[0.0], [0.9], [1.0], [1.1]])), [2, 2, 1, 0], atol=1e-9)


@pytest.mark.parametrize("name", spectra(1))
def test_no_gradient_flows_into_frequencies_but_into_every_leaf(name):
    @jax.jit
    def gradients(spectrum):
        into_draws = jax.grad(lambda s: jnp.sum(s.sample(jax.random.key(0), 5).xi))(spectrum)
        weights = jnp.array([1.0, 2.0])  # one of the lags is 0, where a distance has no derivative
        into_mask = jax.grad(lambda s: weights @ s.mask(jnp.array([[0.0], [0.5]])))(spectrum)
        return into_draws, into_mask

    into_draws, into_mask = gradients(spectra(1)[name])
    assert all(not leaf.any() for leaf in jax.tree.leaves(into_draws))
    assert all(jnp.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(into_mask))


def test_a_spectrum_may_hold_gradients():
    """Checked when used, not when built: a tree of negative rates is a legitimate gradient."""
    spectrum = spectra(1)["lorentzian"]
    negative = jax.tree.map(jnp.negative, spectrum)
    with pytest.raises(ValueError, match=r"LorentzianMixture.rate = .*expected positive values"):
        negative.density(jnp.zeros((1, 1)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ShiftInvariant(*arrays(1.0, [1.0]), "rbf"), ValueError, "kernel = 'rbf': expected gaussian"),
        (lambda: ShiftInvariant(1.0, jnp.ones(1)).mask(jnp.ones((2, 1))), TypeError, "weight = 1.0"),
        (
            lambda: ShiftInvariant(jnp.ones(()), jnp.ones(1, int)).mask(jnp.ones((2, 1))),
            TypeError,
            "floating-point",
        ),
        (lambda: spectra(2)["local"].mask(jnp.ones((4, 3))), ValueError, r"lags has shape \(4, 3\): .* 2\]"),
        (lambda: spectra(1)["local"].density(jnp.ones(())), ValueError, r"xi has shape \(\)"),
        (lambda: spectra(1)["local"].sample(jax.random.key(0), 0), ValueError, "number = 0"),
        (
            lambda: dataclasses.replace(spectra(1)["local"], bump=jnp.zeros(1)).mask(jnp.ones((2, 1))),
            ValueError,
            "LocalWindow.bump",
        ),
        (
            lambda: GaussianMixture(*arrays([jnp.nan], [[0.0]], [1.0])).sample(jax.random.key(0), 2),
            ValueError,
            "finite",
        ),
        (
            lambda: LorentzianMixture(*arrays([1.0], [1.0, 2.0], [0.0], [0.0])).sample(jax.random.key(0), 2),
            ValueError,
            r"LorentzianMixture.rate has shape \(2,\): expected \(1,\)",
        ),
        (
            lambda: GaussianMixture(*arrays([1.0], [0.0], [1.0])).mask(jnp.ones((2, 1))),
            ValueError,
            r"GaussianMixture.mean has shape \(1,\)",
        ),
    ],
)
def test_bad_spectra_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
