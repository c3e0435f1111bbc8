"""What a program does with each of its parameters, read off its jaxpr.

A parameter is followed through everything that only moves its entries or scales them, until it meets data:
matrix products and convolutions tell inputs from outputs, lookups make an embedding, scan and indices
enumerate layers.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Var
from jax.extend.core import Literal as Constant

from learned_opt.geometry.layout import Shape

Axes = tuple[int, ...]
MODULATIONS = ("mul", "div", "select_n")  # by data of the same shape: masks and the like


class Part(NamedTuple):
    """A parameter inside a value."""

    leaf: int
    axes: tuple[Axes, ...]  # for each axis of the value, which of the parameter's it holds
    scanned: Axes = ()  # the parameter's axes that a scan takes one by one,
    indexed: Axes = ()  # or an index that is the same for all examples
    rows: Axes = ()  # axes that were looked up: one row for each example
    blocks: tuple[tuple[int, int], ...] = ()  # axes that were split, and into how many equal pieces


class Value(NamedTuple):
    """What is known of a value."""

    parts: tuple[Part, ...] = ()
    data: bool = False  # depends on data, and is not merely a parameter
    picks: bool = False  # says where integers are equal, as a one-hot encoding does


class Use(NamedTuple):
    """What a parameter is used for; axes are the parameter's, those that are not named are outputs."""

    kind: Literal["matrix", "embedding", "elementwise"]
    batch: Axes
    inputs: Axes = ()
    blocks: tuple[tuple[int, int], ...] = ()


DATA = Value(data=True)


def uses(program: ClosedJaxpr, shapes: Sequence[Shape]) -> dict[int, list[Use]]:
    """For each parameter, its uses in the order of the program.

    Args:
      program: whose first arguments are the parameters; all others are data.
      shapes: of the parameters.
    """
    reader = _Reader(shapes)
    given = [Value((Part(i, tuple((axis,) for axis in range(len(s)))),)) for i, s in enumerate(shapes)]
    reader.run(program, given + [DATA] * (len(program.jaxpr.invars) - len(shapes)))
    return reader.uses


