"""Feature maps Phi: attention weights as inner products, `Phi(q).Phi(k)`, at a cost linear in the tokens."""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Features(NamedTuple):
    """Features of each token up to its own factor: `Phi(x) = values * exp(log_scale)`.

    The factor of a query cancels in attention. That of a key is compared with those of the keys that it is
    summed with, so that no exponential of a large number is ever taken.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel, x = FavorPlus(features=4), 100 * jnp.ones((1, 2))
      >>> phi = kernel(x, kernel.projection(jax.random.key(0), 2))
      >>> phi.values.shape, float(phi.values.max()), bool(phi.log_scale[0] < -1000)
      ((1, 4), 0.5, True)
    """

    values: jax.Array  # [..., L, m]
    log_scale: jax.Array  # [..., L]


@dataclasses.dataclass(frozen=True)
class Kernel(abc.ABC):
    """A random feature map: a projection, drawn once, and what is made of the projected vectors.

    Any map of a rotation-invariant projection sees, in expectation, only the lengths and the inner product of
    its two arguments. Encodings of positions have a constant length, and an inner product that depends on the
    difference of positions: attention is translation invariant in expectation, whatever the kernel.

    Attributes:
      features: m, the number of features; the error of a weight falls as m^-1/2.
      orthogonal: whether rows of the projection are orthogonal in blocks of the vectors' size, which lowers
        the variance (arXiv 2009.14794).

    Example:
      >>> [isinstance(kernel, Kernel) for kernel in (FavorPlus(), Relu(), Elu())]
      [True, True, True]
    """

    features: int = 256
    orthogonal: bool = True

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"features = {self.features}: expected at least one feature")

    @property
    def rows(self) -> int:
        """Number of rows of the projection."""
        return self.features

    def projection(self, key: jax.Array, size: int) -> jax.Array:
        """Rows w, each normally distributed with unit covariance.

        Args:
          key: a random key.
          size: of the vectors to project.

        Returns:
          The projection [rows, size], in the default floating dtype.
        """
        if not self.orthogonal or size == 0:
            return jax.random.normal(key, (self.rows, size))
        turns, lengths = jax.random.split(key)
        blocks = jax.random.orthogonal(turns, size, (-(-self.rows // size),)).reshape(-1, size)[: self.rows]
        # A normal vector's length, so that each row by itself is exactly normal.
        return blocks * jnp.linalg.norm(jax.random.normal(lengths, blocks.shape), axis=-1, keepdims=True)

    @abc.abstractmethod
    def __call__(self, x: jax.Array, projection: jax.Array) -> Features:
        """Features of vectors.

        Args:
          x: [..., L, size].
          projection: [rows, size].

        Returns:
          Features [..., L, m] and [..., L], in the dtype that x and the projection promote to.
        """


@dataclasses.dataclass(frozen=True)
class FavorPlus(Kernel):
    """Positive random features of the exponential (FAVOR+, arXiv 2009.14794).

        exp(x.y) = E_w[phi_w(x) phi_w(y)],     phi_w(x) = exp(w.x - |x|^2 / 2),     w ~ N(0, I)

    Hyperbolic features take each w with both signs, which is the mean of hyperbolic cosines: unbiased as
    well, with less variance. The relative variance of one feature is `exp(|x + y|^2) - 1`: exact attention
    wants short vectors.

    Attributes:
      features: m; an even number if hyperbolic.
      orthogonal: as in `Kernel`.
      hyperbolic: whether each row is used with both signs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel, x = FavorPlus(features=4096), jnp.array([[0.3, -0.5]])
      >>> phi = kernel(x, kernel.projection(jax.random.key(0), 2))
      >>> weight = jnp.exp(2 * phi.log_scale[0]) * phi.values[0] @ phi.values[0]
      >>> bool(jnp.allclose(weight, jnp.exp(x[0] @ x[0]), rtol=0.1))
      True
    """

    hyperbolic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hyperbolic and self.features % 2:
            raise ValueError(f"features = {self.features}: expected an even number for hyperbolic features")

    @property
    def rows(self) -> int:
        """Number of rows of the projection: half the features if each is used twice."""
        return self.features // 2 if self.hyperbolic else self.features

    def __call__(self, x: jax.Array, projection: jax.Array) -> Features:
        """See `Kernel.__call__`. The largest value is `m^-1/2`."""
        exponents = x @ projection.T
        if self.hyperbolic:
            exponents = jnp.concatenate([exponents, -exponents], axis=-1)
        largest = jax.lax.stop_gradient(jnp.max(exponents, axis=-1, keepdims=True))
        values = jnp.exp(exponents - largest) / self.features**0.5
        return Features(values, largest[..., 0] - jnp.sum(x * x, axis=-1) / 2)


@dataclasses.dataclass(frozen=True)
class Relu(Kernel):
    """Rectified projections: an arc-cosine kernel (Cho and Saul, 2009) instead of the exponential.

        E_w[relu(w.x) relu(w.y)] = |x| |y| (sin t + (pi - t) cos t) / (2 pi),     t the angle between x and y

    The variance is bounded, unlike that of positive features, but weights are no longer `exp(logit + mask)`.
    A weight is exactly 0 where no feature sees both tokens.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel, x = Relu(features=4096), jnp.array([[1.0, 1.0]])
      >>> phi = kernel(x, kernel.projection(jax.random.key(0), 2)).values[0]
      >>> bool(jnp.allclose(phi @ phi, 1.0, rtol=0.1))
      True
    """

    def __call__(self, x: jax.Array, projection: jax.Array) -> Features:
        """See `Kernel.__call__`."""
        return _plain(jax.nn.relu(x @ projection.T) / self.features**0.5)


@dataclasses.dataclass(frozen=True)
class Elu(Kernel):
    """`elu(w.x) + 1`: smooth and positive (arXiv 2006.16236, here of random projections).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel = Elu(features=8)
      >>> phi = kernel(jnp.ones((3, 2)), kernel.projection(jax.random.key(0), 2))
      >>> phi.values.shape, bool((phi.values > 0).all())
      ((3, 8), True)
    """

    def __call__(self, x: jax.Array, projection: jax.Array) -> Features:
        """See `Kernel.__call__`."""
        return _plain((jax.nn.elu(x @ projection.T) + 1) / self.features**0.5)


@dataclasses.dataclass(frozen=True)
class Softmax:
    """The exact exponential, which has no finite features: attention in quadratic time, the oracle.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant, fourier_attention
      >>> q, r = jnp.zeros((3, 2)), jnp.arange(3.0)[:, None]
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([1.0]))
      >>> [f"{value:.3f}" for value in fourier_attention(q, q, r, r, spectrum, kernel=Softmax())[:, 0]]
      ['0.724', '1.000', '1.276']
    """

    def projection(self, key: jax.Array, size: int) -> jax.Array:
        """No rows: [0, size]."""
        del key
        return jnp.zeros((0, size))


def _plain(values: jax.Array) -> Features:
    return Features(values, jnp.zeros(values.shape[:-1], values.dtype))
