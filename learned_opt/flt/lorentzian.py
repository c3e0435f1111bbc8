"""Damped cosines and their Fourier transforms: one mode of a mask in time."""

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
      An array of the shape and dtype of `lags` (broadcast against the parameters).

    Example:
      >>> import jax.numpy as jnp
      >>> [f"{value:.3f}" for value in lorentzian_mask(jnp.array([0.0, 2.0]), 1.0, 0.5, 0.25, 0.0)]
      ['1.000', '-0.368']
    """
    distance = jnp.abs(lags)
    mask = weight * jnp.exp(-(rate * distance)) * jnp.cos(2 * jnp.pi * frequency * distance + phase)
    return jnp.asarray(mask)


def lorentzian_density(
    frequencies: jax.Array,
    weight: ArrayLike,
    rate: ArrayLike,
    frequency: ArrayLike,
    phase: ArrayLike = 0.0,
) -> jax.Array:
    """Spectral density g of `lorentzian_mask`: its Fourier transform over continuous lags.

    `g(f) = weight * sum over both signs of Re[exp(i phase) / (rate - 2 pi i (frequency +- f))]`, poles at
    `+-frequency +- i rate / (2 pi)`. The sum of the two is taken over their common denominator: far out each
    falls like 1/f, and what remains of them, like 1/f^2, would be lost in rounding.

    Args:
      frequencies: where the density is wanted, cycles per step, any shape.
      weight: amplitude of the mask, no unit.
      rate: damping of the mask, per step.
      frequency: frequency of the mask, cycles per step.
      phase: phase of the mask, radians.

    Returns:
      An array of the shape of `frequencies` (broadcast against the parameters), in steps.

    Example:
      >>> import jax.numpy as jnp
      >>> float(lorentzian_density(jnp.array(0.0), 1.0, 0.5, 0.0))  # the area under exp(-|lag| / 2)
      4.0
    """
    here, there = (rate**2 + (2 * jnp.pi * (frequencies - sign * frequency)) ** 2 for sign in (1, -1))
    in_phase = rate * jnp.cos(phase) * (1 / here + 1 / there)
    difference = rate**2 + 4 * jnp.pi**2 * (frequency - frequencies) * (frequency + frequencies)
    quadrature = 4 * jnp.pi * frequency * jnp.sin(phase) * (difference / here / there)
    return jnp.asarray(weight * (in_phase - quadrature))
