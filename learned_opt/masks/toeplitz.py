"""Toeplitz and block-Toeplitz masks: any function of the difference of two positions on a grid."""

import itertools
import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.masks.base import Mask

_CACHED = 2**17  # entries of a block of columns


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlockToeplitz(Mask):
    """A function of the difference of positions on a d-dimensional grid n_1 x ... x n_d.

    M_ij = values[i_1 - j_1 + n_1 - 1, ..., i_d - j_d + n_d - 1], tokens in row-major order: the
    block-Toeplitz masks of arXiv 2107.07999 (d-level for d axes). The matrix is a corner of a circulant one,
    which a d-dimensional real FFT diagonalises: O(L log L).

    Attributes:
      values: [2 n_1 - 1, ..., 2 n_d - 1], learnable, of any sign.
      causal: whether a token sees no token that is later along axis 0 (frames of a video), static.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import BlockToeplitz
      >>> lags = jnp.abs(jnp.arange(-1, 2))
      >>> mask = BlockToeplitz(values=10.0 * lags[:, None] + lags)  # a grid of 2 x 2
      >>> print(mask.dense()[0])
      [ 0.  1. 10. 11.]
      >>> print(mask.apply(jnp.ones((4, 1)))[:, 0])
      [22. 22. 22. 22.]
    """

    values: ArrayLike
    causal: bool = field(default=False, metadata={"static": True})

    @property
    def grid(self) -> tuple[int, ...]:
        """The lengths (n_1, ..., n_d)."""
        shape = np.shape(self.values)
        # An empty axis stands for a grid without tokens: 2 n - 1 has no n = 0.
        if not shape or any(n and n % 2 == 0 for n in shape):
            raise ValueError(
                f"values has shape {shape}: expected odd lengths 2n - 1, one for each axis of the grid"
            )
        return tuple((n + 1) // 2 for n in shape)

    @property
    def size(self) -> int:
        """The number of tokens L = n_1 ... n_d."""
        return math.prod(self.grid)

    def dense(self) -> jax.Array:
        """The matrix [L, L]."""
        positions = np.indices(self.grid).reshape(len(self.grid), -1)
        lags = positions[:, :, None] - positions[:, None, :]
        index = tuple(lag + n - 1 for lag, n in zip(lags, self.grid, strict=True))
        return self._allowed()[index]

    def _allowed(self) -> jax.Array:
        values = jnp.asarray(self.values)
        return values.at[: self.grid[0] - 1].set(0) if self.causal else values

    def _multiply(self, x: jax.Array) -> jax.Array:
        columns = jnp.swapaxes(x, -1, -2)  # FFTs run along last axes; turned before they are padded
        grids = columns.reshape(-1, *self.grid)
        spectrum = self._spectrum(self._allowed().astype(x.dtype))
        # A few columns at a time on a CPU, so that what they are padded to stays in its cache.
        block = max(4, _CACHED // self.size) if jax.default_backend() == "cpu" else len(grids)
        products = jax.lax.map(
            lambda grid: self._corner(self._spectrum(grid) * spectrum), grids, batch_size=block
        )
        return jnp.swapaxes(products.reshape(columns.shape), -1, -2)

    def _spectrum(self, grid: jax.Array) -> jax.Array:
        """The real FFT of an array with the axes of the grid, each padded only when its turn comes."""
        for axis, n in reversed(list(enumerate(self.grid))):
            transform = jnp.fft.rfft if axis == len(self.grid) - 1 else jnp.fft.fft
            grid = jnp.moveaxis(transform(grid, _fast_length(2 * n - 1)), -1, 0)
        return grid

    def _corner(self, spectrum: jax.Array) -> jax.Array:
        """Its inverse, each axis cut as soon as it can be: what wraps around falls before entry n - 1."""
        for axis, n in enumerate(self.grid):
            inverse = jnp.fft.irfft if axis == len(self.grid) - 1 else jnp.fft.ifft
            spectrum = inverse(jnp.moveaxis(spectrum, 0, -1), _fast_length(2 * n - 1))[..., n - 1 : 2 * n - 1]
        return spectrum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Toeplitz(Mask):
    """A function of the difference of two positions in a sequence: M_ij = values[i - j + L - 1].

    One-dimensional relative positional encoding (arXiv 2107.07999), O(L log L) by a real FFT. For a causal
    mask put zeros into the first L - 1 values. Rounding is relative to the largest entry of a product, so in
    float32 entries a million times smaller than others are lost.

    Attributes:
      values: [2 L - 1], learnable, of any sign; for L = 0, an empty array.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Toeplitz
      >>> mask = Toeplitz(values=jnp.array([0.0, 0.0, 1.0, 0.5, 0.25]))
      >>> mask.dense()
      Array([[1.  , 0.  , 0.  ],
             [0.5 , 1.  , 0.  ],
             [0.25, 0.5 , 1.  ]], dtype=float32)
      >>> mask.apply(jnp.ones((3, 1)))[:, 0].round(4)
      Array([1.  , 1.5 , 1.75], dtype=float32)
    """

    values: ArrayLike

    @property
    def size(self) -> int:
        """The number of tokens L."""
        if np.ndim(self.values) != 1:
            raise ValueError(
                f"values has shape {np.shape(self.values)}: expected [2L - 1]; batches go under jax.vmap"
            )
        return BlockToeplitz(self.values).size

    def dense(self) -> jax.Array:
        """The matrix [L, L]."""
        return BlockToeplitz(self.values).dense()

    def _multiply(self, x: jax.Array) -> jax.Array:
        return BlockToeplitz(self.values)._multiply(x)


def _fast_length(least: int) -> int:
    """The next length without prime factors above 5, for which every FFT library is quick."""

    def left(n: int) -> int:
        for factor in (2, 3, 5):
            while n % factor == 0:
                n //= factor
        return n

    return next(n for n in itertools.count(least) if left(n) == 1)
