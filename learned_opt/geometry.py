"""What a leaf of the parameter tree is: which axes are stacked, which are inputs, which are outputs."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

_EMBEDDING_NAME = re.compile(r"embed|(^|[^a-z])(emb|wte|wpe)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Geometry:
    """Roles of a leaf's axes.

    Attributes:
      kind: "matrix" (may be orthogonalised), "embedding" (rows looked up by index) or "vector".
      stacked: axes that enumerate logical tensors (layers under scan, experts).
      inputs: axes summed over when the leaf is applied; their product is the fan-in.
      outputs: axes that remain; their product is the fan-out.
      reason: why, in a few words, for `describe`.
    """

    kind: Literal["matrix", "embedding", "vector"]
    stacked: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    reason: str = "given"

    @property
    def axes(self) -> tuple[int, ...]:
        """All axes that are named, sorted."""
        return tuple(sorted(self.stacked + self.inputs + self.outputs))

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes of one logical tensor."""
        return tuple(sorted(self.inputs + self.outputs))

    def count(self, shape: tuple[int, ...]) -> int:
        """Number of logical tensors in a leaf of this shape."""
        return math.prod(shape[axis] for axis in self.stacked)

    def fans(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(fan-in, fan-out). An embedding or a vector is fed one entry at a time: its fan-in is 1."""
        fan_out = math.prod(shape[axis] for axis in self.outputs)
        if self.kind != "matrix":
            return 1, fan_out
        return math.prod(shape[axis] for axis in self.inputs), fan_out

    def to_matrices(self, x: jax.Array) -> jax.Array:
        """[stacked, fan-in, fan-out] view of a matrix leaf."""
        ordered = jnp.transpose(x, self.stacked + self.inputs + self.outputs)
        return ordered.reshape(self.count(x.shape), *self.fans(x.shape))

    def from_matrices(self, matrices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The inverse of `to_matrices` for a leaf of the given shape."""
        order = self.stacked + self.inputs + self.outputs
        ordered = matrices.reshape(tuple(shape[axis] for axis in order))
        return jnp.transpose(ordered, tuple(order.index(axis) for axis in range(len(shape))))


GeometryFn = Callable[[str, Any], Geometry]


def auto(path: str, leaf: Any) -> Geometry:
    """Geometry from a leaf's path and shape: kernels are (..., in, out), as in Flax, Haiku and Muon."""
    axes = tuple(range(len(leaf.shape)))
    if len(axes) < 2:
        return Geometry("vector", (), (), axes, "fewer than two axes")
    if _EMBEDDING_NAME.search(path):
        return Geometry("embedding", (), axes[:-1], axes[-1:], "named like an embedding")
    if len(axes) == 2:
        return Geometry("matrix", (), axes[:1], axes[1:], "two axes: (in, out)")
    return Geometry("matrix", (), axes[:-1], axes[-1:], "kernel: (window..., in, out)")


def resolve(geometry: str | GeometryFn | Any, params: Any) -> list[Geometry]:
    """One Geometry a leaf, in leaf order.

    Args:
      geometry: "auto", a function (path, leaf) -> Geometry, or a pytree of Geometry shaped like params.
      params: the parameters, or their ShapeDtypeStructs.

    Raises:
      ValueError: unknown name, a tree of another structure, or axes that are not those of the leaf.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    if isinstance(geometry, str) and geometry != "auto":
        raise ValueError(
            f"geometry={geometry!r}: expected 'auto', a function (path, leaf), or a pytree of Geometry"
        )
    if isinstance(geometry, str) or callable(geometry):
        choose = auto if isinstance(geometry, str) else geometry
        geometries = [choose(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    else:
        geometries, given = jax.tree.flatten(geometry, is_leaf=lambda x: isinstance(x, Geometry))
        if given != structure:  # type: ignore[operator]
            raise ValueError(f"geometry has the structure {given}, the parameters have {structure}")
    for (path, leaf), found in zip(leaves, geometries, strict=True):
        _check(jax.tree_util.keystr(path), leaf.shape, found)
    return [
        found if math.prod(leaf.shape) else Geometry("vector", (), (), found.axes, "no elements")
        for (_, leaf), found in zip(leaves, geometries, strict=True)
    ]


def _check(path: str, shape: tuple[int, ...], geometry: Geometry) -> None:
    if list(geometry.axes) != list(range(len(shape))):
        raise ValueError(
            f"{path} of shape {shape}: {geometry} must name each of the axes 0..{len(shape) - 1} exactly once"
        )


def describe(params: Any, geometry: str | GeometryFn | Any = "auto") -> str:
    """A table that says, leaf by leaf, how the optimizer will treat the parameters.

    Args:
      params: the parameters, or their ShapeDtypeStructs.
      geometry: as in `flt_optimizer`.

    Returns:
      Text with one row a leaf: path, shape, kind, fan-in, fan-out, stacked count, reason.

    >>> import numpy as np
    >>> print(describe({"embed": np.zeros((50, 8)), "out": {"b": np.zeros(3), "w": np.zeros((8, 3))}}))
    path           shape   kind       in  out  count  why
    ['embed']      50x8    embedding   1    8      1  named like an embedding
    ['out']['b']   3       vector      1    3      1  fewer than two axes
    ['out']['w']   8x3     matrix      8    3      1  two axes: (in, out)
    """
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    width = max([len(path) for path in paths] + [4]) + 2
    lines = [f"{'path':<{width}} {'shape':<7} {'kind':<9} {'in':>3}  {'out':>3}  count  why"]
    for path, shape, found in zip(paths, shapes, resolve(geometry, params), strict=True):
        fan_in, fan_out = found.fans(shape)
        size = "x".join(map(str, shape)) or "scalar"
        count = found.count(shape)
        lines.append(
            f"{path:<{width}} {size:<7} {found.kind:<9} {fan_in:>3}  {fan_out:>3}  {count:>5}  {found.reason}"
        )
    return "\n".join(lines)
