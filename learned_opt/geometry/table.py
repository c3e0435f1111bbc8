"""A table of what the optimizer takes each leaf for."""

from typing import Any

import jax

from learned_opt.geometry.layout import Geometry
from learned_opt.geometry.leaves import path_name
from learned_opt.geometry.resolve import GeometryLike, resolve

COLUMNS = ("path", "shape", "kind", "axes", "in", "out", "count", "why")
NUMBERS = ("in", "out", "count")


def rows(params: Any, geometry: GeometryLike = "auto") -> list[tuple[str, ...]]:
    """The cells under `COLUMNS`, one row a leaf; arguments as in `describe`."""
    table = []
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    for (path, leaf), found in zip(leaves, resolve(geometry, params), strict=True):
        numbers = map(str, (*found.fans(leaf.shape), found.count(leaf.shape)))
        size = "x".join(map(str, leaf.shape)) or "-"
        reason = f"{found.reason}: {found.members} members" if found.members > 1 else found.reason
        table.append((path_name(path), size, found.kind, _axes(found), *numbers, reason))
    return table


def describe(params: Any, geometry: GeometryLike = "auto") -> str:
    """A table that says, leaf by leaf, how the optimizer will treat the parameters.

    Args:
      params: the parameters, or their ShapeDtypeStructs.
      geometry: as in `flt_optimizer`.

    Returns:
      Text with one row a leaf: path, shape, kind, the role of each axis in order (b: batch, i: input, o:
      output; o/3: an output axis of three blocks), fan-in, fan-out, number of logical tensors, and why.

    Raises:
      ValueError: as `flt_optimizer` does for a geometry that does not fit.

    >>> import numpy as np
    >>> print(describe({"embed": np.zeros((50, 8)), "out": {"b": np.zeros(3), "w": np.zeros((8, 3))}}))
    path   shape  kind       axes  in  out  count  why
    embed  50x8   embedding  i o    1    8      1  named like an embedding
    out/b  3      vector     o      1    3      1  one axis
    out/w  8x3    matrix     i o    8    3      1  two axes: (in, out)
    """
    lines = [COLUMNS, *rows(params, geometry)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(_cell, line, widths, COLUMNS)).rstrip() for line in lines)


def _cell(text: str, width: int, column: str) -> str:
    return text.rjust(width) if column in NUMBERS else text.ljust(width)


def _axes(geometry: Geometry) -> str:
    roles = {axis: role for role, axes in _named(geometry) for axis in axes}
    blocks = {axis: f"/{number}" for axis, number in geometry.blocks}
    return " ".join(roles[axis] + blocks.get(axis, "") for axis in sorted(roles)) or "-"


def _named(geometry: Geometry) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return ("b", geometry.batch), ("i", geometry.inputs), ("o", geometry.outputs)
