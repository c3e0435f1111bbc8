"""The causal exponential mask."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from learned_opt.masks.base import Mask


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponential(Mask):
    """Causal decay at one rate: M_ij = exp(-rate (i - j)) for i >= j, else 0.

    The one-sided case of the exponential masks of arXiv 2107.07999. O(L F) work in O(log L) parallel steps;
    `step` does one token at a time.

    Attributes:
      rate: damping per token, a learnable scalar of any sign.
      length: the number of tokens L, static.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Exponential
      >>> mask = Exponential(rate=jnp.log(2.0), length=3)
      >>> print(mask.dense())
      [[1.   0.   0.  ]
       [0.5  1.   0.  ]
       [0.25 0.5  1.  ]]
      >>> print(mask.apply(jnp.ones((3, 1)))[:, 0])
      [1.   1.5  1.75]
    """

    rate: ArrayLike
    length: int = field(metadata={"static": True})

    @property
    def size(self) -> int:
        """The number of tokens L."""
        if self.length < 0:
            raise ValueError(f"length={self.length}: expected a number of tokens, 0 or more")
        return self.length

    def dense(self) -> jax.Array:
        """The matrix [L, L]."""
        lags = jnp.arange(self.size)[:, None] - jnp.arange(self.size)
        return jnp.where(lags >= 0, jnp.exp(-jnp.asarray(self.rate) * jnp.maximum(lags, 0)), 0)

    def step(self, state: jax.Array, x: jax.Array) -> jax.Array:
        """One row of `apply` from the row before: exp(-rate) state + x.

        Args:
          state: [..., F], the row before; zeros at the start.
          x: [..., F], the next token.

        Returns:
          [..., F], the next row, which is also the next state.

        Example:
          >>> import jax.numpy as jnp
          >>> from learned_opt.masks import Exponential
          >>> Exponential(rate=jnp.log(2.0), length=3).step(jnp.array([1.0]), jnp.array([1.0]))
          Array([1.5], dtype=float32)
        """
        return jnp.exp(-jnp.asarray(self.rate)) * state + x

    def _multiply(self, x: jax.Array) -> jax.Array:
        decay = jnp.full((*(1,) * (x.ndim - 2), self.size, 1), jnp.exp(-jnp.asarray(self.rate, x.dtype)))
        return jax.lax.associative_scan(_join, (decay, x), axis=x.ndim - 2)[1]


def _join(
    first: tuple[jax.Array, jax.Array], then: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """One step y -> decay y + x after another is one such step."""
    return first[0] * then[0], then[0] * first[1] + then[1]
