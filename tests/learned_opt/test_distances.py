"""Distances in the tree of parameters do not depend on how layers are laid out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.geometry import Geometry, resolve, tree_distances
from learned_opt.masks import Tree

WIDTH, LAYERS = 4, 3


def block() -> dict[str, Any]:
    return {
        "attn": {name: {"kernel": jnp.zeros((WIDTH, WIDTH))} for name in ("key", "query", "value")},
        "norm": {"scale": jnp.zeros(WIDTH)},
    }


def distances(params: Any, geometry: Any = "auto") -> np.ndarray:
    return tree_distances(params, resolve(geometry, params))


def test_without_stacks_it_is_the_distance_of_the_tree_mask() -> None:
    params = {"blocks": [block() for _ in range(LAYERS)], "head": {"w": jnp.zeros((WIDTH, 2))}}

    expected = -np.log(Tree.from_pytree(params).dense())

    np.testing.assert_allclose(distances(params), expected, atol=1e-5)


def test_stacked_layers_are_as_far_apart_as_separate_ones() -> None:
    head = {"w": jnp.zeros((WIDTH, 2))}
    separate = {"blocks": [block() for _ in range(LAYERS)], "head": head}
    stacked = {"blocks": jax.tree.map(lambda x: jnp.zeros((LAYERS, *x.shape)), block()), "head": head}
    leaves = len(jax.tree.leaves(block()))
    # In the order of the stacked leaves: all layers of a leaf, one leaf after the other, then the head.
    order = [layer * leaves + leaf for leaf in range(leaves) for layer in range(LAYERS)] + [leaves * LAYERS]

    np.testing.assert_array_equal(distances(stacked), distances(separate)[np.ix_(order, order)])


def test_fused_tensors_are_as_far_apart_as_those_of_modules_side_by_side() -> None:
    separate = {"attn": {name: {"kernel": jnp.zeros((WIDTH, WIDTH))} for name in ("a", "b", "c")}}
    fused = {"attn": {"qkv": {"kernel": jnp.zeros((WIDTH, 3 * WIDTH))}}}
    geometry = {"attn": {"qkv": {"kernel": Geometry("matrix", (), (0,), (1,), blocks=((1, 3),))}}}

    np.testing.assert_array_equal(distances(fused, geometry), distances(separate))
