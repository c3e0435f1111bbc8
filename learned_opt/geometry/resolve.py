"""The geometry of every leaf, as the user gives it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from optax import MaskedNode
from optax.contrib import MuonDimensionNumbers

from learned_opt.geometry.auto import auto
from learned_opt.geometry.layout import MATRICES, Geometry
from learned_opt.geometry.leaves import path_name

Given = Any  # a Geometry, a MuonDimensionNumbers or None, if the user gave what is expected
GeometryFn = Callable[[str, Any], Given]
GeometryLike = str | GeometryFn | Any
EXPECTED = "'auto', a function (path, leaf), or a pytree of Geometry or MuonDimensionNumbers"


def resolve(geometry: GeometryLike, params: Any) -> list[Geometry]:
    """One Geometry a leaf, in leaf order.

    Args:
      geometry: "auto"; a function (path, leaf) -> Geometry, where a path reads like "layer/w"; or a
        pytree of Geometry shaped like the parameters, which may hold some that a mask leaves out. Instead of
        a Geometry there may be optax's `MuonDimensionNumbers`, all of whose other axes are batch axes, or
        None: not a matrix.
      params: the parameters, or their ShapeDtypeStructs.

    Raises:
      ValueError: unknown name, a tree of another structure, or a geometry that does not fit its leaf.

    >>> import numpy as np
    >>> from optax.contrib import MuonDimensionNumbers
    >>> given = {"b": None, "w": MuonDimensionNumbers(reduction_axis=-1, output_axis=1)}
    >>> b, w = resolve(given, {"b": np.zeros(3), "w": np.zeros((12, 3, 8))})
    >>> b.kind, w.batch, w.inputs, w.outputs
    ('vector', (0,), (2,), (1,))
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [path_name(path) for path, _ in leaves]
    arrays = [leaf for _, leaf in leaves]
    if isinstance(geometry, str) and geometry != "auto":
        raise ValueError(f"geometry={geometry!r}: expected {EXPECTED}")
    found = guessed = auto(params)
    if not isinstance(geometry, str):
        if callable(geometry) and jax.tree_util.all_leaves([geometry]):  # no module, whose call is its own
            given = [geometry(path, leaf) for path, leaf in zip(paths, arrays, strict=True)]
        else:
            given = _flat(geometry, params)
        rows = zip(paths, arrays, given, guessed, strict=True)
        found = [_checked(path, leaf.shape, one, guess) for path, leaf, one, guess in rows]
    return [
        one if math.prod(leaf.shape) else _empty(len(leaf.shape))
        for leaf, one in zip(arrays, found, strict=True)
    ]


def _empty(rank: int) -> Geometry:
    return Geometry("vector", (), (), tuple(range(rank)), reason="no elements")


def _left_out(node: Any) -> bool:
    """Whether `optax.masked` or `optax.partition` left out the parameter that was there."""
    return node is None or isinstance(node, MaskedNode)


def _flat(geometry: Any, params: Any) -> list[Given]:
    """The leaves of a tree of geometries, in the order of the parameters, without those that are left out."""
    nodes = jax.tree.leaves(params, is_leaf=_left_out)
    structure: Any = jax.tree.structure(params, is_leaf=_left_out)
    try:
        given = structure.flatten_up_to(geometry)
        return [one for one, node in zip(given, nodes, strict=True) if not _left_out(node)]
    except (ValueError, TypeError) as error:
        named = jax.tree_util.tree_leaves_with_path(
            geometry, is_leaf=lambda node: node is None or isinstance(node, Geometry | MuonDimensionNumbers)
        )
        theirs = {path_name(path): f"given {node}" for path, node in named}
        ours = {
            path_name(path): f"of shape {leaf.shape}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        lacking = [f"no geometry for {path} {what}" for path, what in ours.items() if path not in theirs]
        extra = [f"no parameter for {path}, {what}" for path, what in theirs.items() if path not in ours]
        where = "; ".join((lacking + extra)[:3]) or str(error)
        raise ValueError(f"geometry has another structure than the parameters: {where}") from error


def _checked(path: str, shape: tuple[int, ...], given: Given, guess: Geometry) -> Geometry:
    try:
        found = _geometry(given, shape, guess)
        found.check(shape)
    except ValueError as error:
        raise ValueError(f"{path} of shape {shape} was given {given}: {error}") from error
    return found


def _geometry(given: Given, shape: tuple[int, ...], guess: Geometry) -> Geometry:
    if isinstance(given, Geometry):
        return given
    if isinstance(given, MuonDimensionNumbers):
        return _from_muon(given, len(shape))
    if given is not None:
        raise ValueError("expected a Geometry, a MuonDimensionNumbers or None")
    if guess.kind not in MATRICES:
        return replace(guess, reason="given as no matrix: " + guess.reason)
    outputs = tuple(sorted(guess.inputs + guess.outputs))
    return Geometry("vector", guess.batch, (), outputs, reason="given as no matrix")


def _from_muon(numbers: MuonDimensionNumbers, rank: int) -> Geometry:
    """The same as a Geometry. Axes may count from the end; unnamed ones are batch axes."""
    both = ((axes,) if isinstance(axes, int) else axes for axes in numbers)
    inputs, outputs = (tuple(a + rank if -rank <= a < 0 else a for a in axes) for axes in both)
    batch = tuple(axis for axis in range(rank) if axis not in inputs + outputs)
    return Geometry("matrix", batch, inputs, outputs, reason="given by MuonDimensionNumbers")
