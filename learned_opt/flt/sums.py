"""Sums over keys, `sum_j Phi(q_i).Phi(k_j) [v_j, 1]`: the last column is the normaliser.

Every form scales the weights of a query by `exp(-c)`, c the largest log scale of the keys that it sees:
nothing overflows, and what a query sees does not depend on later keys. The scale cancels when `divide`
normalises, so no gradient goes through it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from learned_opt.flt.draws import FeatureMap
from learned_opt.flt.encoding import encode
from learned_opt.flt.inputs import Inputs
from learned_opt.flt.kernels import Features
from learned_opt.flt.sections import over_tokens
from learned_opt.flt.spectrum import Frequencies, Spectrum

# Tokens whose features are there at once: few enough for the cache of a CPU; a GPU takes more.
SECTION = 4096
# Tokens at a time in the causal form: about as many as features, so that both of its products cost the same.
CHUNK = 128


class State(NamedTuple):
    """What attention keeps of all keys so far.

    Example:
      >>> from learned_opt.flt import Elu, init_state
      >>> state = init_state(Elu(features=8), value_size=3, leading=(2,))
      >>> state.sums.shape, state.largest.shape
      ((2, 8, 4), (2,))
    """

    sums: jax.Array  # [..., m, d_v + 1], sum_j exp(s_j - largest) phi_j [v_j, 1]
    largest: jax.Array  # [...], the largest log scale s_j; -inf before the first key

    @staticmethod
    def empty(leading: tuple[int, ...], features: int, value_size: int, dtype: DTypeLike) -> "State":
        """The state before the first key."""
        return State(
            jnp.zeros((*leading, features, value_size + 1), dtype), jnp.full(leading, -jnp.inf, dtype)
        )

    def absorb(self, keys: Features, values: jax.Array) -> "State":
        """The state after more keys [..., S, m] with values [..., S, d_v]."""
        found = jnp.max(keys.log_scale, axis=-1, initial=-jnp.inf)
        largest = jax.lax.stop_gradient(jnp.maximum(self.largest, found))
        weights = keys.values * _relative(keys.log_scale, largest[..., None])[..., None]
        kept = _relative(self.largest, largest)[..., None, None] * self.sums
        return State(kept + jnp.swapaxes(weights, -1, -2) @ _with_ones(values), largest)


def bidirectional_sums(features: FeatureMap, inputs: Inputs, state: State) -> jax.Array:
    """Sums over all keys, [..., L, d_v + 1]; features are there for a section of tokens at a time.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import Elu, ShiftInvariant, draw
      >>> spectrum, kernel = ShiftInvariant(jnp.array(0.0), jnp.array([1.0])), Elu(features=2)
      >>> draws = draw(jax.random.key(0), spectrum, kernel, head_size=1, frequencies=1)
      >>> zeros, v = jnp.zeros((3, 1)), jnp.array([[3.0], [4.0], [5.0]])
      >>> inputs, state = Inputs.of(zeros, zeros, v, zeros, spectrum), State.empty((), 2, 1, v.dtype)
      >>> sums = bidirectional_sums(FeatureMap(spectrum, kernel, draws), inputs, state)
      >>> divide(sums).tolist()
      [[4.0], [4.0], [4.0]]
    """

    def absorb(state: State, tokens: tuple[jax.Array, ...]) -> tuple[State, None]:
        k, positions, v, keep = tokens
        return state.absorb(features.keys(k, positions, keep[..., 0]), v), None

    def read(state: State, tokens: tuple[jax.Array, ...]) -> tuple[State, jax.Array]:
        return state, features.queries(*tokens).values @ state.sums

    keys = inputs.k, inputs.key_positions, inputs.v, inputs.keep[..., None]
    state, _ = over_tokens(absorb, state, keys, _section())
    return over_tokens(read, state, (inputs.q, inputs.query_positions), _section())[1]


def causal_sums(features: FeatureMap, inputs: Inputs, state: State) -> jax.Array:
    """Sums over keys j <= i, likewise, in chunks: a state for what is before, a triangle within.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from learned_opt.flt import Elu, ShiftInvariant, draw
      >>> spectrum, kernel = ShiftInvariant(jnp.array(0.0), jnp.array([1.0])), Elu(features=2)
      >>> draws = draw(jax.random.key(0), spectrum, kernel, head_size=1, frequencies=1)
      >>> zeros, v = jnp.zeros((3, 1)), jnp.array([[3.0], [4.0], [5.0]])
      >>> inputs, state = Inputs.of(zeros, zeros, v, zeros, spectrum), State.empty((), 2, 1, v.dtype)
      >>> divide(causal_sums(FeatureMap(spectrum, kernel, draws), inputs, state)).tolist()
      [[3.0], [3.5], [4.0]]
    """

    def section(state: State, tokens: tuple[jax.Array, ...]) -> tuple[State, jax.Array]:
        q, query_positions, k, key_positions, v, keep = tokens
        queries, keys = features.queries(q, query_positions), features.keys(k, key_positions, keep[..., 0])
        there = jnp.ones_like(keep)  # False where the last chunk is filled
        arrays = queries.values, keys.values, keys.log_scale[..., None], v, there
        return over_tokens(chunk, state, arrays, CHUNK)

    def chunk(state: State, arrays: tuple[jax.Array, ...]) -> tuple[State, jax.Array]:
        queries, features, log_scale, values, there = arrays
        keys = Features(features, jnp.where(there, log_scale, -jnp.inf)[..., 0])
        within = jax.lax.cummax(jax.lax.stop_gradient(keys.log_scale), axis=keys.log_scale.ndim - 1)
        largest = jnp.maximum(within, state.largest[..., None])
        before = _relative(state.largest[..., None], largest)[..., None] * (queries @ state.sums)
        sums = before + _weights(queries, keys, largest, causal=True) @ _with_ones(values)
        return state.absorb(keys, values), sums

    q, k, v, query_positions, key_positions, keep = inputs
    tokens = q, query_positions, k, key_positions, v, keep[..., None]
    return over_tokens(section, state, tokens, _section())[1]


def _section() -> int:
    return SECTION if jax.default_backend() == "cpu" else 8 * SECTION


def dense_sums(queries: Features, keys: Features, values: jax.Array, causal: bool) -> jax.Array:
    """The same from the whole array of weights [..., L, S]: the oracle of both forms.

    Example:
      >>> import jax.numpy as jnp
      >>> tokens = Features(jnp.ones((3, 2)), jnp.zeros(3))
      >>> dense_sums(tokens, tokens, jnp.array([[3.0], [4.0], [5.0]]), causal=True).tolist()
      [[6.0, 2.0], [14.0, 4.0], [24.0, 6.0]]
    """
    seen = jnp.where(
        _visible(queries.values.shape[-2], values.shape[-2], causal), keys.log_scale[..., None, :], -jnp.inf
    )
    largest = jax.lax.stop_gradient(jnp.max(seen, axis=-1, initial=-jnp.inf))
    return _weights(queries.values, keys, largest, causal) @ _with_ones(values)


def exact_sums(
    inputs: Inputs, spectrum: Spectrum, frequencies: Frequencies | None, causal: bool
) -> jax.Array:
    """The same with the exponential itself, of the mask in closed form or as the frequencies estimate it.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant
      >>> spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([1.0]))
      >>> same = jnp.zeros((2, 1))
      >>> exact_sums(Inputs.of(same, same, same + 3, same, spectrum), spectrum, None, causal=True).tolist()
      [[3.0, 1.0], [6.0, 2.0]]
    """
    q, k, v, r_q, r_k, keep = inputs
    if frequencies is None:
        mask = spectrum.mask(r_q[..., :, None, :] - r_k[..., None, :, :])
    else:
        sides = encode(r_q, spectrum, frequencies).query, encode(r_k, spectrum, frequencies).key
        mask = sides[0] @ jnp.swapaxes(sides[1], -1, -2)
    logits = q @ jnp.swapaxes(k, -1, -2) / max(q.shape[-1], 1) ** 0.5 + mask.astype(q.dtype)
    logits = jnp.where(_visible(q.shape[-2], k.shape[-2], causal) & keep[..., None, :], logits, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    return _relative(logits, largest) @ _with_ones(v)


def divide(sums: jax.Array) -> jax.Array:
    """Sums over their normaliser: [..., d_v + 1] to [..., d_v].

    0 where the normaliser is not positive, for the weights are no average there. NaN stays NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> divide(jnp.array([[14.0, 4.0], [3.0, 0.0]])).tolist()
      [[3.5], [0.0]]
    """
    normalizer = sums[..., -1:]
    empty = normalizer <= 0
    # Twice: the derivative of a quotient squares the divisor, and the square of a small normaliser is 0.
    sums = sums / jax.lax.stop_gradient(jnp.where(empty, 1, normalizer))
    return jnp.where(empty, 0, sums[..., :-1] / jnp.where(empty, 1, sums[..., -1:]))


def _weights(queries: jax.Array, keys: Features, largest: jax.Array, causal: bool) -> jax.Array:
    """Weights [..., L, S] in units of `exp(largest)` [..., L], 0 where a query does not see the key."""
    visible = _visible(queries.shape[-2], keys.values.shape[-2], causal)
    seen = jnp.where(visible, keys.log_scale[..., None, :], -jnp.inf)
    return queries @ jnp.swapaxes(keys.values, -1, -2) * _relative(seen, largest[..., None])


def _visible(queries: int, keys: int, causal: bool) -> jax.Array:
    everything = jnp.ones((queries, keys), bool)
    return jnp.tril(everything) if causal else everything


def _relative(log_scale: jax.Array, largest: jax.Array) -> jax.Array:
    """`exp(log_scale - largest)`; 0 where there is no key at all and both are -inf."""
    return jnp.exp(log_scale - jnp.where(jnp.isneginf(largest), 0, largest))


def _with_ones(values: jax.Array) -> jax.Array:
    return jnp.concatenate([values, jnp.ones_like(values, shape=(*values.shape[:-1], 1))], axis=-1)
