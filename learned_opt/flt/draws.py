"""The random part of attention: frequencies and projections, drawn once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.flt.encoding import encode
from learned_opt.flt.kernels import Features, Kernel, Softmax
from learned_opt.flt.spectrum import Frequencies, Spectrum


class Draws(NamedTuple):
    """What `draw` drew. It is kept, and not trained, while the spectrum is learned.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import FavorPlus, ShiftInvariant
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([2.0]))
      >>> draws = draw(jax.random.key(0), spectrum, FavorPlus(features=32), head_size=4, frequencies=10)
      >>> draws.frequencies.xi.shape, draws.projection.shape
      ((10, 1), (16, 24))
    """

    frequencies: Frequencies  # of R frequencies
    projection: jax.Array  # [rows, d + 2R], of the kernel


def draw(
    key: jax.Array, spectrum: Spectrum, kernel: Kernel | Softmax, *, head_size: int, frequencies: int = 64
) -> Draws:
    """Draws the frequencies of a spectrum and the projection of a kernel.

    Args:
      key: a random key.
      spectrum: the frequencies follow its leaves as they are now.
      kernel: the feature map.
      head_size: d, the last axis of queries and keys.
      frequencies: R, how many.

    Returns:
      The draws: one set, for all leading axes of the arguments of attention.

    Raises:
      TypeError, ValueError: as `Spectrum.sample`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import Relu, ShiftInvariant
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([2.0]))
      >>> draw(jax.random.key(0), spectrum, Relu(features=32), head_size=4).projection.shape
      (32, 132)
    """
    of_spectrum, of_kernel = jax.random.split(key)
    return Draws(
        spectrum.sample(of_spectrum, frequencies), kernel.projection(of_kernel, head_size + 2 * frequencies)
    )


class FeatureMap(NamedTuple):
    """Features of queries and of keys with their encodings, phi([d^-1/4 q, N1]) and phi([d^-1/4 k, N2]).

    The inner product of what phi takes is the whole logit: no temperature beyond `d^-1/4` on either side,
    which would cool the mask with the content.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import Relu, ShiftInvariant
      >>> spectrum, kernel = ShiftInvariant(jnp.array(1.0), jnp.array([1.0])), Relu(features=8)
      >>> draws = draw(jax.random.key(0), spectrum, kernel, head_size=4, frequencies=6)
      >>> FeatureMap(spectrum, kernel, draws).queries(jnp.ones((5, 4)), jnp.zeros((5, 1))).values.shape
      (5, 8)
    """

    spectrum: Spectrum
    kernel: Kernel
    draws: Draws

    def queries(self, q: jax.Array, positions: jax.Array) -> Features:
        """Of q [..., L, d] at positions [..., L, l]. Raises ValueError if the draws are of other sizes."""
        return self._features(q, encode(positions, self.spectrum, self.draws.frequencies).query)

    def keys(self, k: jax.Array, positions: jax.Array, keep: jax.Array) -> Features:
        """Of k [..., S, d], likewise; a key that is not to be kept [..., S] has the log scale -inf."""
        keys = self._features(k, encode(positions, self.spectrum, self.draws.frequencies).key)
        return Features(keys.values, jnp.where(keep, keys.log_scale, -jnp.inf))

    def _features(self, x: jax.Array, encoding: jax.Array) -> Features:
        size = x.shape[-1]
        expected = (self.kernel.rows, size + encoding.shape[-1])
        if self.draws.projection.shape != expected:
            raise ValueError(
                f"draws.projection has shape {self.draws.projection.shape}: expected {expected} for "
                f"{self.kernel} and head size {size}; draw again"
            )
        lifted = jnp.concatenate([x * max(size, 1) ** -0.25, encoding.astype(x.dtype)], axis=-1)
        return self.kernel(lifted, self.draws.projection.astype(x.dtype))
