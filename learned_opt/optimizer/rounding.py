"""Stochastic rounding: averages kept in bfloat16 whose small increments survive in expectation."""

from typing import Any

import jax
import jax.numpy as jnp


def stochastic_round(tree: Any, dtype: jnp.dtype, step: jax.Array) -> Any:
    """Rounds each float32 leaf up or down to bfloat16 with the probability that keeps its mean.

    Args:
      tree: arrays of float32 (float64 is cast first).
      dtype: bfloat16.
      step: int32 scalar, the only source of randomness besides a leaf's place in the tree: same step, same
        result.

    Returns:
      A tree of the same structure, of bfloat16.
    """
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), max(len(leaves), 1))
    rounded = [_round(leaf, dtype, key) for leaf, key in zip(leaves, keys, strict=False)]
    return jax.tree.unflatten(structure, rounded)


def _round(x: jax.Array, dtype: jnp.dtype, key: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    dropped = ~jnp.uint32(0xFFFF)
    rounded = jax.lax.bitcast_convert_type((bits + noise) & dropped, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(dtype)
