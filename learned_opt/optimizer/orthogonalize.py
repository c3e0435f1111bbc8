"""Orthogonalisation of matrices: the nearest semi-orthogonal matrix, by a few matrix products."""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

# Odd polynomials (a, b, c) of degree 5, a x + b x^3 + c x^5, in turn. Each is as near to 1 as it can
# be on the interval that the one before leaves, the first on [LOWEST, 1]: the greedy choice, which is optimal
# (Amsel, Persson, Musco, Gower, "The Polar Express", arXiv 2505.16932). Intervals are longer by SAFETY at the
# upper end, so that rounding does not leave them. tests/learned_opt/test_orthogonalize.py computes them anew.
SAFETY = 1.01
LOWEST = 3e-3  # in units of the bound of the singular values
POLYNOMIALS = (
    (8.301928846, -24.04242806, 17.4699418),
    (4.00780067, -2.926616078, 0.5425066648),
    (3.489622391, -2.565411196, 0.5028035439),
    (2.497349901, -1.812577068, 0.4217034879),
)
# A long matrix meets two polynomials at once, multiplied with each other, which takes fewer operations. With
# fewer bits of mantissa than TF32 has, some singular values would reach 1.6.
LONG = 2  # columns over rows
PRECISE = 10  # bits
LARGE = 1 << 16  # elements of a matrix from which on a CPU multiplies one after the other faster than a batch


def polar_factor(x: jax.Array, operands: jnp.dtype | None = None) -> jax.Array:
    """Approximate polar factor of each matrix.

    The singular values are divided by a bound of the largest, (sum of their eighth powers)^(1/8), which is
    the Frobenius norm of (x x^T)^2 to the power 1/4: the first polynomial has that product anyway. In this
    unit those from LOWEST to 1 go to 1 up to 0.22, smaller ones to less. The singular vectors stay.

    Args:
      x: [..., a, b] floating point, a <= b for speed. A zero matrix gives zero, one that is not finite NaN.
      operands: what the factors of matrix products are rounded to; the sums keep the dtype of x. None rounds
        nothing.

    Returns:
      An array of the shape and dtype of x.
    """
    narrow = x.dtype if operands is None else operands

    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.matmul(left.astype(narrow), right.astype(narrow), preferred_element_type=x.dtype)

    def turned(gram: jax.Array, factor: jax.Array) -> jax.Array:  # of factor x, from that of x
        return product(product(factor, gram), factor)

    identity = jnp.eye(x.shape[-2], dtype=x.dtype)
    norm = jnp.sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True))
    x = x / jnp.where(norm > 0, norm, 1.0)  # neither overflows nor vanishes under a power of 8
    gram = product(x, jnp.swapaxes(x, -1, -2))
    square = product(gram, gram)
    fourth = jnp.sqrt(jnp.sum(square * square, axis=(-2, -1), keepdims=True))
    scale = jax.lax.rsqrt(jnp.sqrt(jnp.where(fourth > 0, fourth, 1.0)))
    gram, square, x = scale**2 * gram, scale**4 * square, scale * x
    pair = x.shape[-1] >= LONG * x.shape[-2] and jnp.finfo(narrow).nmant >= PRECISE
    factor: jax.Array | None = None  # of the polynomials that x has not met
    for index, (a, b, c) in enumerate(POLYNOMIALS):
        if index > 0:
            gram = product(x, jnp.swapaxes(x, -1, -2)) if factor is None else turned(gram, factor)
            square = product(gram, gram)
        step = a * identity + b * gram + c * square
        factor = step if factor is None else product(step, factor)
        if not pair or index % 2 == 1:
            x, factor = product(factor, x), None
    return x


def orthogonalize(
    matrices: Sequence[jax.Array], operands: Sequence[jnp.dtype | None] | None = None
) -> list[jax.Array]:
    """Polar factors of many stacks of matrices, equal shapes in one batch, the smaller side inside.

    Args:
      matrices: arrays [n_i, a_i, b_i].
      operands: for each of them what a GPU rounds the factors of its products to; None rounds nothing.

    Returns:
      Arrays of the same shapes and dtypes.
    """
    wide = [x if x.shape[-2] <= x.shape[-1] else jnp.swapaxes(x, -1, -2) for x in matrices]
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, (x, narrow) in enumerate(zip(wide, operands or [None] * len(wide), strict=True)):
        groups[x.shape[-2:], x.dtype, narrow].append(index)
    factors: list[jax.Array] = list(wide)
    for (*_, narrow), members in groups.items():
        batch = _polar_factors(jnp.concatenate([wide[i] for i in members]), narrow)
        start = 0
        for i in members:
            factors[i] = batch[start : start + wide[i].shape[0]]
            start += wide[i].shape[0]
    pairs = zip(matrices, factors, strict=True)
    return [y if x.shape == y.shape else jnp.swapaxes(y, -1, -2) for x, y in pairs]


def _polar_factors(batch: jax.Array, operands: jnp.dtype | None) -> jax.Array:
    large = len(batch) > 1 and math.prod(batch.shape[1:]) >= LARGE
    on_cpu = partial(jax.lax.map, polar_factor) if large else polar_factor
    if operands is None and not large:
        return polar_factor(batch)
    return jax.lax.platform_dependent(batch, cpu=on_cpu, default=partial(polar_factor, operands=operands))
