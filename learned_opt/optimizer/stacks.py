"""Small leaves that are alike, laid on top of each other: a deep network makes no larger a program."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.geometry import Geometry
from learned_opt.optimizer.leaf import Leaf, TensorState

LARGEST = 1 << 14  # elements of a leaf; above, the copies would cost more than the kernels that they save


class Stacks:
    """Which leaves of a tree share a stack. A stack is a leaf itself, with one more stacked axis in front."""

    def __init__(self, leaves: Sequence[Leaf]):
        alike: dict[Hashable, list[int]] = defaultdict(list)
        for place, leaf in enumerate(leaves):
            alike[_likeness(leaf) if leaf.param.size <= LARGEST else place].append(place)
        self.groups = list(alike.values())
        counts = [leaf.geometry.count(leaf.param.shape) for leaf in leaves]
        rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
        self.rows = np.concatenate([rows[place] for group in self.groups for place in group])

    def stacked(self, leaves: Sequence[Leaf]) -> list[Leaf]:
        """One leaf for each stack; a leaf that is like no other stays as it is."""
        return [_stack([leaves[place] for place in group]) for group in self.groups]

    def unstacked(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
        """From one array for each stack to one for each leaf, in leaf order."""
        found: dict[int, jax.Array] = {}
        for group, array in zip(self.groups, arrays, strict=True):
            found |= zip(group, [array] if len(group) == 1 else list(array), strict=True)
        return [found[place] for place in range(len(found))]

    def sorted(self, tensors: TensorState) -> TensorState:
        """The tensors' rows in the order of the stacks."""
        return _take(tensors, self.rows)

    def restored(self, tensors: TensorState) -> TensorState:
        """The inverse of `sorted`: the rows in leaf order."""
        return _take(tensors, np.argsort(self.rows))


def _likeness(leaf: Leaf) -> Hashable:
    return leaf.param.shape, leaf.param.dtype, replace(leaf.geometry, reason="")


def _stack(leaves: list[Leaf]) -> Leaf:
    if len(leaves) == 1:
        return leaves[0]
    arrays = [leaf._replace(geometry=None) for leaf in leaves]  # type: ignore[arg-type]
    stack: Leaf = jax.tree.map(lambda *parts: jnp.stack(parts), *arrays)
    return stack._replace(geometry=_in_a_stack(leaves[0].geometry))


def _in_a_stack(geometry: Geometry) -> Geometry:
    def behind(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(axis + 1 for axis in axes)

    stacked, inputs, outputs = map(behind, (geometry.stacked, geometry.inputs, geometry.outputs))
    return replace(geometry, stacked=(0, *stacked), inputs=inputs, outputs=outputs)


def _take(tensors: TensorState, rows: np.ndarray) -> TensorState:
    if np.array_equal(rows, np.arange(len(rows))):
        return tensors
    return jax.tree.map(lambda column: column[rows], tensors)
