"""Devices: the only module that knows there may be more than one.

A population is cut into equal shares, one for each local device, by `jax.pmap`. Every share returns scores;
nothing else is communicated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Population:
    """A function of a population, evaluated on all devices.

    Args:
      function: (shared, members, *others) -> tree of arrays [members, ...]; everything but `members` is
        the same for the whole population.
      members: how many there are in all.
      devices: where to run; all local devices by default.

    Raises:
      ValueError: the members cannot be divided equally among the devices.
    """

    def __init__(
        self, function: Callable[..., Any], members: int, devices: Sequence[jax.Device] | None = None
    ):
        self.devices = list(devices or jax.local_devices())
        if members % len(self.devices):
            raise ValueError(
                f"a population of {members} cannot be shared equally by {len(self.devices)} devices: "
                f"choose a multiple of {len(self.devices)}"
            )
        self.members = np.arange(members, dtype=np.int32).reshape(len(self.devices), -1)
        self._function = function
        self._call: Callable[..., Any] | None = None

    def compile(self, shared: Any, *others: Any) -> "Population":
        """Compiles for arguments like these. Safe to call from several threads at once."""
        axes = (None, 0) + (None,) * len(others)
        mapped = jax.pmap(self._function, in_axes=axes, devices=self.devices)
        self._call = mapped.lower(shared, self.members, *others).compile()
        return self

    def __call__(self, shared: Any, *others: Any) -> Any:
        """Evaluates the population; returns arrays [members, ...] without waiting for them."""
        if self._call is None:
            self.compile(shared, *others)
        assert self._call is not None
        result = self._call(shared, self.members, *others)
        return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), result)


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
