"""What every mask is: a square matrix over L tokens that can be multiplied faster than it can be written."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Mask(abc.ABC):
    """A matrix M over L tokens: `apply` multiplies by it quickly, `dense` writes it down.

    Masks are frozen dataclasses and pytrees. Their leaves are learnable numbers, their structure (sizes,
    trees, graphs) is static, so `jax.grad`, `jax.jit` and `jax.vmap` over a mask work; what a structure holds
    becomes a constant of the compiled program. A gradient with respect to a mask has the type of the mask,
    so values are checked where a mask is used, not where one is made.

    A subclass gives `size`, `dense` and `_multiply`. Masked attention needs nothing else (Choromanski, Lin,
    Chen et al., arXiv 2107.07999).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.masks import Exponential
      >>> mask = Exponential(rate=0.5, length=3)
      >>> total = lambda mask: jnp.sum(mask.apply(jnp.ones((3, 1))))
      >>> slope = jax.grad(total)(mask).rate  # of 3 + 2 exp(-rate) + exp(-2 rate)
      >>> print(f"{slope:.3f}")
      -1.949
    """

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of tokens L."""

    @abc.abstractmethod
    def dense(self) -> jax.Array:
        """The matrix, [L, L] in the dtype of the leaves: slow and obvious, the oracle of `apply`."""

    def apply(self, x: jax.Array) -> jax.Array:
        """The product M x.

        Args:
          x: [..., L, F], real floating point; leading axes are a batch.

        Returns:
          [..., L, F] in the dtype of x; the arithmetic is in float32 at least.

        Raises:
          ValueError: if the shape of x or a concrete value of the mask does not fit.
          TypeError: if x is not real floating point.
        """
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"x has dtype {x.dtype}: expected real floating point; convert it first")
        if x.ndim < 2 or x.shape[-2] != self.size:
            raise ValueError(
                f"x has shape {x.shape}: expected [..., L, F] with L = {self.size}, the mask's size"
            )
        self._check()
        return _apply(self, x) if x.size else x

    @abc.abstractmethod
    def _multiply(self, x: jax.Array) -> jax.Array:
        """M x for x of at least one element, of float32 or wider; always compiled."""

    def _check(self) -> None:  # noqa: B027 (most masks take any values)
        """Raises ValueError for values that make no mask."""


@jax.jit
def _apply(mask: Mask, x: jax.Array) -> jax.Array:
    dtype = jnp.result_type(x, jnp.float32, *jax.tree.leaves(mask))
    return mask._multiply(x.astype(dtype)).astype(x.dtype)


def known(value: Any) -> np.ndarray | None:
    """The value of a leaf if it is concrete, None while it is traced.

    Example:
      >>> import jax
      >>> from learned_opt.masks.base import known
      >>> known(2.0), jax.eval_shape(lambda time: known(time), 2.0)
      (array(2.), None)
    """
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)
