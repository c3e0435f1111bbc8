"""The Kronecker product of masks."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from learned_opt.masks.base import Mask


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kronecker(Mask):
    """A mask for each axis of a grid of tokens: M = M_1 x ... x M_d (Kronecker), tokens in row-major order.

    M_((i1..id), (j1..jd)) = product of (M_a)_(ia ja): for instance time by tree, or frames by graph. `apply`
    goes factor by factor, so the cost is the sum of L / L_a products with M_a.

    Attributes:
      factors: masks of sizes L_1..L_d, any of them; learnable in all of their leaves.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Exponential, Kronecker, Toeplitz
      >>> mask = Kronecker((Toeplitz(jnp.array([0.0, 1.0, 2.0])), Exponential(jnp.log(2.0), 2)))
      >>> mask.dense()
      Array([[1. , 0. , 0. , 0. ],
             [0.5, 1. , 0. , 0. ],
             [2. , 0. , 1. , 0. ],
             [1. , 2. , 0.5, 1. ]], dtype=float32)
    """

    factors: tuple[Mask, ...]

    @property
    def size(self) -> int:
        """The number of tokens L = L_1 ... L_d."""
        return math.prod(factor.size for factor in self.factors)

    def dense(self) -> jax.Array:
        """The matrix [L, L]."""
        matrix = jnp.ones((1, 1))
        for factor in self.factors:
            matrix = jnp.kron(matrix, factor.dense())
        return matrix

    def _check(self) -> None:
        for factor in self.factors:
            factor._check()

    def _multiply(self, x: jax.Array) -> jax.Array:
        shape, before = x.shape, 1
        for factor in self.factors:  # what comes before is a batch, what comes after are columns
            x = factor._multiply(x.reshape(*shape[:-2], before, factor.size, -1))
            before *= factor.size
        return x.reshape(shape)
