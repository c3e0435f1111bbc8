"""Spectra of relative positional encodings and the masks they are the Fourier transforms of."""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from learned_opt.flt.lorentzian import lorentzian_density, lorentzian_mask
from learned_opt.flt.spectrum import Spectrum, student_density

# Of the law from which frequencies of a Gaussian density are drawn. Any number of degrees of freedom bounds g
# / p; three give E_p[(g / p)^2] within 9% of the least possible when l = 1, and leave room for a density that
# widens.
GAUSSIAN_FREEDOM = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture(Spectrum):
    """A mixture of Gaussians, made even by reflection (arXiv 2302.01925).

        g(xi) = sum_t w_t [N(xi; m_t, s_t^2 I) + N(xi; -m_t, s_t^2 I)] / 2
        f(z) = sum_t w_t exp(-2 pi^2 s_t^2 |z|^2) cos(2 pi m_t.z)

    N is the normalised density, so that w_t is component t of f(0); the paper's unnormalised height is
    `w_t / (2 pi s_t^2)^(l/2)`. Frequencies are drawn from Student distributions of the same means and scales,
    all components equally often: one that starts small can still grow.

    Attributes:
      weight: w [T], logits.
      mean: m [T, l], cycles per unit of the coordinates.
      scale: s [T], likewise, positive.

    Example:
      >>> import jax.numpy as jnp
      >>> spectrum = GaussianMixture(jnp.array([0.5]), jnp.array([[0.0, 1.0]]), jnp.array([0.2]))
      >>> [f"{value:.3f}" for value in spectrum.mask(jnp.array([[0.0, 0.0], [0.0, 0.5]]))]
      ['0.500', '-0.410']
    """

    weight: jax.Array
    mean: jax.Array
    scale: jax.Array

    axes: ClassVar = {
        "weight": ("components",),
        "mean": ("components", "coordinates"),
        "scale": ("components",),
    }
    positive: ClassVar = ("scale",)

    @property
    def dimension(self) -> int:
        """Number l of coordinates of a position."""
        return self.mean.shape[-1]

    def _density(self, xi: jax.Array) -> jax.Array:
        offsets = [xi[..., None, :] - sign * self.mean for sign in (1, -1)]
        bells = sum(jnp.exp(-jnp.sum(offset**2, axis=-1) / (2 * self.scale**2)) for offset in offsets)
        return jnp.sum(self.weight * bells / (2 * (2 * jnp.pi * self.scale**2) ** (self.dimension / 2)), -1)

    def _mask(self, lags: jax.Array) -> jax.Array:
        squares = jnp.sum(lags**2, axis=-1, keepdims=True)
        waves = jnp.cos(2 * jnp.pi * jnp.sum(lags[..., None, :] * self.mean, axis=-1))
        return jnp.sum(self.weight * jnp.exp(-2 * (jnp.pi * self.scale) ** 2 * squares) * waves, axis=-1)

    def _law(self) -> tuple[jax.Array, jax.Array, int]:
        scale = jnp.broadcast_to(self.scale[:, None], self.mean.shape)
        return jnp.concatenate([self.mean, -self.mean]), jnp.concatenate([scale, scale]), GAUSSIAN_FREEDOM


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LocalWindow(Spectrum):
    """A window around each token, smoothed by a Gaussian bump (local encodings of arXiv 2302.01925).

        g(xi) = w prod_k sin(2 pi v_k xi_k) / (pi xi_k) exp(-2 pi^2 b_k^2 xi_k^2)
        f(z) = w prod_k [Phi((z_k + v_k) / b_k) - Phi((z_k - v_k) / b_k)]

    Phi is the normal distribution function: f is w inside the window and 0 outside, with edges of width b.
    The density of the sharp window, b = 0, is not integrable: whatever p, `E_p |g / p|` is infinite, so b
    must be positive. g takes both signs; its L1 norm grows like `w prod_k log(v_k / b_k)`. Frequencies are
    drawn from a Cauchy law with the scale that minimises `E_p[(g / p)^2]` in each coordinate, `(8 pi^(5/2) v
    b)^(-1/2)`; the bump bounds g / p.

    Attributes:
      weight: w, a scalar, logits.
      width: half-widths v [l], in units of the coordinates, positive.
      bump: b [l], likewise.

    Example:
      >>> import jax.numpy as jnp
      >>> spectrum = LocalWindow(jnp.array(1.0), width=jnp.array([2.0]), bump=jnp.array([0.1]))
      >>> [f"{value:.3f}" for value in spectrum.mask(jnp.array([[0.0], [1.5], [2.0], [3.0]]))]
      ['1.000', '1.000', '0.500', '0.000']
    """

    weight: jax.Array
    width: jax.Array
    bump: jax.Array

    axes: ClassVar = {"weight": (), "width": ("coordinates",), "bump": ("coordinates",)}
    positive: ClassVar = ("width", "bump")

    @property
    def dimension(self) -> int:
        """Number l of coordinates of a position."""
        return self.width.shape[-1]

    def _density(self, xi: jax.Array) -> jax.Array:
        windows = 2 * self.width * jnp.sinc(2 * self.width * xi)
        return self.weight * jnp.prod(windows * jnp.exp(-2 * (jnp.pi * self.bump * xi) ** 2), axis=-1)

    def _mask(self, lags: jax.Array) -> jax.Array:
        above, below = (
            jax.scipy.stats.norm.cdf((lags + side) / self.bump) for side in (self.width, -self.width)
        )
        return self.weight * jnp.prod(above - below, axis=-1)

    def _law(self) -> tuple[jax.Array, jax.Array, int]:
        scale = 1 / jnp.sqrt(8 * jnp.pi**2.5 * self.width * self.bump)
        return jnp.zeros_like(scale)[None], scale[None], 1


