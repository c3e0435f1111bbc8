"""The unit in which a tensor's gradients are remembered: a power of two, so that changing it is exact."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.optimizer.leaf import Leaf, TensorState, join, within

MAX_EXPONENT = 120


class Units(NamedTuple):
    """The unit in which each tensor's memory is kept, arrays [tensors]."""

    exponent: jax.Array  # int32
    down: jax.Array  # gradients times this are in the memory's unit
    shift: jax.Array  # old memory times this is in the new unit
    reference: jax.Array  # size of the gradients, in the memory's unit

    @classmethod
    def choose(cls, leaves: Sequence[Leaf], tensors: TensorState) -> tuple["Units", jax.Array]:
        """Units for this step, and whether all gradients are finite (bool scalar).

        The unit is a power of two that follows the larger of the gradient and what is remembered, so that
        squares of gradients of 1e30 do not overflow and those of 1e-30 do not vanish. Changing it is exact.
        """
        dtype = tensors.root_rms.dtype
        largest = join(_largest(leaf.gradient) for leaf in leaves).astype(dtype)
        average = join(leaf.mean(jnp.abs(leaf.gradient)) for leaf in leaves).astype(dtype)
        exponent = _exponent(jnp.maximum(largest, tensors.root_rms), tensors.exponent)
        down = _power_of_two(-exponent, dtype)
        shift = _power_of_two(tensors.exponent - exponent, dtype)
        reference = jnp.maximum(average, tensors.root_rms) * down
        return cls(exponent, down, shift, reference), jnp.isfinite(largest).all()

    def up(self) -> jax.Array:
        """What a value in the memory's unit is multiplied by to be in the gradient's."""
        return _power_of_two(self.exponent, self.down.dtype)


def _largest(x: jax.Array) -> jax.Array:
    """Of the absolute values. On a CPU those would become an array if a mean needs them as well."""
    axes = within(x)
    return jnp.maximum(jnp.max(x, axis=axes, initial=0), -jnp.min(x, axis=axes, initial=0))


def _exponent(size: jax.Array, previous: jax.Array) -> jax.Array:
    """Exponent of the smallest power of two above `size`; unchanged where size is zero or not finite."""
    integer, mantissa, bias = _layout(size.dtype)
    field = (jax.lax.bitcast_convert_type(size, integer) >> mantissa).astype(jnp.int32)
    found = jnp.clip(field - bias + 1, -MAX_EXPONENT, MAX_EXPONENT)
    return jnp.where((size > 0) & jnp.isfinite(size), found, previous)


def _power_of_two(exponent: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """2**exponent, exact: exponents beyond +-126 are clipped."""
    integer, mantissa, bias = _layout(dtype)
    field = (jnp.clip(exponent, -126, 126) + bias).astype(integer)
    return jax.lax.bitcast_convert_type(field << mantissa, dtype)


def _layout(dtype: jnp.dtype) -> tuple[jnp.dtype, int, int]:
    """(integer of the same size, bits of mantissa, bias of the exponent) of a floating-point dtype."""
    info = jnp.finfo(dtype)
    return jnp.dtype(f"int{info.bits}"), info.nmant, info.maxexp - 1
