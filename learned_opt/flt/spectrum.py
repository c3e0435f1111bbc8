"""What a spectrum is: a density over frequencies, a law to draw them from, and the mask it transforms to."""

import abc
import functools
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Frequencies(NamedTuple):
    """Frequencies drawn once from a law p, then kept while the spectrum is learned.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant
      >>> drawn = ShiftInvariant(jnp.array(1.0), jnp.array([0.5, 0.5])).sample(jax.random.key(0), 16)
      >>> drawn.xi.shape, drawn.density.shape
      ((16, 2), (16,))
    """

    xi: jax.Array  # [R, l], cycles per unit of the coordinates
    density: jax.Array  # [R], p at each of them


class Spectrum(abc.ABC):
    """A real, even spectral density g over R^l and the mask f of which it is the Fourier transform.

        f(z) = integral g(xi) exp(2 pi i z.xi) dxi = E_{xi ~ p}[g(xi) / p(xi) cos(2 pi z.xi)]

    (arXiv 2302.01925). Subclasses are frozen dataclasses registered as pytrees: their leaves are
    floating-point arrays, all learnable. Every weight is in units of f, that is of attention logits, at
    distance 0, and the L1 norm of g is at most the sum of the absolute weights, up to what a subclass says.
    The relative variance of positive features grows like `exp(2 |g|_1)`: keep that norm near 1 or below.

    Leaves named in `positive` must stay so: learn their logarithm. A tree of gradients or of updates has the
    class of the spectrum, so values are checked when a spectrum is used, not when it is built.

    The law p has the tails of a Student distribution. Those of g are Gaussian, or fall with the same power,
    so g / p is bounded and the estimate has a finite variance whatever values the leaves take after the draw.

    Attributes:
      axes: the axes of each leaf: "components" (T) and "coordinates" (l).
      positive: names of the leaves whose values must be positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import LorentzianMixture, Spectrum
      >>> one = jnp.ones(1)
      >>> spectrum = LorentzianMixture(weight=one, rate=one, frequency=0 * one, phase=0 * one)
      >>> isinstance(spectrum, Spectrum), spectrum.dimension
      (True, 1)
      >>> bool(jnp.allclose(spectrum.mask(jnp.array([[-2.0]])), jnp.exp(-2.0)))
      True
    """

    axes: ClassVar[dict[str, tuple[str, ...]]]
    positive: ClassVar[tuple[str, ...]] = ()

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """Number l of coordinates of a position."""

    @abc.abstractmethod
    def _density(self, xi: jax.Array) -> jax.Array: ...

    @abc.abstractmethod
    def _mask(self, lags: jax.Array) -> jax.Array: ...

    @abc.abstractmethod
    def _law(self) -> tuple[jax.Array, jax.Array, int]:
        """Means [T, l], scales [T, l] and degrees of freedom of the mixture that is p."""

    def density(self, xi: jax.Array) -> jax.Array:
        """The spectral density g.

        Args:
          xi: frequencies [..., l], cycles per unit of the coordinates.

        Returns:
          g [...], in units of the mask times those of the coordinates to the power l.

        Raises:
          TypeError, ValueError: as `check`; a last axis that is not l.
        """
        return self._density(self._points("xi", xi))

    def mask(self, lags: jax.Array) -> jax.Array:
        """The mask f in closed form: what the frequencies estimate.

        Args:
          lags: differences of positions [..., l].

        Returns:
          f [...], no unit: it is added to the logits.

        Raises:
          TypeError, ValueError: as `check`; a last axis that is not l.
        """
        return self._mask(self._points("lags", lags))

    def sample(self, key: jax.Array, number: int) -> Frequencies:
        """Draws frequencies from p, a Student mixture that follows the leaves as they are now.

        No gradient flows into what is drawn: g is learned at fixed frequencies.

        Args:
          key: a random key.
          number: R, how many frequencies; the error of the estimated mask falls as R^-1/2.

        Returns:
          The frequencies [R, l] and p at them [R].

        Raises:
          TypeError, ValueError: as `check`; `number` is not positive.
        """
        self.check()
        if number < 1:
            raise ValueError(f"number = {number}: expected at least one frequency")
        return _sample(self, key, number)

    def check(self) -> None:
        """Checks the leaves; their values only where they are concrete.

        Raises:
          TypeError: a leaf is not an array of floating-point numbers.
          ValueError: a leaf of a shape that does not fit, or values that are not finite, or not positive
            where they must be.
        """
        sizes: dict[str, int] = {}
        for leaf, axes in self.axes.items():
            value, name = getattr(self, leaf), f"{type(self).__name__}.{leaf}"
            if not isinstance(value, jax.Array | np.ndarray) or not jnp.issubdtype(value.dtype, jnp.floating):
                raise TypeError(f"{name} = {value!r}: expected an array of floating-point numbers")
            known = dict(zip(axes, value.shape, strict=False)) | sizes
            expected = tuple(known.get(axis, axis) for axis in axes)
            if value.shape != expected:
                raise ValueError(f"{name} has shape {value.shape}: expected {expected}, axes {axes}")
            sizes |= known
            if isinstance(value, jax.core.Tracer):
                continue
            if not np.all(np.isfinite(value)):
                raise ValueError(f"{name} = {value}: expected finite values")
            if leaf in self.positive and not np.all(np.asarray(value) > 0):
                raise ValueError(f"{name} = {value}: expected positive values (learn their logarithm)")

    def _points(self, name: str, points: jax.Array) -> jax.Array:
        self.check()
        points = jnp.asarray(points)
        if points.ndim == 0 or points.shape[-1] != self.dimension:
            raise ValueError(
                f"{name} has shape {points.shape}: expected [..., {self.dimension}], "
                f"the dimension of {type(self).__name__}"
            )
        return points


