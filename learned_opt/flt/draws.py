"""The random part of attention: frequencies and projections, drawn once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.flt.encoding import encode
from learned_opt.flt.inputs import Inputs
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


def lift(inputs: Inputs, spectrum: Spectrum, frequencies: Frequencies) -> tuple[jax.Array, jax.Array]:
    """Queries and keys with their encodings, `[d^-1/4 q, N1]` and `[d^-1/4 k, N2]`, each [..., L, d + 2R].

    Their inner product is the whole logit: no temperature beyond `d^-1/4` on either side, which would cool
    the mask with the content.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([1.0]))
      >>> inputs = Inputs.of(*jnp.ones((3, 5, 4)), jnp.zeros((5, 1)), spectrum)
      >>> queries, keys = lift(inputs, spectrum, spectrum.sample(jax.random.key(0), 6))
      >>> queries.shape, keys.shape
      ((5, 16), (5, 16))
    """
    queries = encode(inputs.query_positions, spectrum, frequencies).query
    keys = encode(inputs.key_positions, spectrum, frequencies).key
    scale = max(inputs.q.shape[-1], 1) ** -0.25
    return (
        jnp.concatenate([inputs.q * scale, queries.astype(inputs.q.dtype)], axis=-1),
        jnp.concatenate([inputs.k * scale, keys.astype(inputs.k.dtype)], axis=-1),
    )


def featurize(inputs: Inputs, spectrum: Spectrum, kernel: Kernel, draws: Draws) -> tuple[Features, Features]:
    """Features of queries and of keys; a key that is padding has the log scale -inf.

    Raises:
      ValueError: draws that were made for another head size or kernel.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import Relu, ShiftInvariant
      >>> spectrum, kernel = ShiftInvariant(jnp.array(1.0), jnp.array([1.0])), Relu(features=8)
      >>> inputs = Inputs.of(*jnp.ones((3, 5, 4)), jnp.zeros((5, 1)), spectrum)
      >>> draws = draw(jax.random.key(0), spectrum, kernel, head_size=4, frequencies=6)
      >>> featurize(inputs, spectrum, kernel, draws)[0].values.shape
      (5, 8)
    """
    expected = (kernel.rows, inputs.q.shape[-1] + 2 * draws.frequencies.density.size)
    if draws.projection.shape != expected:
        raise ValueError(
            f"draws.projection has shape {draws.projection.shape}: expected {expected} for {kernel} and "
            f"head size {inputs.q.shape[-1]}; draw again"
        )
    projection = draws.projection.astype(inputs.q.dtype)
    queries, keys = (kernel(x, projection) for x in lift(inputs, spectrum, draws.frequencies))
    return queries, Features(keys.values, jnp.where(inputs.keep, keys.log_scale, -jnp.inf))
