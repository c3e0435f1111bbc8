"""Quotients of sums, and their gradients, where weights are small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.flt import FavorPlus, ShiftInvariant, draw, fourier_attention
from learned_opt.flt.sums import divide


@pytest.mark.parametrize("size", [1.0, 1e-18, 1e-25, 1e-36])
def test_quotients_and_gradients_do_not_depend_on_the_size_of_the_weights(size):
    rows = jnp.array([[3.0, -1.0, 2.0]], jnp.float32)  # two sums and their normaliser

    def outputs(log_scale):
        return divide(size * jnp.exp(log_scale) * rows)

    zero = jnp.zeros(3, jnp.float32)
    np.testing.assert_allclose(outputs(zero), [[1.5, -0.5]], rtol=1e-6)
    slopes = jax.jacrev(outputs)(zero)[0]  # in units of the sums themselves
    np.testing.assert_allclose(slopes, [[1.5, 0, -1.5], [0, -0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_finite_where_queries_and_keys_are_large(causal):
    """Features of large queries and keys hardly overlap: normalisers of 1e-30 are common here."""
    spectrum, kernel = ShiftInvariant(jnp.array(0.5), jnp.array([4.0])), FavorPlus(32)
    draws = draw(jax.random.key(0), spectrum, kernel, head_size=16, frequencies=4)
    q, k, v = jax.random.normal(jax.random.key(1), (3, 64, 16), jnp.float32)
    positions = jnp.arange(64.0)[:, None]

    def loss(q, k, v):
        out = fourier_attention(
            12 * q, 12 * k, v, positions, spectrum, kernel=kernel, draws=draws, causal=causal
        )
        return jnp.sum(out**2)

    for slope in jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v):
        assert np.isfinite(slope).all()
