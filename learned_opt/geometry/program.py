"""What a program does with each of its parameters, read off its jaxpr.

A parameter is followed through everything that only moves its entries or scales them, until it meets data:
products tell inputs from outputs, lookups make an embedding, scans and indices enumerate layers. What each
primitive does to what is known of its operands is in `primitives`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Var
from jax.extend.core import Literal as Constant

from learned_opt.geometry.layout import Shape

Axes = tuple[int, ...]
Blocks = tuple[tuple[int, int], ...]
MODULATIONS = ("mul", "div", "select_n")  # by data of the same shape: masks and the like


class Part(NamedTuple):
    """A parameter inside a value. All axes but the first field's places are the parameter's."""

    leaf: int
    axes: tuple[Axes, ...]  # for each axis of the value, which of the parameter's it holds
    scanned: Axes = ()  # those that a scan takes one by one,
    indexed: Axes = ()  # or an index that is the same for all examples
    rows: Axes = ()  # those along which each example has rows of its own
    blocks: Blocks = ()  # those that were split, and into how many equal pieces

    def merged(self, axes: Sequence[int]) -> Axes:
        """The parameter's axes in these axes of the value."""
        return tuple(dict.fromkeys(own for axis in axes for own in self.axes[axis]))


class Value(NamedTuple):
    """What is known of a value."""

    parts: tuple[Part, ...] = ()
    data: bool = False  # depends on data, and is not merely a parameter
    picks: bool = False  # says where integers are equal, as a one-hot encoding does

    def moved(self, axes: Callable[[Part], Sequence[Axes]]) -> "Value":
        """The value after its axes have changed to what the function says of each part."""
        return self._replace(parts=tuple(part._replace(axes=tuple(axes(part))) for part in self.parts))


class Use(NamedTuple):
    """What a parameter is used for. Its axes that are not named are outputs."""

    kind: Literal["matrix", "embedding", "elementwise"]
    batch: Axes
    inputs: Axes = ()
    blocks: Blocks = ()
    scanned: Axes = ()


class Reader:
    """Goes through a program once and notes the uses of its parameters.

    Args:
      shapes: of the parameters.
      rules: what is known of the results of a primitive, by its name: (reader, equation, operands) -> it.
    """

    def __init__(self, shapes: Sequence[Shape], rules: Mapping[str, "Rule"]):
        self.shapes, self.rules = shapes, rules
        self.uses: dict[int, list[Use]] = {}

    def run(self, program: ClosedJaxpr | Jaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Reads a program whose arguments are known; returns what is known of its results."""
        jaxpr = opened(program)
        known: dict[Var, Value] = dict(zip(jaxpr.invars, arguments, strict=True))

        def look(atom: Any) -> Value:
            return Value() if isinstance(atom, Constant) else known.get(atom, Value())

        for equation in jaxpr.eqns:
            results = self._read(equation, [look(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [look(atom) for atom in jaxpr.outvars]

    def _read(self, equation: Any, values: list[Value]) -> list[Value]:
        if rule := self.rules.get(equation.primitive.name):
            return rule(self, equation, values)
        for program in equation.params.values():  # of a call
            if isinstance(program, ClosedJaxpr | Jaxpr) and _is_called(opened(program), equation):
                return self.run(program, values)
        if len(equation.outvars) == 1 and all(_fits(v, equation.outvars[0]) for v in equation.invars):
            return [self._elementwise(equation, values)]
        return [Value(data=any_data(values))] * len(equation.outvars)

    def _elementwise(self, equation: Any, values: list[Value]) -> Value:
        name, shape = equation.primitive.name, equation.outvars[0].aval.shape
        shapes = [atom.aval.shape for atom in equation.invars]
        if name == "eq" and all(np.issubdtype(atom.aval.dtype, np.integer) for atom in equation.invars):
            return Value(data=any_data(values), picks=True)
        if not any_data(values):
            ranked = [v for v, own in zip(values, shapes, strict=True) if len(own) == len(shape)]
            return Value(tuple(part for value in ranked for part in value.parts))
        kept: list[Part] = []
        for value, own in zip(values, shapes, strict=True):
            if own == shape and (len(values) == 1 or name in MODULATIONS):
                kept += value.parts
            elif not value.data:
                self.added(value)
        return Value(tuple(kept), True, values[0].picks and len(values) == 1)

    def added(self, value: Value) -> None:
        """Notes that the parameters in a value are added to data, or scale them."""
        for part in value.parts:
            self._note(part, "elementwise", part.scanned)

    def looked_up(self, part: Part, axes: Sequence[int]) -> None:
        """Notes that the data pick rows of a parameter, along these axes of the value that it is in."""
        if rows := part.merged(axes):
            self._note(part, "embedding", part.scanned, rows)

    def multiplied(self, part: Part, summed: Axes, stacked: Axes) -> None:
        """Notes a product with data, if it makes the parameter a matrix.

        Args:
          part: the parameter in one side of the product.
          summed: axes of that side that are summed over.
          stacked: its axes that enumerate products.
        """
        free = [axis for axis in range(len(part.axes)) if axis not in (*summed, *stacked)]
        batch = {*part.scanned, *part.indexed, *part.rows, *part.merged(stacked)}
        inputs = set(part.merged(summed)) - batch
        outputs = set(part.merged(free)) - batch - inputs
        every = set(range(len(self.shapes[part.leaf])))
        lost = every - batch - inputs - outputs  # in a product of parameters
        if outputs:
            inputs |= lost
        if inputs and (outputs or lost):
            self._note(part, "matrix", batch, inputs)

    def _note(
        self,
        part: Part,
        kind: Literal["matrix", "embedding", "elementwise"],
        batch: Sequence[int] | set[int],
        inputs: Sequence[int] | set[int] = (),
    ) -> None:
        use = Use(kind, tuple(sorted(batch)), tuple(sorted(inputs)), part.blocks, part.scanned)
        self.uses.setdefault(part.leaf, []).append(use)


Rule = Callable[[Reader, Any, list[Value]], list[Value]]


def any_data(values: Sequence[Value]) -> bool:
    """Whether data are in one of these values."""
    return any(value.data for value in values)


def opened(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    """The program itself, without its constants."""
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _is_called(program: Jaxpr, equation: Any) -> bool:
    """Whether a program takes an equation's operands, and returns its results."""
    numbers = len(program.invars), len(program.outvars)
    return numbers == (len(equation.invars), len(equation.outvars))


def _fits(atom: Any, result: Any) -> bool:
    """Whether an operand has the shape of a result, but for axes of size 1, or is a scalar."""
    own, shape = atom.aval.shape, result.aval.shape
    return not own or (len(own) == len(shape) and all(m in (1, n) for m, n in zip(own, shape, strict=True)))
