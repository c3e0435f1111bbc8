"""Small leaves whose logical tensors are alike, joined: a deep network makes no larger a program."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.optimizer.leaf import Leaf, TensorState
from learned_opt.optimizer.network import Result

LARGEST = 1 << 14  # elements of a leaf; above, the copies would cost more than the kernels that they save


class Stacks:
    """Which leaves of a tree share a stack. A stack is a leaf itself, of all their logical tensors."""

    def __init__(self, leaves: Sequence[Leaf]):
        alike: dict[Hashable, list[int]] = defaultdict(list)
        for place, leaf in enumerate(leaves):
            alike[_likeness(leaf) if leaf.param.size <= LARGEST else place].append(place)
        self.groups = list(alike.values())
        self.counts = [leaf.tensors for leaf in leaves]
        rows = np.split(np.arange(sum(self.counts)), np.cumsum(self.counts)[:-1])
        sizes = {place: len(group) for group in self.groups for place in group}
        self.alone = [sizes[place] == 1 for place in range(len(leaves))]
        self.rows = np.concatenate([rows[place] for group in self.groups for place in group])

    def stacked(self, leaves: Sequence[Leaf]) -> list[Leaf]:
        """One leaf for each stack; a leaf that is like no other stays as it is."""
        return [_stack([leaves[place] for place in group]) for group in self.groups]

    def settled(self, result: Result, leaves: Sequence[Leaf]) -> Result:
        """Of stacks of several leaves what was there before, and no update, if anything is not finite.

        On a CPU this also holds them in memory, because no fusion crosses a branch: the compiler would
        otherwise repeat what made a stack in a kernel for each leaf that is cut from it.
        """
        columns: Sequence[Any] = (result.updates, result.slots, result.directions, result.factors)
        news: list[list[Any]] = [list(column) or [None] * len(leaves) for column in columns]
        for place, (group, leaf) in enumerate(zip(self.groups, leaves, strict=True)):
            if len(group) > 1:
                new = tuple(column[place] for column in news)
                old = (jnp.zeros_like(new[0]), leaf.slots, leaf.direction, leaf.factor)
                new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)
                for column, chosen in zip(news, _either(result.finite, new, old), strict=True):
                    column[place] = chosen
        return result._replace(updates=news[0], slots=news[1], directions=news[2], factors=news[3])

    def starts(self, count: jax.Array) -> list[jax.Array]:
        """Where each leaf begins in its stack, int32 scalars. On a CPU the compiler does not know them.

        Leaves of one shape are then cut out by one kernel, and a deep network compiles in half the time.

        Args:
          count: int32 scalar, not negative.
        """
        known: dict[int, int] = {}
        for group in self.groups:
            counts = [self.counts[place] for place in group]
            known |= zip(group, (np.cumsum(counts) - counts).tolist(), strict=True)
        distinct = tuple(dict.fromkeys(known.values()))
        hidden = dict(zip(distinct, _hidden(distinct, count), strict=True))
        return [hidden[known[place]] for place in range(len(known))]

    def unstacked(self, arrays: Sequence[jax.Array], starts: Sequence[jax.Array]) -> list[jax.Array]:
        """From one array for each stack to one for each leaf, in leaf order."""
        found: dict[int, jax.Array] = {}
        for group, array in zip(self.groups, arrays, strict=True):
            rest, within = (np.int32(0),) * (array.ndim - 1), array.shape[1:]
            for place in group:
                size = self.counts[place], *within
                whole = self.alone[place]
                found[place] = array if whole else jax.lax.dynamic_slice(array, (starts[place], *rest), size)
        return [found[place] for place in range(len(found))]

    def sorted(self, tensors: TensorState) -> TensorState:
        """The tensors' rows in the order of the stacks."""
        return _take(tensors, self.rows)

    def restored(self, tensors: TensorState) -> TensorState:
        """The inverse of `sorted`: the rows in leaf order."""
        return _take(tensors, np.argsort(self.rows))


def _likeness(leaf: Leaf) -> Hashable:
    return leaf.param.shape[1:], leaf.param.dtype, leaf.kind, leaf.operands, leaf.members


def _stack(leaves: list[Leaf]) -> Leaf:
    if len(leaves) == 1:
        return leaves[0]
    bare = {"kind": None, "operands": None, "shape": None, "members": None}
    arrays = [leaf._replace(**bare) for leaf in leaves]  # type: ignore[arg-type]
    stack: Leaf = jax.tree.map(lambda *parts: jnp.concatenate(parts), *arrays)
    first = leaves[0]
    return stack._replace(kind=first.kind, operands=first.operands, members=first.members)


def _take(tensors: TensorState, rows: np.ndarray) -> TensorState:
    if np.array_equal(rows, np.arange(len(rows))):
        return tensors
    return jax.tree.map(lambda column: column[rows], tensors)


def _either(first: jax.Array, a: Any, b: Any) -> Any:
    """`a` if `first`, else `b`."""

    def branch(first: jax.Array, a: Any, b: Any) -> Any:
        return jax.lax.cond(first, lambda a, b: a, lambda a, b: b, a, b)

    def select(first: jax.Array, a: Any, b: Any) -> Any:
        return jax.tree.map(partial(jnp.where, first), a, b)

    return jax.lax.platform_dependent(first, a, b, cpu=branch, default=select)


def _hidden(values: tuple[int, ...], count: jax.Array) -> Sequence[jax.Array]:
    """`values`, if the count is not negative."""
    known: tuple[Any, ...] = tuple(map(np.int32, values))
    if len(known) == 1:
        return known

    def branch(count: jax.Array) -> tuple[Any, ...]:
        return jax.lax.cond(count < 0, lambda: known[::-1], lambda: known)

    @jax.custom_batching.custom_vmap
    def hidden(count: jax.Array) -> tuple[Any, ...]:
        return jax.lax.platform_dependent(count, cpu=branch, default=lambda _: known)

    # Side by side, a branch would be both of its sides, and a cut at places that differ a gather.
    @hidden.def_vmap
    def _(size: int, batched: Any, count: jax.Array) -> tuple[Any, Any]:
        return known, (False,) * len(known)

    return hidden(count)
