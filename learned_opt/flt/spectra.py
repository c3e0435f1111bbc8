"""Spectra of relative positional encodings and the masks they are the Fourier transforms of."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def lorentzian_mask(
    lags: jax.Array, weight: ArrayLike, rate: ArrayLike, frequency: ArrayLike, phase: ArrayLike
) -> jax.Array:
    """Mask of one Lorentzian mode, `weight * exp(-rate |lag|) * cos(2 pi frequency |lag| + phase)`.

    Args:
      lags: distances in steps, any shape.
      weight: amplitude, no unit.
      rate: damping, per step.
      frequency: cycles per step.
      phase: radians.

    Returns:
      An array of the shape and dtype of `lags`.
    """
    distance = jnp.abs(lags)
    mask = weight * jnp.exp(-(rate * distance)) * jnp.cos(2 * jnp.pi * frequency * distance + phase)
    return jnp.asarray(mask)


def lorentzian_density(
    frequencies: jax.Array, weight: ArrayLike, rate: ArrayLike, frequency: ArrayLike
) -> jax.Array:
    """Spectral density g of `lorentzian_mask` with phase 0: its Fourier transform over continuous lags.

    `g(f) = weight * sum over both signs of rate / (rate^2 + 4 pi^2 (f +- frequency)^2)`, poles at
    `+-frequency +- i rate / (2 pi)`.

    Args:
      frequencies: where the density is wanted, cycles per step, any shape.
      weight: amplitude of the mask, no unit.
      rate: damping of the mask, per step.
      frequency: frequency of the mask, cycles per step.

    Returns:
      An array of the shape of `frequencies`, in steps.
    """
    poles = [rate / (rate**2 + (2 * jnp.pi * (frequencies - sign * frequency)) ** 2) for sign in (1, -1)]
    return jnp.asarray(weight * (poles[0] + poles[1]))
