"""From the two directions of a leaf to its update."""

import math

import jax
import jax.numpy as jnp

from learned_opt.optimizer.leaf import Leaf, per_tensor, spread
from learned_opt.optimizer.orthogonalize import orthogonalize as polar_factors


def blend(
    leaves: list[Leaf],
    element: list[jax.Array],
    orthogonal: list[jax.Array],
    element_scale: jax.Array,
    share: jax.Array,
    orthogonalize: bool,
) -> list[jax.Array]:
    """`element_scale * element + share * sqrt(fan-out / fan-in) * polar factor of orthogonal`, for each leaf.

    Each part alone changes a layer's output by about the same amount at any width: spectral norm
    sqrt(fan-out / fan-in) (Yang, Simon, Bernstein, "A Spectral Condition for Feature Learning", arXiv
    2310.17813), for the elementwise part RMS 1 / fan-in.
    """
    matrices = [i for i, leaf in enumerate(leaves) if orthogonalize and leaf.is_matrix]
    found = polar_factors([orthogonal[i] for i in matrices], [leaves[i].operands for i in matrices])
    factors = dict(zip(matrices, found, strict=True))
    ratio = per_tensor(leaves, lambda leaf: math.sqrt(leaf.fans[1] / leaf.fans[0]))
    weights = spread((share * ratio).astype(share.dtype), leaves)
    blended = []
    scales = spread(element_scale, leaves)
    for i, (leaf, scale, weight) in enumerate(zip(leaves, scales, weights, strict=True)):
        direction = leaf.row(scale) * element[i]
        if i in factors:
            direction += leaf.row(weight) * factors[i]
        blended.append(direction)
    return blended


def taken(leaf: Leaf, length: jax.Array, direction: jax.Array, weight: jax.Array) -> jax.Array:
    """`length * shrunk(direction, param, weight)` of a leaf; length and weight are [tensors]."""
    arrays = leaf.row(length), direction, leaf.param, leaf.row(weight)
    length, direction, param, weight = map(leaf.bare, arrays)
    return leaf.whole(length * shrunk(direction, param, weight))


def shrunk(direction: jax.Array, param: jax.Array, weight: jax.Array) -> jax.Array:
    """`direction + weight * param` where the signs agree, else `direction`: decay never opposes a step.

    Source: Chen et al., "Cautious Weight Decay" (arXiv 2510.12402). A zero direction stays zero.
    """
    return direction + jnp.where(direction * param > 0, weight * param, 0.0)
