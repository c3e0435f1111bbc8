"""The Fourier-learned mask: any function of the difference of positions, by random features."""

from dataclasses import dataclass, field
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.flt import FavorPlus, Features, Frequencies, Spectrum, draw, encode
from learned_opt.masks.base import Mask
from learned_opt.masks.static import Fixed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fourier(Mask):
    """M_ij estimates exp(f(r_i - r_j)), f the mask of a learned spectrum (arXiv 2302.01925).

    Encodings with N1_i.N2_j = N_ij, an unbiased estimate of f, go through positive features with
    E[phi(N1_i).phi(N2_j)] = exp(N_ij). So M = phi(N1) phi(N2)' has rank m, multiplies F columns in O(L m F)
    and has positive entries. The draws are made once and kept: M depends smoothly on the spectrum.

    The exponential of an estimate is no unbiased estimate of the exponential: M tends to `expectation` as the
    number of frequencies grows, with an error of order R^-1/2 + m^-1/2.

    Attributes:
      spectrum: of dimension l, learnable.
      positions: r [L, l], static.
      frequencies: xi [R, l], static.
      density: [R], of the law that the frequencies were drawn from, static.
      projection: of the features, static.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant
      >>> from learned_opt.masks import Fourier
      >>> spectrum = ShiftInvariant(jnp.array(0.5), jnp.array([1.0]))
      >>> mask = Fourier.from_positions(jnp.arange(3.0)[:, None], spectrum, key=jax.random.key(0))
      >>> bool(jnp.allclose(mask.apply(jnp.eye(3)), mask.dense(), rtol=1e-5))
      True
      >>> bool(jnp.allclose(mask.dense(), mask.expectation(), rtol=0.2))
      True
    """

    spectrum: Spectrum
    positions: Fixed = field(metadata={"static": True})
    frequencies: Fixed = field(metadata={"static": True})
    density: Fixed = field(metadata={"static": True})
    projection: Fixed = field(metadata={"static": True})

    @classmethod
    def from_positions(
        cls,
        positions: ArrayLike,
        spectrum: Spectrum,
        *,
        key: jax.Array,
        frequencies: int = 64,
        features: int = 256,
    ) -> Self:
        """A mask over tokens at given positions.

        Args:
          positions: r [L, l], finite, in units of the spectrum.
          spectrum: of dimension l; the frequencies follow its leaves as they are now.
          key: of the draws; a concrete `jax.random.key`.
          frequencies: their number R.
          features: their number m, even.

        Returns:
          The mask, of size L.

        Raises:
          TypeError, ValueError: positions or a spectrum that do not fit.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from learned_opt.flt import ShiftInvariant
          >>> from learned_opt.masks import Fourier
          >>> plane = jnp.ones((5, 2))
          >>> spectrum = ShiftInvariant(jnp.array(0.5), jnp.array([1.0, 1.0]))
          >>> Fourier.from_positions(plane, spectrum, key=jax.random.key(0)).size
          5
        """
        places = np.asarray(positions)
        if places.ndim != 2 or places.shape[1] != spectrum.dimension:
            raise ValueError(f"positions has shape {places.shape}: expected [L, {spectrum.dimension}]")
        if not np.all(np.isfinite(places)):
            raise ValueError(f"positions has {places[~np.isfinite(places)][0]}: expected finite numbers")
        draws = draw(key, spectrum, FavorPlus(features), head_size=0, frequencies=frequencies)
        return cls(
            spectrum,
            Fixed(places),
            Fixed(draws.frequencies.xi),
            Fixed(draws.frequencies.density),
            Fixed(draws.projection),
        )

    @property
    def size(self) -> int:
        """The number of tokens L."""
        return len(self.positions.array)

    def dense(self) -> jax.Array:
        """The matrix [L, L], of the same draws as `apply`."""
        queries, keys = self._features(jnp.result_type(*jax.tree.leaves(self.spectrum)))
        return queries @ keys.T

    def expectation(self) -> jax.Array:
        """exp(f(r_i - r_j)) in closed form, [L, L]: what the draws estimate."""
        places = jnp.asarray(self.positions.array)
        return jnp.exp(self.spectrum.mask(places[:, None] - places))

    def _check(self) -> None:
        self.spectrum.check()

    def _multiply(self, x: jax.Array) -> jax.Array:
        queries, keys = self._features(x.dtype)
        return queries @ (keys.T @ x)

    def _features(self, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """phi(N1) and phi(N2), [L, m] each."""
        places, xi, density, projection = (
            jnp.asarray(fixed.array, dtype)
            for fixed in (self.positions, self.frequencies, self.density, self.projection)
        )
        kernel = FavorPlus(2 * len(projection))
        sides = encode(places, self.spectrum, Frequencies(xi, density))
        queries, keys = (kernel(side.astype(dtype), projection) for side in sides)
        return _scaled(queries), _scaled(keys)


def _scaled(features: Features) -> jax.Array:
    return features.values * jnp.exp(features.log_scale)[:, None]
