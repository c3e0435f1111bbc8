"""Causal attention one token at a time, in memory that does not depend on how many there were."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from learned_opt.flt.draws import Draws, FeatureMap
from learned_opt.flt.inputs import Inputs
from learned_opt.flt.kernels import Kernel, Softmax
from learned_opt.flt.spectrum import Spectrum
from learned_opt.flt.sums import State, divide


def init_state(
    kernel: Kernel, value_size: int, leading: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
) -> State:
    """The state before the first token.

    Args:
      kernel: the feature map, m features.
      value_size: d_v.
      leading: leading axes (batch, heads).
      dtype: of the state, float32 or wider.

    Returns:
      m (d_v + 1) + 1 zeros and a largest log scale of -inf, for each of the leading axes.

    Raises:
      TypeError: `Softmax`, which has no finite state.

    Example:
      >>> from learned_opt.flt import FavorPlus
      >>> init_state(FavorPlus(features=32), value_size=4).sums.shape
      (32, 5)
    """
    if isinstance(kernel, Softmax):
        raise TypeError("kernel = Softmax(): it has no finite features; stream FavorPlus, Relu or Elu")
    return State.empty(leading, kernel.features, value_size, dtype)


def attention_step(
    state: State,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    position: jax.Array,
    spectrum: Spectrum,
    *,
    kernel: Kernel,
    draws: Draws,
    position_scale: float | jax.Array = 1.0,
) -> tuple[State, jax.Array]:
    """Causal `fourier_attention` of the next token, O(m (d + R + d_v)) in time.

    Args:
      state: of the tokens before, from `init_state` or the last step. The token is added to it.
      q: its query [..., d].
      k: its key [..., d].
      v: its value [..., d_v].
      position: its coordinates [..., l].
      spectrum: as in `fourier_attention`, the same in every step.
      kernel: likewise.
      draws: likewise.
      position_scale: likewise.

    Returns:
      The next state and what the token reads [..., d_v], in the dtype of v; 0 where its normaliser is not
      positive.

    Raises:
      TypeError, ValueError: as `fourier_attention`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import FavorPlus, ShiftInvariant, draw
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([5.0]))
      >>> kernel = FavorPlus(features=64)
      >>> draws = draw(jax.random.key(0), spectrum, kernel, head_size=4)
      >>> state = init_state(kernel, value_size=4)
      >>> for t, x in enumerate(jax.random.normal(jax.random.key(1), (10, 4))):
      ...     time = jnp.array([t])
      ...     state, out = attention_step(state, x, x, x, time, spectrum, kernel=kernel, draws=draws)
      >>> out.shape
      (4,)
    """
    q, k, v, position = (jnp.asarray(x)[..., None, :] for x in (q, k, v, position))
    inputs = Inputs.of(q, k, v, position, spectrum, position_scale=position_scale)
    expected = (*inputs.v.shape[:-2], kernel.features, inputs.v.shape[-1] + 1)
    if state.sums.shape != expected:
        raise ValueError(f"state.sums has shape {state.sums.shape}: expected {expected}; see init_state")
    features = FeatureMap(spectrum, kernel, draws)
    state = state.absorb(features.keys(inputs.k, inputs.key_positions, inputs.keep), inputs.v)
    queries = features.queries(inputs.q, inputs.query_positions)
    return state, divide(queries.values @ state.sums)[..., 0, :].astype(v.dtype)
