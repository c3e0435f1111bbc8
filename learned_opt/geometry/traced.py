"""Geometry from the program: what the loss does with each parameter, whatever it is called."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from learned_opt.geometry.auto import auto
from learned_opt.geometry.layout import MATRICES, Geometry, Shape
from learned_opt.geometry.primitives import DATA, RULES
from learned_opt.geometry.program import Part, Reader, Use, Value


def geometry_of(loss: Callable[..., Any], params: Any, *args: Any) -> Any:
    """The geometry of every parameter, read off what a loss does with it, for `flt_optimizer(geometry=...)`.

    - What is summed over where a parameter is multiplied, or convolved, with data is an input.
    - A table of which the data pick rows is an embedding, also where it is the last matrix as well.
    - What `jax.lax.scan` takes one by one is a batch, and so are experts, members of an ensemble, and
      matrices that an index picks; a matrix that is split into equal pieces is as many.
    - What is only added to data, or scales them, is a vector: it is never orthogonalised.

    Where the program does not tell, names and shapes decide, as without it. Nothing is computed: the loss is
    traced once.

    Args:
      loss: a function of the parameters and anything else; what it returns does not matter.
      params: the parameters, or their ShapeDtypeStructs.
      *args: its other arguments, such as a batch, or their ShapeDtypeStructs.

    Returns:
      A tree of Geometry shaped like the parameters.

    >>> import jax.numpy as jnp
    >>> params = {"context": jnp.zeros((50, 8)), "t": jnp.zeros((3, 8))}
    >>> found = geometry_of(lambda p, word: p["context"][word] @ p["t"].T, params, jnp.zeros(4, int))
    >>> found["context"].kind, found["t"].kind, found["t"].inputs, found["t"].outputs
    ('embedding', 'matrix', (1,), (0,))
    """
    leaves, structure = jax.tree.flatten(params)
    shapes = [tuple(leaf.shape) for leaf in leaves]

    def program(leaves: list[Any], args: tuple[Any, ...]) -> Any:
        return loss(jax.tree.unflatten(structure, leaves), *args)

    jaxpr = jax.make_jaxpr(program)(leaves, args).jaxpr
    reader = Reader(shapes, RULES)
    known = [Value((Part(i, tuple((axis,) for axis in range(len(s)))),)) for i, s in enumerate(shapes)]
    reader.run(jaxpr, known + [DATA] * (len(jaxpr.invars) - len(shapes)))
    guesses = auto(params)
    uses = [reader.uses.get(i, []) for i in range(len(shapes))]
    pairs = [(guess, use) for guess, own in zip(guesses, uses, strict=True) for use in own]
    layers = any(set(guess.batch[:1]) & set(use.scanned) for guess, use in pairs)  # no members of an ensemble
    found = [_geometry(*each, layers) for each in zip(shapes, uses, guesses, strict=True)]
    return jax.tree.unflatten(structure, found)


def _geometry(shape: Shape, uses: list[Use], guess: Geometry, layers: bool) -> Geometry:
    use = _decisive(uses)
    one = guess if use is None or not math.prod(shape) else _used(shape, use, guess)
    ensemble = guess.members > 1 and not layers and guess.batch[:1] == one.batch[:1]
    return replace(one, members=guess.members if ensemble else 1)


def _used(shape: Shape, use: Use, guess: Geometry) -> Geometry:
    outputs = tuple(axis for axis in range(len(shape)) if axis not in use.batch + use.inputs)
    blocks = tuple((axis, number) for axis, number in dict(use.blocks).items() if axis not in use.batch)
    stacked = set(use.batch) <= set(guess.batch) and not blocks  # whoever guesses may know more stacks
    if use.kind == "matrix":
        if stacked and guess.inputs == use.inputs:
            return guess  # members of an ensemble that all see the same data look like more outputs
        kind = guess.kind if guess.kind in MATRICES else "matrix"
        return Geometry(kind, use.batch, use.inputs, outputs, blocks, "the program multiplies it")
    if use.kind == "embedding" and outputs:
        if stacked and guess.kind == "embedding" and set(guess.inputs) <= set(use.inputs):
            return guess
        return Geometry("embedding", use.batch, use.inputs, outputs, blocks, "the program looks rows up")
    if stacked and guess.kind not in MATRICES:
        return guess
    outputs = tuple(sorted(use.inputs + outputs))
    kind = "vector" if outputs else "scalar"
    return Geometry(kind, use.batch, (), outputs, blocks, "the program adds it, or scales by it")


def _decisive(uses: list[Use]) -> Use | None:
    """A table is one even where it is multiplied, too, unless what is looked up are whole matrices."""
    first = {use.kind: use for use in reversed(uses)}
    matrix, table = first.get("matrix"), first.get("embedding")
    if matrix and table and set(table.inputs) <= set(matrix.batch):
        return matrix
    return table or matrix or first.get("elementwise")
