"""From the two directions of a leaf to its update."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from learned_opt.optimizer.leaf import Leaf, per_tensor, spread
from learned_opt.optimizer.orthogonalize import orthogonalize


def polar_factors(
    leaves: list[Leaf], orthogonal: list[jax.Array], count: jax.Array, every: int
) -> list[jax.Array | None]:
    """Polar factors of the matrices among `orthogonal`; None for other leaves, and for all if `every` is 0.

    They are computed at every `every`-th step; at those between, the factors that the leaves remember are
    taken again. A step that is skipped because something is not finite does not count.
    """
    factors: list[jax.Array | None] = [None] * len(leaves)
    matrices = [i for i, leaf in enumerate(leaves) if every and leaf.is_matrix]

    def computed() -> list[jax.Array]:
        return orthogonalize([orthogonal[i] for i in matrices], [leaves[i].operands for i in matrices])

    def before() -> list[jax.Array]:
        return [leaves[i].factor.astype(orthogonal[i].dtype) for i in matrices]  # type: ignore[union-attr]

    found = computed() if every <= 1 else jax.lax.cond(count % every == 0, computed, before)
    for i, factor in zip(matrices, found, strict=True):
        factors[i] = factor
    return factors


def remembered(leaves: list[Leaf], factors: Sequence[jax.Array | None]) -> list[jax.Array | None]:
    """What each leaf remembers: its factor, or what it had if there is none."""
    pairs = zip(leaves, factors, strict=True)
    return [leaf.factor if factor is None else factor for leaf, factor in pairs]


def blend(
    leaves: list[Leaf],
    element: list[jax.Array],
    factors: Sequence[jax.Array | None],
    element_scale: jax.Array,
    share: jax.Array,
) -> list[jax.Array]:
    """`element_scale * element + share * sqrt(fan-out / fan-in) * factor`, for each leaf.

    Each part alone changes a layer's output by about the same amount at any width: spectral norm
    sqrt(fan-out / fan-in) (Yang, Simon, Bernstein, "A Spectral Condition for Feature Learning", arXiv
    2310.17813), for the elementwise part RMS 1 / fan-in.
    """
    ratio = per_tensor(leaves, lambda leaf: math.sqrt(leaf.fans[1] / leaf.fans[0]))
    weights = spread((share * ratio).astype(share.dtype), leaves)
    blended = []
    scales = spread(element_scale, leaves)
    for leaf, part, factor, scale, weight in zip(leaves, element, factors, scales, weights, strict=True):
        direction = leaf.row(scale) * part
        if factor is not None:
            direction += leaf.row(weight) * factor
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
