"""What JAX's primitives do to what is known of their operands; others are elementwise, calls or unknown."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from learned_opt.geometry.layout import Shape
from learned_opt.geometry.program import Axes, Part, Reader, Rule, Value, any_data, opened

DATA = Value(data=True)


def _dot(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    sums, stacks = equation.params["dimension_numbers"]
    if not any_data(values) and all(value.parts for value in values):
        return [_chained(values, sums, stacks)]
    for value, other, summed, stacked in zip(values, values[::-1], sums, stacks, strict=True):
        for part in value.parts:
            if other.picks:
                reader.looked_up(part, summed)
            else:
                reader.multiplied(part, summed, stacked)
    return [DATA]


def _chained(values: list[Value], sums: Sequence[Axes], stacks: Sequence[Axes]) -> Value:
    """A product of two parameters, as of a low-rank correction, is one more; what it sums over is lost."""
    left, right = (
        [axis for axis in range(len(value.parts[0].axes)) if axis not in (*summed, *stacked)]
        for value, summed, stacked in zip(values, sums, stacks, strict=True)
    )
    none: tuple[Axes, ...] = ((),)

    def axes(part: Part, side: int) -> tuple[Axes, ...]:
        own = tuple(part.axes[axis] for axis in (left, right)[side])
        both = own + none * len(right) if side == 0 else none * len(left) + own
        return (*(part.axes[axis] for axis in stacks[side]), *both)

    sides = enumerate(value.parts for value in values)
    return Value(tuple(part._replace(axes=axes(part, side)) for side, parts in sides for part in parts))


def _convolution(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    _, (_, *summed), _ = equation.params["dimension_numbers"]
    for part in values[1].parts:
        reader.multiplied(part, tuple(summed), ())
    return [DATA]


def _gather(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    """Rows of a table, one for each example, or what one index is at."""
    numbers, (table, indices) = equation.params["dimension_numbers"], equation.invars
    several = math.prod(indices.aval.shape[:-1]) > 1
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(table.aval.shape)) if axis not in gone]
    places = dict(zip(numbers.offset_dims, kept, strict=True))
    parts = []
    for part in values[0].parts:
        if several:
            reader.looked_up(part, numbers.start_index_map)
        found = part.merged(numbers.start_index_map)
        rank = range(len(equation.outvars[0].aval.shape))
        parts.append(
            part._replace(
                axes=tuple(part.axes[places[axis]] if axis in places else () for axis in rank),
                scanned=part.scanned + part.merged(numbers.operand_batching_dims),
                rows=part.rows + found * several,
                indexed=part.indexed + found * (not several),
            )
        )
    return [Value(tuple(parts), several or any_data(values))]


def _transpose(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    order = equation.params["permutation"]
    return [values[0].moved(lambda part: [part.axes[axis] for axis in order])]


def _reshape(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    groups = _groups(equation.invars[0].aval.shape, equation.outvars[0].aval.shape)
    return [values[0].moved(lambda part: [part.merged(group) for group in groups])]


def _groups(before: Shape, after: Shape) -> list[Axes]:
    """For each axis after a reshape, which of those before it shares entries with."""
    old, new = (np.cumprod([1, *shape]) for shape in (before, after))

    def shared(i: int, j: int) -> bool:
        return before[i] > 1 and after[j] > 1 and old[i] < new[j + 1] and old[i + 1] > new[j]

    return [tuple(i for i in range(len(before)) if shared(i, j)) for j in range(len(after))]


def _broadcast(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    """What is repeated is there to be added, or to scale; else only axes of size 1 are new."""
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    if math.prod(after) > math.prod(before):
        if not values[0].data:
            reader.added(values[0])
        return [values[0]._replace(parts=())]
    source = {place: axis for axis, place in enumerate(equation.params["broadcast_dimensions"])}
    places = range(len(after))
    return [values[0].moved(lambda part: [part.axes[source[i]] if i in source else () for i in places])]


def _squeeze(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    gone = equation.params["dimensions"]
    return [values[0].moved(lambda part: [own for axis, own in enumerate(part.axes) if axis not in gone])]


def _slice(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    """Axes of which one entry is left are indexed; where they are the first part of a parameter's, blocks."""
    before, after = (atom.aval.shape for atom in (equation.invars[0], equation.outvars[0]))
    single = [axis for axis in range(len(before)) if before[axis] > 1 == after[axis]]
    parts = []
    for part in values[0].parts:
        rest = part._replace(axes=tuple(() if i in single else own for i, own in enumerate(part.axes)))
        there = rest.merged(range(len(after)))
        first = [(own, i) for i in single for own in part.axes[i] if own not in part.merged(range(i))]
        indexed = tuple(own for own in part.merged(single) if own not in there)
        blocks = tuple((own, before[i]) for own, i in first if own in there)
        parts.append(rest._replace(indexed=part.indexed + indexed, blocks=part.blocks + blocks))
    return [Value(tuple(parts), values[0].data)]


def _split(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    """An axis that is cut into equal pieces holds as many blocks."""
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    parts = []
    for part in values[0].parts:
        whole = [own for own in part.axes[axis] if reader.shapes[part.leaf][own] == sum(sizes)]
        blocks = tuple((own, len(sizes)) for own in whole if len(set(sizes)) == 1)
        parts.append(part._replace(blocks=part.blocks + blocks))
    return [values[0]._replace(parts=tuple(parts))] * len(sizes)


def _concatenate(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    return [Value(tuple(part for value in values for part in value.parts), any_data(values))]


def _scan(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    """What is taken one by one has an axis less inside; all else may be carried, which the data change."""
    inside: Any = opened(equation.params["jaxpr"])
    arguments = []
    for value, outer, inner in zip(values, equation.invars, inside.invars, strict=True):
        if len(outer.aval.shape) > len(inner.aval.shape):
            parts = (p._replace(axes=p.axes[1:], scanned=p.scanned + p.axes[0]) for p in value.parts)
            arguments.append(value._replace(parts=tuple(parts)))
        else:
            arguments.append(_carried(value))
    found = zip(reader.run(inside, arguments), equation.outvars, inside.outvars, strict=True)
    return [
        value if len(outer.aval.shape) == len(inner.aval.shape) else DATA for value, outer, inner in found
    ]


def _while(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    inside = values[equation.params["cond_nconsts"] :]
    return reader.run(equation.params["body_jaxpr"], [_carried(value) for value in inside])


def _carried(value: Value) -> Value:
    return value if value.parts or value.picks else DATA


def _cond(reader: Reader, equation: Any, values: list[Value]) -> list[Value]:
    branches = [reader.run(branch, values[1:]) for branch in equation.params["branches"]]
    return [Value(found[0].parts, any_data(found)) for found in zip(*branches, strict=True)]


RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "slice": _slice,
    "dynamic_slice": _slice,
    "split": _split,
    "concatenate": _concatenate,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
