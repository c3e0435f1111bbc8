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


def apply_updates(params: Any, updates: Any, key: jax.Array) -> Any:
    """`optax.apply_updates` for bfloat16 parameters: updates below half a unit in the last place survive.

    They would vanish under rounding to nearest. Here a sum is rounded up or down with the probability that
    keeps its mean (stochastic rounding); parameters of other dtypes are rounded to nearest, as in optax.

    Args:
      params: tree of arrays; None leaves are left alone.
      updates: tree of the same structure and shapes.
      key: random key, a new one for each step.

    Returns:
      Parameters of the same structure, shapes and dtypes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt import apply_updates
      >>> ones = jnp.ones(10_000, jnp.bfloat16)
      >>> new = apply_updates(ones, jnp.full_like(ones, 2**-10), jax.random.key(0))
      >>> bool(abs(new.astype(jnp.float32).mean() - (1 + 2**-10)) < 1e-4)
      True
    """

    def add(param: jax.Array, update: jax.Array, key: jax.Array) -> jax.Array:
        if param.dtype != jnp.bfloat16:
            return (param + update).astype(param.dtype)
        return _round(param.astype(jnp.float32) + update.astype(jnp.float32), param.dtype, key)

    leaves, structure = jax.tree.flatten(params)
    keys = jax.tree.unflatten(structure, [jax.random.fold_in(key, i) for i in range(len(leaves))])
    return jax.tree.map(add, params, updates, keys)


def _round(x: jax.Array, dtype: jnp.dtype, key: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    dropped = ~jnp.uint32(0xFFFF)
    rounded = jax.lax.bitcast_convert_type((bits + noise) & dropped, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(dtype)
