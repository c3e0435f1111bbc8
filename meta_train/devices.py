"""Devices: the only module that knows there may be more than one.

A population is cut into equal shares, one for each local device of each host, by `jax.pmap`. Every share
returns scores; nothing else is communicated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train import hosts


class Population:
    """A function of a population, evaluated on all devices.

    Args:
      function: (shared, members, *others) -> tree of arrays [members, ...]; everything but `members` is
        the same for the whole population. With workers, (shared, (members, workers), *others) -> (tree,
        workers): what each member keeps for the next call is a tree of arrays [members, ...] too.
      members: how many there are in all.
      devices: of this host, where to run; all of them by default. Every host has as many.
      piece: how many members a device evaluates side by side, one piece after the other; its whole share if
        0. Products of other sizes round differently: with one piece size, any number of devices runs the
        same program on the same members.

    Raises:
      ValueError: the members cannot be divided equally among the devices, or a share into pieces.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        members: int,
        devices: Sequence[jax.Device] | None = None,
        piece: int = 0,
    ):
        self.devices = list(devices or jax.local_devices())
        count = hosts.count() * len(self.devices)
        if members % count:
            raise ValueError(
                f"a population of {members} cannot be shared equally by {count} devices: "
                f"choose a multiple of {count}"
            )
        share = members // count
        if share % (piece or share):
            raise ValueError(
                f"a share of {share} on each of {count} devices cannot be cut into pieces of "
                f"{piece}: choose a divisor of {share}"
            )
        self.members = self.placed(np.arange(members, dtype=np.int32))
        self._piece = piece
        self._function = function
        self._call: Callable[..., Any] | None = None

    def compile(self, shared: Any, *others: Any, workers: Any = None) -> "Population":
        """Compiles for arguments like these. Safe to call from several threads at once."""
        axes = (None, 0) + (None,) * len(others)
        mapped = jax.pmap(self._evaluate, in_axes=axes, devices=self.devices)
        self._call = mapped.lower(shared, self._with(workers), *others).compile()
        return self

    def __call__(self, shared: Any, *others: Any, workers: Any = None) -> Any:
        """Evaluates the population; returns arrays [members, ...] without waiting, if there is one host.

        Args:
          shared: first argument of the function.
          *others: those after the members.
          workers: as from `placed` or an earlier call; None if the function has none. They are returned
            beside the results, and stay on their devices.
        """
        if self._call is None:
            self.compile(shared, *others, workers=workers)
        assert self._call is not None
        result = self._call(shared, self._with(workers), *others)
        if workers is None:
            return self.gathered(result)
        return self.gathered(result[0]), result[1]

    def placed(self, workers: Any) -> Any:
        """Workers [members, ...] as they are shared by the devices."""
        return deal(hosts.share(workers), self.devices)

    def gathered(self, tree: Any) -> Any:
        """The inverse of `placed`, without waiting, if there is one host."""
        return hosts.gather(jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), tree))

    def _with(self, workers: Any) -> Any:
        return self.members if workers is None else (self.members, workers)

    def _evaluate(self, shared: Any, members: Any, *others: Any) -> Any:
        """A device's share, piece by piece if that was asked for.

        What the compiler may not look across keeps the number of pieces from changing the program of one: a
        single piece does not depend on the loop, and would be computed by other kernels, outside of it.
        """
        if not self._piece:
            return self._function(shared, members, *others)
        apart = jax.lax.optimization_barrier
        pieces = jax.tree.map(lambda x: x.reshape(-1, self._piece, *x.shape[1:]), members)
        number = len(jax.tree.leaves(pieces)[0])

        def evaluate(place: jax.Array | int) -> Any:
            own, _ = apart((jax.tree.map(lambda x: x[place], pieces), place))
            return apart(self._function(shared, own, *others))

        def add(place: jax.Array, found: Any) -> Any:
            return jax.tree.map(lambda all, new: all.at[place].set(new), found, evaluate(place))

        nothing = jax.tree.map(lambda x: jnp.zeros((number, *x.shape), x.dtype), jax.eval_shape(evaluate, 0))
        found = jax.lax.fori_loop(0, apart(jnp.int32(number)), add, nothing)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def memory_in_use() -> dict[str, float]:
    """GiB taken on the fullest local device, now and at most so far; {} where that is not known."""
    known = [found for device in jax.local_devices() if (found := device.memory_stats())]
    kinds = {"now": "bytes_in_use", "most": "peak_bytes_in_use"}
    return {name: max(found[kind] for found in known) / 2**30 for name, kind in kinds.items() if known}


def rounded_up(members: int) -> int:
    """The smallest population with so many members, or a few more, that all devices can share equally."""
    count = hosts.count() * jax.local_device_count()
    return -(-members // count) * count


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """A copy of a tree of arrays on every device, once, so that calls need not send it again."""
    devices = list(devices or jax.local_devices())
    mesh = jax.sharding.Mesh(np.asarray(devices), ("devices",))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def spread(
    function: Callable[..., Any],
    axes: tuple[int | None, ...],
    devices: Sequence[jax.Device],
    donate: tuple[int, ...] = (),
) -> Any:
    """`function` of one member, mapped over many of them in equal shares on several devices.

    Args:
      function: (*arguments) -> tree of arrays.
      axes: for each argument None if it is the same for all, or 0 if its leaves are laid out by `deal`.
      devices: where to run.
      donate: indices of arguments whose memory the result may take over.

    Returns:
      A function with `lower`, whose result has the layout of `deal` too; `gather` undoes it.
    """
    mapped = jax.vmap(function, in_axes=axes)
    return jax.pmap(mapped, in_axes=axes, devices=devices, donate_argnums=donate)


def deal(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Leaves [members, ...] as [devices, members / devices, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(len(devices), -1, *leaf.shape[1:]), tree)


def gather(tree: Any) -> Any:
    """Leaves [devices, members / devices, ...] as NumPy arrays [members, ...]."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), tree)
