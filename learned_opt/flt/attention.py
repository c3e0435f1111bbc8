"""Attention with learned Fourier relative positional encodings, at a cost linear in the tokens."""

import functools
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from learned_opt.flt.draws import Draws, FeatureMap, draw
from learned_opt.flt.inputs import Inputs
from learned_opt.flt.kernels import Kernel, Softmax
from learned_opt.flt.spectrum import Spectrum
from learned_opt.flt.sums import State, bidirectional_sums, causal_sums, dense_sums, divide, exact_sums


def fourier_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    spectrum: Spectrum,
    *,
    kernel: Kernel | Softmax,
    causal: bool = False,
    key_positions: jax.Array | None = None,
    padding_mask: jax.Array | None = None,
    position_scale: float | jax.Array = 1.0,
    draws: Draws | None = None,
    dense: bool = False,
) -> jax.Array:
    """Attention whose logits have a learned function of the difference of positions added to them.

        out = D^-1 A v,     A_ij = exp(q_i.k_j / d^(1/2) + f(r_i - r_j)),     D = diag(A 1)

    (arXiv 2302.01925). f is the mask of the spectrum, and no L x L array is made: A is
    estimated by `Phi(q^) Phi(k^)^T` with `q^ = [d^-1/4 q, N1]`, `k^ = [d^-1/4 k, N2]` and the encodings of
    `encode`. It costs O(L m (d + R + d_v)) time for m features and R frequencies. Features are there for a
    section of tokens at a time, with gradients too.

    The estimate of A is unbiased given the frequencies, and the estimate of f is unbiased; the ratio is not,
    nor is the exponential of an estimated f.

    A query that sees no key gives 0. So does one whose normaliser D is not positive: no feature sees both it
    and a key (`Relu`), or its weights underflow. A call with concrete arrays then warns; in a compiled one,
    `jax.experimental.checkify.checkify` of the caller reports it. NaN in the inputs stays NaN.

    Args:
      q: queries [..., L, d], floating. Leading axes (batch, heads) broadcast against those of the other
        arrays.
      k: keys [..., S, d].
      v: values [..., S, d_v].
      positions: coordinates r [..., L, l] of the queries, finite; integers too.
      spectrum: g, of dimension l.
      kernel: the feature map. `Softmax()` takes the exponential itself, in O(L S) time and memory: of the
        closed form of f, or, with draws, of the estimated f.
      causal: whether query i sees the keys j <= i only. Tokens are in order, whatever their positions; S = L.
      key_positions: coordinates [..., S, l] of the keys, if they are not those of the queries. Shifting them
        by c makes a directed encoding `f(r_i - r_j - c)` of an even f.
      padding_mask: bool [..., S], False for keys that nobody sees.
      position_scale: multiplies both positions, which brings them into units of the spectrum.
      draws: frequencies and projection, from `draw`. Left out, they are those of `jax.random.key(0)` with 64
        frequencies that follow the spectrum: keep draws while a spectrum is learned.
      dense: makes the L x S array of estimated weights: slow, the oracle of the fast forms.

    Returns:
      [..., L, d_v] in the dtype of v. All sums are at least in float32.

    Raises:
      TypeError: a dtype that does not fit.
      ValueError: shapes that do not fit, named; positions or leaves of the spectrum that are not finite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import FavorPlus, ShiftInvariant
      >>> q, k, v = jax.random.normal(jax.random.key(1), (3, 2, 100, 8))
      >>> positions = jnp.arange(100)[:, None]
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([5.0]), "matern32")
      >>> out = fourier_attention(q, k, v, positions, spectrum, kernel=FavorPlus(), causal=True)
      >>> out.shape
      (2, 100, 8)
      >>> bool(jnp.allclose(out[:, 0], v[:, 0], atol=1e-6))  # the first token sees itself only
      True
    """
    if not isinstance(kernel, Kernel | Softmax):
        raise TypeError(f"kernel = {kernel!r}: expected a Kernel or Softmax()")
    inputs = Inputs.of(
        q,
        k,
        v,
        positions,
        spectrum,
        causal=causal,
        key_positions=key_positions,
        padding_mask=padding_mask,
        position_scale=position_scale,
    )
    sums = _sums(inputs, spectrum, draws, kernel, causal, dense)
    _report(sums[..., -1], inputs.keep, causal)
    return divide(sums).astype(jnp.asarray(v).dtype)


@functools.partial(jax.jit, static_argnames=("kernel", "causal", "dense"))
def _sums(
    inputs: Inputs,
    spectrum: Spectrum,
    draws: Draws | None,
    kernel: Kernel | Softmax,
    causal: bool,
    dense: bool,
) -> jax.Array:
    if isinstance(kernel, Softmax):
        return exact_sums(inputs, spectrum, draws.frequencies if draws else None, causal)
    draws = draws or draw(jax.random.key(0), spectrum, kernel, head_size=inputs.q.shape[-1])
    features = FeatureMap(spectrum, kernel, draws)
    if dense:
        queries = features.queries(inputs.q, inputs.query_positions)
        keys = features.keys(inputs.k, inputs.key_positions, inputs.keep)
        return dense_sums(queries, keys, inputs.v, causal)
    state = State.empty(inputs.v.shape[:-2], kernel.features, inputs.v.shape[-1], inputs.v.dtype)
    return (causal_sums if causal else bidirectional_sums)(features, inputs, state)


def _report(normalizer: jax.Array, keep: jax.Array, causal: bool) -> None:
    """Warns of queries that see a key and have no positive normaliser; under checkify, an error."""
    seen = (jnp.cumsum(keep, axis=-1) > 0) if causal else jnp.any(keep, axis=-1, keepdims=True)
    bad = jnp.sum(seen & (normalizer <= 0))
    message = "{bad} of {all} queries have a normaliser that is not positive: their output is 0"
    if isinstance(bad, jax.core.Tracer):
        checkify.debug_check(bad == 0, message, bad=bad, all=jnp.asarray(normalizer.size))
    elif bad:
        warnings.warn(message.format(bad=bad, all=normalizer.size), RuntimeWarning, stacklevel=3)