# Degrees of freedom of the density of each kernel, twice the smoothness in Matern's family; the Gaussian, its
# limit, has infinitely many and is a case of its own.
FREEDOM = {"laplace": 1, "matern32": 3, "matern52": 5}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShiftInvariant(Spectrum):
    """A positive-definite kernel of the distance, by Bochner's theorem (arXiv 2302.01925).

        g(xi) = w Student(xi; n degrees of freedom, scales 1 / (2 pi length)),     f(z) = w K(|z / length|)

    with `K(d)` and n for each kernel

        laplace    exp(-d)                                          1
        matern32   (1 + sqrt(3) d) exp(-sqrt(3) d)                  3
        matern52   (1 + sqrt(5) d + 5 d^2 / 3) exp(-sqrt(5) d)      5
        gaussian   exp(-d^2 / 2)                                    a normal density: infinite

    (Rasmussen and Williams, Gaussian Processes for Machine Learning, section 4.2). Frequencies are drawn from
    g / w itself, `g / p = w`, the least variance there is; for the Gaussian from a Student law, whose tails
    dominate. If the length is learned after the draw, g and p keep tails of the same power and g / p stays
    bounded.

    Attributes:
      weight: w, a scalar, logits.
      length: length scales [l], in units of the coordinates, positive.
      kernel: a name from the table above.

    Example:
      >>> import jax.numpy as jnp
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([2.0, 2.0]), "laplace")
      >>> [f"{value:.3f}" for value in spectrum.mask(jnp.array([[0.0, 0.0], [0.0, 2.0]]))]
      ['1.000', '0.368']
    """

    weight: jax.Array
    length: jax.Array
    kernel: Literal["laplace", "matern32", "matern52", "gaussian"] = dataclasses.field(
        default="gaussian", metadata={"static": True}
    )

    axes: ClassVar = {"weight": (), "length": ("coordinates",)}
    positive: ClassVar = ("length",)

    def __post_init__(self) -> None:
        if self.kernel not in (*FREEDOM, "gaussian"):
            raise ValueError(f"kernel = {self.kernel!r}: expected gaussian, {' or '.join(FREEDOM)}")

    @property
    def dimension(self) -> int:
        """Number l of coordinates of a position."""
        return self.length.shape[-1]

    def _density(self, xi: jax.Array) -> jax.Array:
        scale = 1 / (2 * jnp.pi * self.length)
        if self.kernel == "gaussian":
            return self.weight * jnp.prod(jax.scipy.stats.norm.pdf(xi, scale=scale), axis=-1)
        density = student_density(xi, jnp.zeros_like(scale)[None], scale[None], FREEDOM[self.kernel])
        return self.weight * density[..., 0]

    def _mask(self, lags: jax.Array) -> jax.Array:
        square = jnp.sum((lags / self.length) ** 2, axis=-1)
        if self.kernel == "gaussian":
            return self.weight * jnp.exp(-square / 2)
        # The root has no derivative at 0; the kernels' derivative there is 0, or for Laplace's ours to
        # choose.
        distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        d = math.sqrt(FREEDOM[self.kernel]) * distance
        polynomials = {"laplace": jnp.ones_like(d), "matern32": 1 + d, "matern52": 1 + d + d**2 / 3}
        return self.weight * polynomials[self.kernel] * jnp.exp(-d)

    def _law(self) -> tuple[jax.Array, jax.Array, int]:
        scale = 1 / (2 * jnp.pi * self.length)
        return jnp.zeros_like(scale)[None], scale[None], FREEDOM.get(self.kernel, GAUSSIAN_FREEDOM)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LorentzianMixture(Spectrum):
    """A mixture of damped cosines in time (l = 1), whose spectrum is rational.

        g(xi) = sum_m lorentzian_density(xi; mode m),     f(z) = sum_m w_m exp(-r_m |z|) cos(2 pi x_m |z| +
        p_m)

    with poles at `+-x_m +- i r_m / (2 pi)`: the spectrum of a linear system with a few modes. Both g and the
    law, Cauchy distributions around the frequencies, fall like `1 / xi^2`, so g / p is bounded. With phases
    of 0 and a single mode they are the same up to the weight; a phase changes the L1 norm of g, which may
    exceed w.

    Attributes:
      weight: w [T], logits.
      rate: r [T], per unit of time, positive.
      frequency: x [T], cycles per unit of time.
      phase: p [T], radians.

    Example:
      >>> import jax.numpy as jnp
      >>> modes = LorentzianMixture(
      ...     weight=jnp.array([1.0, 0.5]), rate=jnp.array([0.1, 1.0]),
      ...     frequency=jnp.array([0.0, 0.5]), phase=jnp.array([0.0, 0.0]))
      >>> [f"{value:.3f}" for value in modes.mask(jnp.array([[0.0], [1.0]]))]
      ['1.500', '0.721']
    """

    weight: jax.Array
    rate: jax.Array
    frequency: jax.Array
    phase: jax.Array

    axes: ClassVar = dict.fromkeys(("weight", "rate", "frequency", "phase"), ("components",))
    positive: ClassVar = ("rate",)

    @property
    def dimension(self) -> int:
        """Always 1: time."""
        return 1

    def _density(self, xi: jax.Array) -> jax.Array:
        return jnp.sum(lorentzian_density(xi, self.weight, self.rate, self.frequency, self.phase), axis=-1)

    def _mask(self, lags: jax.Array) -> jax.Array:
        return jnp.sum(lorentzian_mask(lags, self.weight, self.rate, self.frequency, self.phase), axis=-1)

    def _law(self) -> tuple[jax.Array, jax.Array, int]:
        means, scales = self.frequency[:, None], self.rate[:, None] / (2 * jnp.pi)
        return jnp.concatenate([means, -means]), jnp.concatenate([scales, scales]), 1
