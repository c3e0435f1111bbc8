"""Orthogonalisation of matrices: the nearest semi-orthogonal matrix, by a few matrix products."""

from collections import defaultdict

import jax
import jax.numpy as jnp

# Optimal odd polynomials of degree 5 for singular values in [1e-3, 1], composed: Amsel, Persson, Musco,
# Gower, "The Polar Express" (arXiv 2505.16932), table of the published coefficients.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
SAFETY = 1.01  # every polynomial but the last is applied to x / SAFETY: rounding must not leave its interval


def polar_factor(x: jax.Array) -> jax.Array:
    """Approximate polar factor of each matrix.

    Singular values from 1e-3 of the Frobenius norm to all of it go to [0.84, 1.13]: the first five
    polynomials of the table end there, a sixth would end within 1%.

    Args:
      x: [..., a, b] floating point, a <= b for speed. A zero matrix gives zero.

    Returns:
      An array of the shape and dtype of x.
    """
    norm = jnp.sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True))
    x = x / jnp.where(norm > 0, norm * SAFETY, 1.0)
    last = len(POLAR_EXPRESS) - 1
    for i, (a, b, c) in enumerate(POLAR_EXPRESS):
        s = 1.0 if i == last else SAFETY
        gram = x @ jnp.swapaxes(x, -1, -2)
        x = (a / s) * x + ((b / s**3) * gram + (c / s**5) * gram @ gram) @ x
    return x


def orthogonalize(matrices: list[jax.Array]) -> list[jax.Array]:
    """Polar factors of many stacks of matrices, equal shapes in one batch, the smaller side inside.

    Args:
      matrices: arrays [n_i, a_i, b_i].

    Returns:
      Arrays of the same shapes and dtypes.
    """
    wide = [x if x.shape[-2] <= x.shape[-1] else jnp.swapaxes(x, -1, -2) for x in matrices]
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, x in enumerate(wide):
        groups[x.shape[-2:], x.dtype].append(index)
    factors: list[jax.Array] = list(wide)
    for members in groups.values():
        batch = polar_factor(jnp.concatenate([wide[i] for i in members]))
        start = 0
        for i in members:
            factors[i] = batch[start : start + wide[i].shape[0]]
            start += wide[i].shape[0]
    pairs = zip(matrices, factors, strict=True)
    return [y if x.shape == y.shape else jnp.swapaxes(y, -1, -2) for x, y in pairs]
