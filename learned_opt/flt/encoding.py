"""Positions as vectors whose inner products estimate the mask of a spectrum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.flt.spectrum import Frequencies, Spectrum

# Where |g / p| is far below this many logits, its root is taken of this instead: it has a derivative at 0.
SOFTENING = 1e-2


class Encodings(NamedTuple):
    """The two sides of an estimated mask: `query @ key.T` is N^.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant, encode
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([2.0]))
      >>> positions = jnp.arange(3.0)[:, None]
      >>> sides = encode(positions, spectrum, spectrum.sample(jax.random.key(0), 8))
      >>> sides.query.shape, sides.key.shape
      ((3, 16), (3, 16))
    """

    query: jax.Array  # [..., L, 2R]
    key: jax.Array  # [..., L, 2R]


def encode(positions: jax.Array, spectrum: Spectrum, frequencies: Frequencies) -> Encodings:
    """Random Fourier features of positions (arXiv 2302.01925).

        N1_i = [a_j cos t_ij, a_j sin t_ij]_j,     N2_i = [b_j cos t_ij, b_j sin t_ij]_j,     t_ij = 2 pi
        r_i.xi_j

    with `a_j b_j = g(xi_j) / (R p(xi_j))`, so that `N1_i.N2_j` is an unbiased estimate of `f(r_i - r_j)`.
    With h = g / p the sizes are `a = (h^2 + e^2)^(1/4) / R^(1/2)` and `b = h / (a R)`, e = 0.01 logits. For
    |h| >> e that is the root of |h| on both sides and its sign on one, which makes both vectors as short as
    they can be (the variance of positive features grows exponentially in their squares). Unlike the root it
    is smooth at h = 0, where a spectrum that takes both signs must be able to pass.

    Args:
      positions: r [..., L, l]. Angles are rounded like `|r.xi|` times the precision of the dtype: in float32
        keep coordinates near 1 (some thousands cost three digits).
      spectrum: g, of dimension l.
      frequencies: drawn from `spectrum.sample`, R of them.

    Returns:
      The encodings [..., L, 2R] as queries and as keys.

    Raises:
      TypeError, ValueError: as `Spectrum.check`; positions whose last axis is not l.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([2.0]), "matern52")
      >>> positions = jnp.array([[0.0], [1.0]])
      >>> sides = encode(positions, spectrum, spectrum.sample(jax.random.key(0), 4096))
      >>> estimate = sides.query @ sides.key.T
      >>> bool(jnp.allclose(estimate, spectrum.mask(positions[:, None] - positions), atol=0.05))
      True
    """
    if positions.ndim < 2 or positions.shape[-1] != spectrum.dimension:
        raise ValueError(
            f"positions has shape {positions.shape}: expected [..., L, {spectrum.dimension}], "
            f"the dimension of {type(spectrum).__name__}"
        )
    if frequencies.xi.shape[1:] != (spectrum.dimension,):
        raise ValueError(
            f"draws.frequencies.xi has shape {frequencies.xi.shape}: expected "
            f"({len(frequencies.xi)}, {spectrum.dimension}), frequencies drawn from such a spectrum"
        )
    ratio = spectrum.density(frequencies.xi) / frequencies.density
    size = (ratio**2 + SOFTENING**2) ** 0.25
    turn = 2 * jnp.pi * jnp.matmul(positions, frequencies.xi.T, precision="highest")
    wave = jnp.concatenate([jnp.cos(turn), jnp.sin(turn)], axis=-1) / jnp.sqrt(ratio.size)
    return Encodings(jnp.tile(size, 2) * wave, jnp.tile(ratio / size, 2) * wave)
