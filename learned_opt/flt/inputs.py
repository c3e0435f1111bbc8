"""What attention is given, checked and brought to common axes and dtype."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.flt.spectrum import Spectrum


class Inputs(NamedTuple):
    """Checked arguments of attention, all with the same leading axes and dtype (float32 at least).

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([1.0]))
      >>> inputs = Inputs.of(*jnp.ones((3, 2, 5, 4)), jnp.zeros((5, 1)), spectrum)
      >>> inputs.key_positions.shape, inputs.keep.shape
      ((2, 5, 1), (2, 5))
    """

    q: jax.Array  # [..., L, d]
    k: jax.Array  # [..., S, d]
    v: jax.Array  # [..., S, d_v]
    query_positions: jax.Array  # [..., L, l], in units of the spectrum
    key_positions: jax.Array  # [..., S, l], likewise
    keep: jax.Array  # [..., S], False for padding

    @staticmethod
    def of(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        positions: jax.Array,
        spectrum: Spectrum,
        *,
        causal: bool = False,
        key_positions: jax.Array | None = None,
        padding_mask: jax.Array | None = None,
        position_scale: float | jax.Array = 1.0,
    ) -> "Inputs":
        """The arguments of `fourier_attention`, checked.

        Raises:
          TypeError: arrays that are not real or not floating, or a padding mask that is not boolean.
          ValueError: shapes that do not fit, or positions that are not finite.
        """
        if not isinstance(spectrum, Spectrum):
            raise TypeError(f"spectrum = {spectrum!r}: expected a Spectrum")
        spectrum.check()
        q, k, v, positions = (jnp.asarray(x) for x in (q, k, v, positions))
        key_positions = positions if key_positions is None else jnp.asarray(key_positions)
        keep = jnp.ones(k.shape[-2:-1], bool) if padding_mask is None else jnp.asarray(padding_mask)
        for name, array in (("q", q), ("k", k), ("v", v)):
            if not jnp.issubdtype(array.dtype, jnp.floating):
                raise TypeError(f"{name} has dtype {array.dtype}: expected a floating-point dtype")
        if keep.dtype != bool:
            raise TypeError(f"padding_mask has dtype {keep.dtype}: expected bool, True for a token to keep")
        check_positions("positions", positions)
        check_positions("key_positions", key_positions)

        length, size = _tail("q", q, None, None)
        keys, _ = _tail("k", k, None, size)
        _tail("v", v, keys, None)
        _tail("positions", positions, length, spectrum.dimension)
        _tail("key_positions", key_positions, keys, spectrum.dimension)
        _tail("padding_mask", keep[..., None], keys, 1)
        if causal and keys != length:
            raise ValueError(f"causal attention of {length} queries and {keys} keys: expected equal numbers")
        arrays = (q, k, v, positions, key_positions, keep[..., None])
        try:
            lead = jnp.broadcast_shapes(*(array.shape[:-2] for array in arrays))
        except ValueError as error:
            names = ("q", "k", "v", "positions", "key_positions", "padding_mask")
            shapes = ", ".join(f"{n} {a.shape[:-2]}" for n, a in zip(names, arrays, strict=True))
            raise ValueError(f"leading axes do not broadcast: {shapes}") from error

        dtype = jnp.result_type(q, k, v, jnp.float32)
        q, k, v, r_q, r_k, keep = (jnp.broadcast_to(x, lead + x.shape[-2:]) for x in arrays)
        scale = jnp.asarray(position_scale, dtype)
        # What padding holds must not matter, not even a NaN.
        k, v = (jnp.where(keep, x, 0) for x in (k, v))
        q, k, v, r_q, r_k = (x.astype(dtype) for x in (q, k, v, r_q, r_k))
        return Inputs(q, k, v, scale * r_q, scale * r_k, keep[..., 0])


def check_positions(name: str, positions: jax.Array) -> None:
    """Checks positions; their values only if they are concrete.

    Raises:
      TypeError: complex numbers or booleans.
      ValueError: positions that are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> check_positions("positions", jnp.array([[0.0], [jnp.nan]]))
      Traceback (most recent call last):
      ValueError: positions holds values that are not finite: expected finite coordinates, also of padding
    """
    if not jnp.issubdtype(positions.dtype, jnp.floating) and not jnp.issubdtype(positions.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {positions.dtype}: expected real numbers")
    concrete = not isinstance(positions, jax.core.Tracer)
    if concrete and not np.all(np.isfinite(np.asarray(positions, np.float64))):
        raise ValueError(
            f"{name} holds values that are not finite: expected finite coordinates, also of padding"
        )


def _tail(name: str, array: jax.Array, length: int | None, size: int | None) -> tuple[int, int]:
    """The last two axes of an array, checked where they are known."""
    expected = f"[..., {length if length is not None else 'tokens'}, {size if size is not None else 'size'}]"
    if array.ndim < 2 or length not in (None, array.shape[-2]) or size not in (None, array.shape[-1]):
        raise ValueError(f"{name} has shape {array.shape}: expected {expected}")
    return array.shape[-2], array.shape[-1]
