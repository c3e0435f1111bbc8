"""A leaf of the parameter tree as a batch of logical tensors: the one place where axes are rearranged."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax

Kind = Literal["matrix", "head", "embedding", "vector", "scalar"]
MATRICES: tuple[Kind, ...] = ("matrix", "head")  # what may be orthogonalised
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """Roles of a leaf's axes. Each axis of the leaf, counted from 0, is named exactly once.

    A leaf is a batch of logical tensors, each trained as if it were a leaf of its own: the same network is
    trained the same way however its parameters are laid out.

    Attributes:
      kind: "matrix" and "head" (the last layer's matrix) may be orthogonalised; an "embedding" is looked up
        row by row; a "vector" has no input axes, a "scalar" neither input nor output axes. With weights whose
        laws have no feature of their own for heads, as all shipped ones, a head is treated as a matrix.
      batch: axes that enumerate logical tensors: layers under scan, experts, heads where wanted.
      inputs: axes summed over when the leaf is applied; their product is the fan-in.
      outputs: axes that remain; their product is the fan-out.
      blocks: pairs (axis, number): this input or output axis holds so many logical tensors one after the
        other, such as ((1, 3),) for q, k and v fused into one matrix (d, 3d).
      reason: why, in a few words, for `describe`.
      members: of how many networks that do not see each other, as in an ensemble, these are the logical
        tensors: they make none deeper.

    >>> import jax.numpy as jnp
    >>> fused = Geometry("matrix", batch=(0,), inputs=(1,), outputs=(2,), blocks=((2, 3),))  # 12 layers
    >>> fused.view(jnp.zeros((12, 64, 192))).shape
    (36, 64, 64)
    """

    kind: Kind
    batch: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()
    reason: str = "given"
    members: int = 1

    def view_shape(self, shape: Shape) -> Shape:
        """Shape of `view`: (count, rows, columns), or (count, size) for vectors and scalars."""
        blocks = dict(self.blocks)
        rows, columns = (
            math.prod(shape[axis] // blocks.get(axis, 1) for axis in axes)
            for axes in (self.inputs, self.outputs)
        )
        count = math.prod(shape[axis] for axis in self.batch) * math.prod(blocks.values())
        return (count, columns) if self.kind in ("vector", "scalar") else (count, rows, columns)

    def count(self, shape: Shape) -> int:
        """Number of logical tensors in a leaf of this shape."""
        return self.view_shape(shape)[0]

    def fans(self, shape: Shape) -> tuple[int, int]:
        """(fan-in, fan-out) of each logical tensor of a leaf of this shape."""
        return fans(self.kind, self.view_shape(shape))

    def view(self, x: jax.Array) -> jax.Array:
        """The logical tensors of a leaf, in the order of the batch axes, then the blocks.

        Args:
          x: the leaf, of any dtype.

        Returns:
          [count, rows, columns], or [count, size] for vectors and scalars; the dtype of x.
        """
        plan = self._plan(x.shape)
        return x.reshape(plan.split).transpose(plan.order).reshape(self.view_shape(x.shape))

    def restore(self, tensors: jax.Array, shape: Shape) -> jax.Array:
        """The inverse of `view` for a leaf of the given shape."""
        plan = self._plan(shape)
        ordered = tensors.reshape([plan.split[axis] for axis in plan.order])
        return ordered.transpose([plan.order.index(axis) for axis in range(len(plan.order))]).reshape(shape)

    def is_reshape(self, shape: Shape) -> bool:
        """Whether a leaf of this shape is one logical tensor, whose entries `view` leaves in their order."""
        order = self._plan(shape).order
        return self.count(shape) == 1 and order == tuple(sorted(order))

    def check(self, shape: Shape) -> None:
        """Checks that this describes a leaf of the given shape.

        Raises:
          ValueError: an unknown kind, axes named twice, missed or not there, axes that the kind has not,
            blocks that do not divide their axis, or members that do not divide the tensors.
        """
        if self.kind not in get_args(Kind):
            raise ValueError(f"the kind must be one of {', '.join(get_args(Kind))}")
        named = Counter(self.batch + self.inputs + self.outputs)
        wrong = {
            "named twice": [axis for axis, times in named.items() if times > 1],
            "missing": [axis for axis in range(len(shape)) if axis not in named],
            "not there": [axis for axis in named if not 0 <= axis < len(shape)],
        }
        if any(wrong.values()):
            found = "; ".join(f"{what}: {axes}" for what, axes in wrong.items() if axes)
            raise ValueError(f"each of its {len(shape)} axes must be named exactly once ({found})")
        if self.kind in ("vector", "scalar"):
            if self.inputs or (self.outputs and self.kind == "scalar"):
                allowed = "batch" if self.kind == "scalar" else "batch and output"
                raise ValueError(f"a {self.kind} has {allowed} axes only")
        elif not (self.inputs and self.outputs):
            raise ValueError(f"kind={self.kind!r} needs an input axis and an output axis at least")
        for axis, number in self.blocks:
            if axis not in self.inputs + self.outputs or [a for a, _ in self.blocks].count(axis) > 1:
                raise ValueError(f"blocks need an input or output axis each, and not axis {axis} twice")
            if number < 1 or shape[axis] % number:
                raise ValueError(f"axis {axis} of size {shape[axis]} is not divided by {number} blocks")
        if self.members < 1 or self.count(shape) % self.members:
            raise ValueError(f"{self.count(shape)} logical tensors are not divided by {self.members} members")

    def _plan(self, shape: Shape) -> "_Plan":
        split: list[int] = []
        blocks, place, block_places = dict(self.blocks), {}, {}
        for axis, size in enumerate(shape):
            if axis in blocks:
                block_places[axis] = len(split)
                split.append(blocks[axis])
            place[axis] = len(split)
            split.append(size // blocks.get(axis, 1))
        first = [place[axis] for axis in self.batch] + [block_places[axis] for axis, _ in self.blocks]
        return _Plan(tuple(split), (*first, *(place[axis] for axis in self.inputs + self.outputs)))


def fans(kind: Kind, view_shape: Shape) -> tuple[int, int]:
    """(fan-in, fan-out). All but matrices are fed one entry at a time: their fan-in is 1."""
    return (view_shape[1] if kind in MATRICES else 1), view_shape[-1]


class _Plan(NamedTuple):
    """How a view comes about: reshape to `split`, transpose to `order`, then merge."""

    split: Shape
    order: tuple[int, ...]
