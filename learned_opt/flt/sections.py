"""Loops over pieces of a sequence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def over_tokens(
    step: Callable[[Any, Any], tuple[Any, Any]], state: Any, tokens: Any, size: int
) -> tuple[Any, Any]:
    """Carries a state along tokens, `size` of them at a time: `jax.lax.scan` over an axis that is cut.

    What a step makes is made again for the gradient: kept, it would be there for all tokens at once. A step
    that sees all tokens is called as it is.

    Args:
      step: `state, pieces -> state, outputs`.
      state: before the first token.
      tokens: a pytree of arrays [..., L, any]; zeros (False) fill the last piece.
      size: tokens of a piece.

    Returns:
      The last state and the outputs, a pytree of arrays [..., L, any].

    Example:
      >>> import jax.numpy as jnp
      >>> add = lambda total, x: (total + x.sum(), total + jnp.cumsum(x, axis=-2))
      >>> total, sums = over_tokens(add, 0.0, jnp.ones((5, 1)), size=2)
      >>> float(total), sums[:, 0].tolist()
      (5.0, [1.0, 2.0, 3.0, 4.0, 5.0])
    """
    length = jax.tree.leaves(tokens)[0].shape[-2]
    number = -(-length // size)
    if number <= 1:
        return step(state, tokens)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, number * size - length), (0, 0)])
        return jnp.moveaxis(x.reshape(*x.shape[:-2], number, size, x.shape[-1]), -3, 0)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, -3)
        return x.reshape(*x.shape[:-3], number * size, x.shape[-1])[..., :length, :]

    state, outputs = jax.lax.scan(jax.checkpoint(step), state, jax.tree.map(cut, tokens))
    return state, jax.tree.map(join, outputs)