class _Reader:
    """Goes through a program once and notes uses."""

    def __init__(self, shapes: Sequence[Shape]):
        self.shapes = shapes
        self.uses: dict[int, list[Use]] = {}

    def run(self, program: ClosedJaxpr | Jaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Reads a program whose arguments are known; returns what is known of its results."""
        jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        known: dict[Var, Value] = dict(zip(jaxpr.invars, arguments, strict=True))

        def look(atom: Any) -> Value:
            return Value() if isinstance(atom, Constant) else known.get(atom, Value())

        for equation in jaxpr.eqns:
            values = [look(atom) for atom in equation.invars]
            results = self._read(equation, values)
            known.update(zip(equation.outvars, results, strict=True))
        return [look(atom) for atom in jaxpr.outvars]

    def _read(self, equation: Any, values: list[Value]) -> list[Value]:
        name = equation.primitive.name
        if name in RULES:
            return RULES[name](self, equation, values)
        inner = [p for p in equation.params.values() if isinstance(p, ClosedJaxpr | Jaxpr)]
        for program in inner:
            jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
            if len(jaxpr.invars) == len(values) and len(jaxpr.outvars) == len(equation.outvars):
                return self.run(program, values)
        if len(equation.outvars) == 1 and all(_fits(v, equation.outvars[0]) for v in equation.invars):
            return [self._elementwise(equation, values)]
        return [Value(data=_any_data(values))] * len(equation.outvars)

    def note(self, part: Part, kind: Literal["matrix", "embedding", "elementwise"], inputs: Axes = ()) -> None:
        """Notes a use; what an index enumerates counts as a batch only of matrices."""
        batch = part.scanned + part.indexed * (kind == "matrix")
        self.uses.setdefault(part.leaf, []).append(Use(kind, batch, inputs, part.blocks))

    def _elementwise(self, equation: Any, values: list[Value]) -> Value:
        name, shape = equation.primitive.name, equation.outvars[0].aval.shape
        shapes = [atom.aval.shape for atom in equation.invars]
        if name == "eq" and all(_is_integer(atom) for atom in equation.invars):
            return Value(data=_any_data(values), picks=True)
        if not _any_data(values):
            ranked = [v for v, own in zip(values, shapes, strict=True) if len(own) == len(shape)]
            return Value(tuple(part for value in ranked for part in value.parts))
        parts: list[Part] = []
        for value, own in zip(values, shapes, strict=True):
            if own == shape and (len(values) == 1 or name in MODULATIONS):
                parts += value.parts
            elif not value.data:
                for part in value.parts:
                    self.note(part, "elementwise")
        return Value(tuple(parts), True, values[0].picks and len(values) == 1)

    def looked_up(self, value: Value, axes: Axes) -> None:
        """Notes that the data pick rows of the parameters in a value, along these of its axes."""
        for part in value.parts:
            if rows := _merged(part, axes):
                self.note(part, "embedding", rows)

    def product(self, value: Value, summed: Axes, stacked: Axes) -> None:
        """Notes what a product says of the parameters in one of its sides.

        Args:
          value: that side.
          summed: its axes that are summed over.
          stacked: its axes that enumerate products.
        """
        for part in value.parts:
            taken = [set(_merged(part, axes)) for axes in (stacked, summed)]
            free = set(_merged(part, [i for i in range(len(part.axes)) if i not in (*summed, *stacked)]))
            batch, inputs, outputs = taken[0], taken[1] - taken[0], free - taken[0] - taken[1]
            gone = {*part.scanned, *part.indexed, *part.rows, *batch, *inputs, *outputs}
            lost = set(range(len(self.shapes[part.leaf]))) - gone  # summed over before, with another parameter
            if inputs and not outputs:
                outputs = lost
            elif outputs:
                inputs |= lost
            if inputs and outputs:
                rows = tuple(sorted({*part.rows, *batch}))
                self.note(part._replace(indexed=part.indexed + rows), "matrix", tuple(sorted(inputs)))


def _size(atom: Any) -> int:
    return int(np.prod(atom.aval.shape, dtype=np.int64))


def _fits(atom: Any, result: Any) -> bool:
    """Whether an operand has the shape of a result, but for axes of size 1, or is a scalar."""
    own, shape = atom.aval.shape, result.aval.shape
    return not own or (len(own) == len(shape) and all(m in (1, n) for m, n in zip(own, shape, strict=True)))


def _is_integer(atom: Any) -> bool:
    return bool(np.issubdtype(atom.aval.dtype, np.integer))


def _any_data(values: Sequence[Value]) -> bool:
    return any(value.data for value in values)


def _merged(part: Part, axes: Sequence[int]) -> Axes:
    """The parameter's axes in these axes of the value."""
    return tuple(dict.fromkeys(own for axis in axes for own in part.axes[axis]))


def _moved(value: Value, axes: Callable[[Part], Sequence[Axes]]) -> Value:
    return value._replace(parts=tuple(part._replace(axes=tuple(axes(part))) for part in value.parts))


def _dot(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    (sums, stacks), (left, right) = equation.params["dimension_numbers"], values
    if not _any_data(values) and left.parts and right.parts:
        return [_chained(values, sums, stacks)]
    for value, other, summed, stacked in zip(values, values[::-1], sums, stacks, strict=True):
        if other.picks:
            reader.looked_up(value, summed)
        else:
            reader.product(value, summed, stacked)
    return [DATA]


def _chained(values: list[Value], sums: Sequence[Axes], stacks: Sequence[Axes]) -> Value:
    """A product of two parameters is one more parameter: its axes are the stacked, then the left, the right."""
    ranks = [len(value.parts[0].axes) for value in values]
    free = [
        [i for i in range(rank) if i not in (*summed, *stacked)]
        for rank, summed, stacked in zip(ranks, sums, stacks, strict=True)
    ]
    parts = []
    for side, value in enumerate(values):
        before, after = ((), len(free[1])) if side == 0 else (((),) * len(free[0]), 0)
        for part in value.parts:
            own = [part.axes[i] for i in free[side]]
            axes = (*(part.axes[i] for i in stacks[side]), *before, *own, *((),) * after)
            parts.append(part._replace(axes=axes))
    return Value(tuple(parts))


def _convolution(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    _, kernel, _ = equation.params["dimension_numbers"]
    reader.product(values[1], kernel[1:], ())
    return [DATA]


def _gather(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    numbers, operand = equation.params["dimension_numbers"], values[0]
    several = np.prod(equation.invars[1].aval.shape[:-1]) > 1  # rows of one table, else an index
    kept = [i for i in range(len(equation.invars[0].aval.shape)) if i not in numbers.collapsed_slice_dims]
    kept = [i for i in kept if i not in numbers.operand_batching_dims]
    places = dict(zip(numbers.offset_dims, kept, strict=True))
    rank, parts = len(equation.outvars[0].aval.shape), []
    for part in operand.parts:
        found = _merged(part, numbers.start_index_map)
        axes = tuple(part.axes[places[i]] if i in places else () for i in range(rank))
        part = part._replace(axes=axes, scanned=part.scanned + _merged(part, numbers.operand_batching_dims))
        if several and found:
            reader.note(part, "embedding", found)
        if several:
            part = part._replace(rows=part.rows + found)
        else:
            part = part._replace(indexed=part.indexed + found)
        parts.append(part)
    return [Value(tuple(parts), several or _any_data(values))]


def _transpose(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    order = equation.params["permutation"]
    return [_moved(values[0], lambda part: [part.axes[i] for i in order])]


def _reshape(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    groups = _groups(equation.invars[0].aval.shape, equation.outvars[0].aval.shape)
    return [_moved(values[0], lambda part: [_merged(part, group) for group in groups])]


def _groups(before: Shape, after: Shape) -> list[Axes]:
    """For each axis after a reshape, which of those before it shares entries with."""
    starts, ends = (np.cumprod([1, *shape]) for shape in (before, after))
    return [
        tuple(
            i
            for i in range(len(before))
            if before[i] > 1 and after[j] > 1 and starts[i] < ends[j + 1] and starts[i + 1] > ends[j]
        )
        for j in range(len(after))
    ]


def _broadcast(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    after, places = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    if _size(equation.outvars[0]) > _size(equation.invars[0]):
        if not values[0].data:
            for part in values[0].parts:
                reader.note(part, "elementwise")
        return [values[0]._replace(parts=())]
    source = {place: i for i, place in enumerate(places)}
    return [
        _moved(values[0], lambda part: [part.axes[source[i]] if i in source else () for i in range(len(after))])
    ]


def _squeeze(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    gone = equation.params["dimensions"]
    return [_moved(values[0], lambda part: [own for i, own in enumerate(part.axes) if i not in gone])]


def _slice(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    """An axis of which one entry is left was indexed."""
    before = equation.invars[0].aval.shape
    results = []
    for result in equation.outvars:
        after = result.aval.shape
        single = [i for i, (n, m) in enumerate(zip(before, after, strict=True)) if n > 1 and m == 1]
        parts = tuple(
            part._replace(
                axes=tuple(() if i in single else own for i, own in enumerate(part.axes)),
                indexed=part.indexed + _merged(part, single),
            )
            for part in values[0].parts
        )
        results.append(Value(parts, values[0].data))
    return results


def _split(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    axis, sizes = equation.params["axis"], set(equation.params["sizes"])
    parts = []
    for part in values[0].parts:
        whole = [own for own in part.axes[axis] if reader.shapes[part.leaf][own] == sum(equation.params["sizes"])]
        block = tuple((own, len(equation.params["sizes"])) for own in whole if len(sizes) == 1)
        parts.append(part._replace(blocks=part.blocks + block))
    return [values[0]._replace(parts=tuple(parts))] * len(equation.outvars)


def _scan(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    """What is taken one by one has an axis less inside; all else may be carried, which the data change."""
    inside = equation.params["jaxpr"].jaxpr
    arguments = []
    for value, outer, inner in zip(values, equation.invars, inside.invars, strict=True):
        if len(outer.aval.shape) > len(inner.aval.shape):
            parts = (p._replace(axes=p.axes[1:], scanned=p.scanned + p.axes[0]) for p in value.parts)
            arguments.append(value._replace(parts=tuple(parts)))
        else:
            arguments.append(value if value.parts else DATA)
    found = zip(reader.run(inside, arguments), equation.outvars, inside.outvars, strict=True)
    return [
        value if len(outer.aval.shape) == len(inner.aval.shape) else Value(data=True)
        for value, outer, inner in found
    ]


def _while(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    values = values[equation.params["cond_nconsts"] :]
    first = equation.params["body_nconsts"]
    carried = [value if value.parts else DATA for value in values[first:]]
    return reader.run(equation.params["body_jaxpr"], values[:first] + carried)


def _cond(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    results = [reader.run(branch, values[1:]) for branch in equation.params["branches"]]
    return [Value(first[0].parts, _any_data(first)) for first in zip(*results, strict=True)]


def _concatenate(reader: _Reader, equation: Any, values: list[Value]) -> list[Value]:
    return [Value(tuple(part for value in values for part in value.parts), _any_data(values))]


RULES: dict[str, Callable[[_Reader, Any, list[Value]], list[Value]]] = {
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
