"""Masked linear attention (Choromanski, Lin, Chen et al., arXiv 2107.07999)."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from learned_opt.flt.sums import divide
from learned_opt.masks.base import Mask, known

FeatureMap = Callable[[jax.Array], jax.Array]


def elu_features(x: jax.Array) -> jax.Array:
    """The feature map elu(x) + 1 > 0 of Katharopoulos et al. (arXiv 2006.16236), element by element.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import elu_features
      >>> elu_features(jnp.array([0.0, 2.0]))
      Array([1., 3.], dtype=float32)
    """
    return jax.nn.elu(x) + 1


def relu_features(x: jax.Array) -> jax.Array:
    """The feature map relu(x) + 0.001 > 0 of the Performer (arXiv 2009.14794), element by element.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import relu_features
      >>> relu_features(jnp.array([-1.0, 2.0]))
      Array([1.000e-03, 2.001e+00], dtype=float32)
    """
    return jax.nn.relu(x) + 1e-3


class Attended(NamedTuple):
    """What `masked_attention` gives.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Exponential, masked_attention
      >>> x = jnp.zeros((2, 1))
      >>> attended = masked_attention(x, x, x, Exponential(rate=0.0, length=2))
      >>> attended.values.shape, attended.normalizer
      ((2, 1), Array([1., 2.], dtype=float32))
    """

    values: jax.Array  # [..., L, d]
    normalizer: jax.Array  # [..., L]; where it is not positive the values are zeros


def masked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, kernel: FeatureMap = elu_features
) -> Attended:
    """Linear attention under a mask, without an L x L matrix.

    With features phi of m components,

        out_i = sum_j M_ij phi(q_i).phi(k_j) v_j / sum_j M_ij phi(q_i).phi(k_j).

    Both sums come from one product of M with the rows vec(phi(k_j) [v_j, 1]'), contracted with phi(q_i):
    algorithm 1 of arXiv 2107.07999. The m (d + 1) columns are multiplied in blocks of about m + d, in the
    backward pass too, so memory is O(L (m + d)) and time is that of `mask.apply` on m (d + 1) columns.

    The normaliser is positive if the features are, and the mask has no negative entries and no empty rows.
    Where it is zero or negative the weights are no average: the values are zeros there, `normalizer` tells
    where, and outside of `jax.jit` there is a warning. NaN in the inputs stays NaN.

    Args:
      q: queries [..., L, d_k], floating point; scaled by the caller if the kernel wants a temperature.
      k: keys [..., L, d_k].
      v: values [..., L, d].
      mask: of size L, the same for all leading axes; masks that differ by head go under `jax.vmap`.
      kernel: phi, [..., L, d_k] -> [..., L, m].

    Returns:
      `Attended(values [..., L, d], normalizer [..., L])`: values in the dtype of v, the arithmetic and the
      normaliser in float32 at least.

    Raises:
      ValueError: if the shapes do not fit.
      TypeError: if an input is not real floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Exponential, masked_attention
      >>> zeros, v = jnp.zeros((3, 2)), jnp.array([[0.0], [3.0], [0.0]])
      >>> masked_attention(zeros, zeros, v, Exponential(rate=0.0, length=3)).values[:, 0]
      Array([0. , 1.5, 1. ], dtype=float32)
    """
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    if q.shape != k.shape or q.shape[:-1] != v.shape[:-1] or q.ndim < 2 or q.shape[-2] != mask.size:
        raise ValueError(
            f"q {q.shape}, k {k.shape}, v {v.shape}: expected q and k [..., L, d_k], v [..., L, d], "
            f"equal leading axes and L = {mask.size}, the mask's size"
        )
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} has dtype {x.dtype}: expected real floating point; convert it first")
    queries, keys = kernel(q), kernel(k)
    if queries.shape != keys.shape or queries.shape[:-1] != q.shape[:-1]:
        raise ValueError(
            f"kernel made {queries.shape} of {q.shape}: expected [..., L, m] with the same leading axes"
        )
    dtype = jnp.result_type(queries, keys, v, jnp.float32)  # sums over many blocks want more than bfloat16
    rows = jnp.pad(v.astype(dtype), [(0, 0)] * (v.ndim - 1) + [(0, 1)], constant_values=1)
    sums = _contract(queries.astype(dtype), keys.astype(dtype), rows, mask)
    normalizer = sums[..., -1]
    if (found := known(normalizer <= 0)) is not None and found.any():
        warnings.warn(
            f"{found.sum()} of {found.size} normalisers are not positive; the values there are zeros. "
            "Use positive features and a mask without negative entries or empty rows.",
            stacklevel=2,
        )
    return Attended(divide(sums).astype(v.dtype), normalizer)


def _contract(queries: jax.Array, keys: jax.Array, rows: jax.Array, mask: Mask) -> jax.Array:
    """sum_j M_ij phi(q_i).phi(k_j) rows_j, a block of features at a time."""
    features, width = keys.shape[-1], rows.shape[-1]
    block = max(1, (features + width) // width)
    number = math.ceil(features / block)

    def split(phi: jax.Array) -> jax.Array:  # [blocks, ..., L, block]; features of zeros fill the last one
        padded = jnp.pad(phi, [(0, 0)] * (phi.ndim - 1) + [(0, number * block - features)])
        return jnp.moveaxis(padded.reshape(*phi.shape[:-1], number, block), -2, 0)

    @jax.checkpoint  # or the backward pass would keep the products of every block
    def part(phi_q: jax.Array, phi_k: jax.Array, rows: jax.Array, mask: Mask) -> jax.Array:
        outer = phi_k[..., :, None] * rows[..., None, :]
        product = mask.apply(outer.reshape(*outer.shape[:-2], block * width))
        return jnp.einsum("...lm,...lmd->...ld", phi_q, product.reshape(outer.shape))

    def add(total: jax.Array, phi: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + part(*phi, rows, mask), None

    return jax.lax.scan(add, jnp.zeros_like(rows), (split(queries), split(keys)))[0]


class MaskedAttention(hk.Module):
    """Multi-head masked linear attention.

    Heads attend by `masked_attention`, each under its own mask or all under one. The masks are arguments, so
    that their parameters may come from `hk.get_parameter` or from anywhere else.

    Args:
      num_heads: H.
      key_size: d_k, of queries, keys and values of a head.
      model_size: of the output; H d_k if left out.
      kernel: the feature map.
      name: of the module.

    Example:
      >>> import haiku as hk, jax, jax.numpy as jnp
      >>> from learned_opt.masks import Exponential, MaskedAttention
      >>> def forward(x):
      ...     rates = hk.get_parameter("rates", (2,), init=hk.initializers.Constant(0.1))
      ...     masks = [Exponential(rate, length=x.shape[-2]) for rate in rates]
      ...     return MaskedAttention(num_heads=2, key_size=4)(x, masks)
      >>> x = jnp.ones((3, 10, 8))
      >>> network = hk.without_apply_rng(hk.transform(forward))
      >>> network.apply(network.init(jax.random.key(0), x), x).shape
      (3, 10, 8)
    """

    def __init__(
        self,
        num_heads: int,
        key_size: int,
        model_size: int | None = None,
        kernel: FeatureMap = elu_features,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.num_heads, self.key_size, self.kernel = num_heads, key_size, kernel
        self.model_size = num_heads * key_size if model_size is None else model_size

    def __call__(self, x: jax.Array, mask: Mask | Sequence[Mask]) -> jax.Array:
        """Attends over the tokens of x.

        Args:
          x: [..., L, D].
          mask: one for all heads, or H of them, of any kinds.

        Returns:
          [..., L, model_size].

        Raises:
          ValueError: if the masks do not fit x or the number of heads.
        """
        q, k, v = (self._project(x, name) for name in ("query", "key", "value"))
        if isinstance(mask, Mask):
            heads = masked_attention(q, k, v, mask, self.kernel).values
        elif len(mask) == self.num_heads:
            each = [
                masked_attention(q[..., h, :, :], k[..., h, :, :], v[..., h, :, :], own, self.kernel).values
                for h, own in enumerate(mask)
            ]
            heads = jnp.stack(each, axis=-3)
        else:
            raise ValueError(
                f"{len(mask)} masks for {self.num_heads} heads: expected one mask, or one for each head"
            )
        joined = jnp.moveaxis(heads, -3, -2).reshape(*x.shape[:-1], -1)
        return hk.Linear(self.model_size, with_bias=False, name="output")(joined)

    @hk.transparent
    def _project(self, x: jax.Array, name: str) -> jax.Array:
        y = hk.Linear(self.num_heads * self.key_size, with_bias=False, name=name)(x)
        return jnp.moveaxis(y.reshape(*x.shape[:-1], self.num_heads, self.key_size), -2, -3)
