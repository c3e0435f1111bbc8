"""Geometry from names and shapes, as Flax, Haiku, Equinox and plain dicts have them."""

from dataclasses import replace
from typing import Any

import jax

from learned_opt.geometry.layout import Geometry, Kind, Shape
from learned_opt.geometry.leaves import Leaf
from learned_opt.geometry.stacking import is_ensemble, unstack

Roles = tuple[Kind, tuple[int, ...], tuple[int, ...], tuple[int, ...], str]


def auto(params: Any) -> list[Geometry]:
    """One Geometry a leaf, in leaf order. Doubt is resolved towards many small tensors, never one too large.

    - Layers under scan, experts and ensembles: an axis that a whole subtree has in common, where vectors have
      an axis too many, or the subtree is named so, or matrices all have three axes or more.
    - Kernels are (in, out) and (window..., in, out); Equinox's `.weight` is (out, in, window...).
    - Attention with separate heads, as in Flax: (in, heads, size) for query, key and value, and (heads, size,
      out) for the output, if their sizes agree.
    - All other leaves of three axes and more are batches of matrices (in, out).
    - If the whole tree is stacked, and not as layers are, it is an ensemble.

    Args:
      params: the parameters, or their ShapeDtypeStructs.

    >>> import numpy as np
    >>> layers = {"w": np.zeros((12, 8, 3)), "b": np.zeros((12, 3))}
    >>> b, w = auto({"layers": layers})
    >>> (b.kind, b.batch, b.outputs), (w.kind, w.batch, w.inputs, w.outputs)
    (('vector', (0,), (1,)), ('matrix', (0,), (1,), (2,)))
    """
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    leaves = unstack({i: Leaf.of(path, leaf.shape) for i, (path, leaf) in enumerate(paths)})
    context = _Context(list(leaves.values()))
    found = [_geometry(leaves[i], context) for i in range(len(paths))]
    shapes = [leaf.shape for _, leaf in paths]
    if is_ensemble(list(leaves.values())) and not _fits_itself(found, shapes):
        members = shapes[0][found[0].batch[0]]
        return [replace(one, members=members) for one in found]
    return found


def _fits_itself(found: list[Geometry], shapes: list[Shape]) -> bool:
    """Whether the matrices read as many numbers as others of them write, so that they may be layers.

    What has an embedding or a head is a whole network.
    """
    if any(one.kind in ("embedding", "head") for one in found):
        return False
    matrices = [(one, shape) for one, shape in zip(found, shapes, strict=True) if one.kind == "matrix"]
    read = {shape[one.inputs[-1]] for one, shape in matrices}
    written = {shape[one.outputs[-1]] for one, shape in matrices}
    return read <= written


class _Context:
    """What a leaf's neighbours say about it."""

    def __init__(self, leaves: list[Leaf]):
        self.biases = {leaf.names[:-1]: leaf.rest for leaf in leaves if leaf.name in ("bias", "b")}
        outputs = {_attention(leaf): leaf.rest for leaf in leaves if leaf.writes and len(leaf.rest) == 3}
        self.attentions = {
            _attention(leaf)
            for leaf in leaves
            if leaf.reads and len(leaf.rest) == 3 and _fit(leaf.rest, outputs.get(_attention(leaf)))
        }

    def bias(self, leaf: Leaf) -> tuple[int, ...] | None:
        """The shape of the bias of a leaf's module."""
        return self.biases.get(leaf.names[:-1])

    def has_heads(self, leaf: Leaf) -> bool:
        """Whether the attention that a leaf belongs to has an axis for its heads."""
        return _attention(leaf) in self.attentions


def _attention(leaf: Leaf) -> tuple[str, ...]:
    """Path of the attention module around a query, key, value or output."""
    return leaf.names[:-2] if leaf.is_matrix else leaf.names[:-1]


def _fit(read: tuple[int, ...], written: tuple[int, ...] | None) -> bool:
    """Whether (in, heads, size) and (heads, size, out) are of one attention."""
    return written is not None and (read[0], read[2]) == (written[2], written[1])


def _geometry(leaf: Leaf, context: _Context) -> Geometry:
    kind, batch, inputs, outputs, reason = _roles(leaf, context)
    if leaf.stacks:
        reason += "; stacked in " + ", ".join(name or "the whole tree" for name in leaf.stacks)
    return Geometry(kind, (*leaf.stacked, *batch), inputs, outputs, reason=reason)


def _roles(leaf: Leaf, context: _Context) -> Roles:
    axes, rank = leaf.axes, len(leaf.axes)
    if not rank:
        return "scalar", (), (), (), "no axis"
    if rank == 1:
        return "vector", (), (), axes, "one axis"
    if leaf.is_vector:
        return _vector_roles(leaf)
    bias = context.bias(leaf)
    if leaf.is_embedding and rank == 2 and (bias is None or not leaf.is_matrix):
        return "embedding", (), axes[:1], axes[1:], "named like an embedding"
    if rank == 2:
        return _matrix_roles(leaf)
    if leaf.is_convolution or (leaf.attribute and bias == (leaf.rest[0], *(1,) * (rank - 2))):
        return _convolution_roles(leaf)
    if leaf.reads and rank == 3 and (context.has_heads(leaf) or bias == leaf.rest[1:]):
        return "matrix", (), axes[:1], axes[1:], "query, key or value: (in, heads, size)"
    if leaf.writes and rank == 3 and context.has_heads(leaf):
        return "matrix", (), axes[:2], axes[2:], "attention's output: (heads, size, out)"
    if leaf.is_embedding:
        return "embedding", axes[:-2], axes[-2:-1], axes[-1:], "named like an embedding"
    inputs, outputs = (axes[-1:], axes[-2:-1]) if leaf.attribute else (axes[-2:-1], axes[-1:])
    order = "(out, in)" if leaf.attribute else "(in, out)"
    return "matrix", axes[:-2], inputs, outputs, f"a batch of matrices {order}"


def _vector_roles(leaf: Leaf) -> Roles:
    long = [axis for axis in leaf.axes if leaf.shape[axis] > 1]
    if len(long) <= 1 or (leaf.reads and len(leaf.axes) == 2):
        return "vector", (), (), leaf.axes, "named like a bias or a scale"
    return "vector", leaf.axes[:-1], (), leaf.axes[-1:], "named like a bias or a scale: a batch of them"


def _matrix_roles(leaf: Leaf) -> Roles:
    first, last = leaf.axes[:1], leaf.axes[1:]
    kind: Kind = "head" if leaf.is_head else "matrix"
    prefix = "named like a head: " if leaf.is_head else ""
    if leaf.attribute and leaf.name.startswith("weight"):
        return kind, (), last, first, f"{prefix}an attribute 'weight': (out, in)"
    return kind, (), first, last, f"{prefix}two axes: (in, out)"


def _convolution_roles(leaf: Leaf) -> Roles:
    doubt = len(leaf.window) > 2 and len(set(leaf.window)) > 1  # rather a stack than three axes of space
    batch, axes = leaf.axes[:doubt], leaf.axes[doubt:]
    if leaf.attribute and leaf.name.startswith("weight"):
        return "matrix", batch, axes[1:], axes[:1], "convolution: (out, in, window...)"
    if leaf.name == "w" and "transpose" in leaf.owner:
        return "matrix", batch, (*axes[:-2], axes[-1]), axes[-2:-1], "transposed: (window..., out, in)"
    return "matrix", batch, axes[:-1], axes[-1:], "convolution: (window..., in, out)"
