"""Toeplitz and block-Toeplitz masks: any function of the difference of two positions on a grid."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.masks.base import Mask

# Numbers that a CPU keeps in its cache, so that what columns are padded to stays there.
_CACHED = 2**19
# The longest FFT that is quicker for a pair of columns than for each of them; longer ones leave the cache.
_PAIRED = 2**15


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlockToeplitz(Mask):
    """A function of the difference of positions on a d-dimensional grid n_1 x ... x n_d.

    M_ij = values[i_1 - j_1 + n_1 - 1, ..., i_d - j_d + n_d - 1], tokens in row-major order: the
    block-Toeplitz masks of arXiv 2107.07999 (d-level for d axes). The matrix is a corner of a circulant one,
    which a d-dimensional FFT diagonalises: O(L log L). Two columns of a product share an FFT, as real and
    imaginary part: one that is not finite spoils the other too.

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
        scales = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-2, keepdims=True, initial=0))
        scales = jnp.where(scales > 0, scales, 1)
        pairs = jnp.swapaxes(_paired(x / scales), -1, -2)  # FFTs run along last axes
        spectrum = self._spectrum(self._allowed().astype(pairs.dtype))
        products = _in_blocks(
            lambda grids: self._corner(self._spectrum(grids) * spectrum),
            pairs.reshape(-1, *self.grid),
            numbers=8 * self.size,
        )
        return _unpaired(jnp.swapaxes(products.reshape(pairs.shape), -1, -2), x.shape[-1]) * scales

    def _spectrum(self, grids: jax.Array) -> jax.Array:
        """The FFT over the axes of the grid, the last one first; each is padded only when its turn comes."""
        first, *others = reversed(self.grid)
        grids = jnp.fft.fft(grids, _fast_length(2 * first - 1))
        for n in others:
            grids = jnp.moveaxis(grids, -1, -len(self.grid))
            grids = jnp.fft.fft(grids, _fast_length(2 * n - 1))
        return grids

    def _corner(self, spectrum: jax.Array) -> jax.Array:
        """Its inverse, each axis cut as soon as it can be: what wraps around falls before entry n - 1."""
        first, *others = self.grid
        grids = jnp.fft.ifft(spectrum)[..., first - 1 : 2 * first - 1]
        for n in others:
            grids = jnp.moveaxis(grids, -len(self.grid), -1)
            grids = jnp.fft.ifft(grids)[..., n - 1 : 2 * n - 1]
        return grids


def _paired(x: jax.Array) -> jax.Array:
    """[..., c] real as [..., ceil(c / 2)] complex: a product with a real matrix keeps both parts apart."""
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, x.shape[-1] % 2)])
    return jax.lax.complex(x[..., ::2], x[..., 1::2])


def _unpaired(pairs: jax.Array, columns: int) -> jax.Array:
    """[..., columns] real: what `_paired` made complex."""
    parts = jnp.stack([pairs.real, pairs.imag], axis=-1)
    return parts.reshape(*pairs.shape[:-1], 2 * pairs.shape[-1])[..., :columns]


def _in_blocks(function: Callable[[jax.Array], jax.Array], columns: jax.Array, numbers: int) -> jax.Array:
    """function(columns [c, ...]), on a CPU a few columns at a time, each of which fills `numbers` numbers."""
    block = max(2, _CACHED // max(1, numbers)) if jax.default_backend() == "cpu" else len(columns)
    return jax.lax.map(function, columns, batch_size=block)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Toeplitz(Mask):
    """A function of the difference of two positions in a sequence: M_ij = values[i - j + L - 1].

    One-dimensional relative positional encoding (arXiv 2107.07999), O(L log L) by an FFT. For a causal
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
        padded = _fast_length(2 * self.size - 1)
        if padded <= _PAIRED:
            return BlockToeplitz(self.values)._multiply(x)
        spectrum = jnp.fft.rfft(jnp.asarray(self.values, x.dtype), padded)

        def corner(columns: jax.Array) -> jax.Array:
            product = jnp.fft.irfft(jnp.fft.rfft(columns, padded) * spectrum, padded)
            return product[..., self.size - 1 : 2 * self.size - 1]

        columns = jnp.swapaxes(x, -1, -2)  # FFTs run along last axes; turned before they are padded
        products = _in_blocks(corner, columns.reshape(-1, self.size), numbers=self.size)
        return jnp.swapaxes(products.reshape(columns.shape), -1, -2)


def _fast_length(least: int) -> int:
    """The next length without prime factors above 5, for which every FFT library is quick."""

    def left(n: int) -> int:
        for factor in (2, 3, 5):
            while n % factor == 0:
                n //= factor
        return n

    return next(n for n in itertools.count(least) if left(n) == 1)
