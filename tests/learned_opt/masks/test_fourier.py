"""The Fourier-learned mask against its expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.flt import GaussianMixture, ShiftInvariant
from learned_opt.masks import Fourier, masked_attention

PLACES = jnp.linspace(0.0, 3.0, 7)[:, None]
SPECTRUM = ShiftInvariant(jnp.array(0.7), jnp.array([1.5]))
WEAK = ShiftInvariant(
    jnp.array(0.25), jnp.array([1.5])
)  # of a strong one, a few draws make most of the error


def error(number: int) -> float:
    """Root mean square over draws of the mask's relative error, with as many features as frequencies."""
    masks = [
        Fourier.from_positions(PLACES, WEAK, key=jax.random.key(seed), frequencies=number, features=number)
        for seed in range(30)
    ]
    return float(np.sqrt(np.mean([np.square(m.dense() / m.expectation() - 1) for m in masks])))


@pytest.mark.slow
def test_the_mask_tends_to_its_expectation_with_more_draws():
    few, many = error(32), error(256)
    assert many < 0.1
    np.testing.assert_allclose(np.log(many / few) / np.log(8), -0.5, atol=0.1)


def test_the_expectation_is_the_exponential_of_the_closed_form():
    mask = Fourier.from_positions(PLACES, SPECTRUM, key=jax.random.key(0))
    lag = np.abs(np.asarray(PLACES) - np.asarray(PLACES).T)
    np.testing.assert_allclose(
        mask.expectation(), np.exp(SPECTRUM.mask(jnp.asarray(lag)[..., None])), rtol=1e-5
    )
    np.testing.assert_allclose(np.diag(mask.expectation()), np.exp(0.7), rtol=1e-5)


@pytest.mark.slow
def test_every_weight_is_positive_so_attention_is_an_average():
    mask = Fourier.from_positions(PLACES, SPECTRUM, key=jax.random.key(1), frequencies=8, features=8)
    assert np.all(np.asarray(mask.dense()) > 0)
    q, k, v = jax.random.normal(jax.random.key(2), (3, 7, 4))
    attended = masked_attention(q, k, v, mask).values
    assert np.all(attended <= v.max(0) + 1e-5)
    assert np.all(attended >= v.min(0) - 1e-5)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (np.zeros((3, 2)), r"positions has shape \(3, 2\): expected \[L, 1\]"),
        (np.zeros(3), r"positions has shape \(3,\): expected \[L, 1\]"),
        (np.array([[0.0], [np.nan]]), "positions has nan: expected finite numbers"),
    ],
)
def test_positions_must_fit(places, message):
    with pytest.raises(ValueError, match=message):
        Fourier.from_positions(places, SPECTRUM, key=jax.random.key(0))


def test_a_spectrum_that_does_not_fit_is_refused():
    broken = GaussianMixture(jnp.ones(2), jnp.ones((3, 1)), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="expected"):
        Fourier.from_positions(PLACES, broken, key=jax.random.key(0))
