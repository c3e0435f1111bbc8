"""How far apart logical tensors are in the tree of parameters, whatever the layout of the leaves."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from learned_opt.geometry.layout import Geometry
from learned_opt.geometry.leaves import Leaf
from learned_opt.geometry.stacking import unstack
from learned_opt.masks import Tree

Path = tuple[str, ...]


def tree_distances(params: Any, geometries: list[Geometry]) -> np.ndarray:
    """Edges between every two logical tensors in the tree of containers.

    Stacked layers count as if each had a container of its own in the node that is stacked: of 12 layers,
    "blocks/attn/kernel" is the 12 tensors "blocks/0/attn/kernel" to "blocks/11/attn/kernel". Tensors fused
    into one leaf are as far from each other as if their modules were apart.

    Args:
      params: the parameters, or their ShapeDtypeStructs.
      geometries: of its leaves, in leaf order.

    Returns:
      float64 [tensors, tensors], in the order of the leaves and, within a leaf, of its view.

    >>> import numpy as np
    >>> from learned_opt.geometry import resolve
    >>> params = {"head": np.zeros((3, 2)), "layers": {"w": np.zeros((2, 8, 3)), "b": np.zeros((2, 3))}}
    >>> tree_distances(params, resolve("auto", params)).astype(int)
    array([[0, 4, 4, 4, 4],
           [4, 0, 4, 2, 4],
           [4, 4, 0, 4, 2],
           [4, 2, 4, 0, 4],
           [4, 4, 2, 4, 0]])
    """
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    leaves = unstack({i: Leaf.of(path, leaf.shape) for i, (path, leaf) in enumerate(found)})
    tree: dict[str, Any] = {}
    tensors = 0
    for place, geometry in enumerate(geometries):
        for path in _paths(leaves[place], geometry):
            node = tree
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = tensors
            tensors += 1
    order = np.asarray(jax.tree.leaves(tree), int)
    distances = np.empty((tensors, tensors))
    distances[np.ix_(order, order)] = Tree.from_pytree(tree).distances()
    return distances


def _paths(leaf: Leaf, geometry: Geometry) -> Iterator[Path]:
    """The path of each logical tensor of a leaf, in the order of its view."""
    sizes = [leaf.shape[axis] for axis in geometry.batch] + [number for _, number in geometry.blocks]
    nodes = dict(zip(leaf.stacked, leaf.stacks, strict=True))
    owner = max(len(leaf.names) - 2, 0)
    for index in np.ndindex(*sizes):
        within: dict[int, str] = {}
        beside = ""
        for axis, i in zip([*geometry.batch, *(None for _ in geometry.blocks)], index, strict=True):
            if axis in nodes:
                depth = 1 + leaf.names.index(nodes[axis]) if nodes[axis] else 0
                within[depth] = f"{within.get(depth, '')}/{i}"
            else:
                beside += f"/{i}"
        path = []
        for depth, name in enumerate(leaf.names):
            path += [within[depth]] if depth in within else []
            path.append(name + beside if depth == owner else name)
        yield tuple(path)
