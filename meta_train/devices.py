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
        if members % len(self.devices):
            raise ValueError(
                f"a population of {members} cannot be shared equally by {len(self.devices)} devices: "
                f"choose a multiple of {len(self.devices)}"
            )
        share = members // len(self.devices)
        if share % (piece or share):
            raise ValueError(
                f"a share of {share} on each of {len(self.devices)} devices cannot be cut into pieces of "
                f"{piece}: choose a divisor of {share}"
            )
        self.members = np.arange(members, dtype=np.int32).reshape(len(self.devices), -1, piece or share)
        self._function = function
        self._call: Callable[..., Any] | None = None

    def compile(self, shared: Any, *others: Any) -> "Population":
        """Compiles for arguments like these. Safe to call from several threads at once."""
        axes = (None, 0) + (None,) * len(others)
        mapped = jax.pmap(self._pieces, in_axes=axes, devices=self.devices)
        self._call = mapped.lower(shared, self.members, *others).compile()
        return self

    def __call__(self, shared: Any, *others: Any) -> Any:
        """Evaluates the population; returns arrays [members, ...] without waiting for them."""
        if self._call is None:
            self.compile(shared, *others)
        assert self._call is not None
        result = self._call(shared, self.members, *others)
        return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[3:])), result)

    def _pieces(self, shared: Any, members: jax.Array, *others: Any) -> Any:
        """A device's share, members [pieces, piece]; returns arrays [pieces, piece, ...]."""
        return jax.lax.map(lambda piece: self._function(shared, piece, *others), members)


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """A copy of a tree of arrays on every device, once, so that calls need not send it again."""
    devices = list(devices or jax.local_devices())
    mesh = jax.sharding.Mesh(np.asarray(devices), ("devices",))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