@functools.partial(jax.jit, static_argnames="number")
def _sample(spectrum: Spectrum, key: jax.Array, number: int) -> Frequencies:
    means, scales, freedom = spectrum._law()
    means, scales = jax.lax.stop_gradient((means, scales))
    which, along, across = jax.random.split(key, 3)
    component = jax.random.randint(which, (number,), 0, means.shape[0])
    normal = jax.random.normal(along, (number, means.shape[1]), means.dtype)
    spread = jnp.linalg.norm(jax.random.normal(across, (number, freedom), means.dtype), axis=-1)
    xi = means[component] + scales[component] * normal * (freedom**0.5 / spread)[:, None]
    return Frequencies(xi, jnp.mean(student_density(xi, means, scales, freedom), axis=-1))


def student_density(xi: jax.Array, means: jax.Array, scales: jax.Array, freedom: int) -> jax.Array:
    """Density of multivariate Student distributions: Cauchy for one degree of freedom.

        Gamma((n + l) / 2) / (Gamma(n / 2) (n pi)^(l/2) prod_k s_k) (1 + |(xi - m) / s|^2 / n)^(-(n + l) / 2)

    Args:
      xi: points [..., l].
      means: m [T, l].
      scales: s [T, l], positive.
      freedom: degrees of freedom n.

    Returns:
      The density of each of the T distributions at each point, [..., T].

    Example:
      >>> import jax.numpy as jnp
      >>> cauchy = student_density(jnp.zeros((1,)), jnp.zeros((1, 1)), jnp.ones((1, 1)), 1)
      >>> bool(jnp.allclose(cauchy, 1 / jnp.pi))
      True
    """
    size = means.shape[-1]
    squares = jnp.sum(((xi[..., None, :] - means) / scales) ** 2, axis=-1)
    constant = math.exp(math.lgamma((freedom + size) / 2) - math.lgamma(freedom / 2))
    constant /= (freedom * math.pi) ** (size / 2)
    return constant / jnp.prod(scales, axis=-1) * (1 + squares / freedom) ** (-(freedom + size) / 2)
