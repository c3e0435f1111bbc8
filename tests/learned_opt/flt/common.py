"""Spectra and random tokens for the tests of attention."""

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.flt import (
    Draws,
    Frequencies,
    GaussianMixture,
    LocalWindow,
    LorentzianMixture,
    ShiftInvariant,
)

SPECTRUM = "gaussian mixture"


def spectra(dimension: int) -> dict:
    """One of each kind, with weights of both signs, in the default floating dtype."""
    stretch = np.linspace(1.0, 1.4, dimension)
    means = np.outer([0.0, 0.7], stretch)
    found = {
        "gaussian mixture": GaussianMixture(*arrays([0.8, -0.3], means, [0.3, 0.2])),
        "local": LocalWindow(*arrays(0.7, 0.9 * stretch, 0.25 * stretch)),
    }
    for kernel in ("laplace", "matern32", "matern52", "gaussian"):
        found[kernel] = ShiftInvariant(*arrays(0.6, 0.8 * stretch), kernel)
    if dimension == 1:
        found["lorentzian"] = LorentzianMixture(*arrays([0.5, 0.4], [0.9, 1.5], [0.3, 0.1], [0.7, -0.4]))
    return found


def arrays(*values) -> list[jax.Array]:
    return [jnp.asarray(value, float) for value in values]


ALL = [(name, dimension) for dimension in (1, 2) for name in spectra(dimension)]


def tokens(length: int, size: int = 3, values: int = 2, lead: tuple = (), dimension: int = 1, seed: int = 0):
    """Random q, k, v and positions in float64."""
    generator = np.random.default_rng(seed)
    shapes = [(*lead, length, size)] * 2 + [(*lead, length, values)]
    q, k, v = (jnp.asarray(generator.normal(size=shape)) for shape in shapes)
    return q, k, v, jnp.asarray(generator.uniform(-2, 2, size=(length, dimension)))


def setting(kernel, dimension: int = 1, head_size: int = 3):
    """A spectrum and draws, without the time that it takes to compile those of `draw`."""
    spectrum, size = spectra(dimension)[SPECTRUM], head_size + 12
    generator = np.random.default_rng(5)
    xi = jnp.asarray(generator.normal(size=(6, dimension)))
    density = jnp.asarray(np.exp(-np.sum(xi**2, axis=1) / 2) / (2 * np.pi) ** (dimension / 2))
    projection = jnp.asarray(generator.normal(size=(kernel.rows, size)))
    return spectrum, Draws(Frequencies(xi, density), projection)
