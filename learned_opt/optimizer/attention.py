"""The controller's attention: over a tensor's own tokens in time, and across the tensors of the tree.

In time it is softmax attention with a learned additive Fourier encoding of the log of a token's age
(Choromanski, Li, Likhosherstov et al., arXiv 2302.01925, exact form). Tokens are kept at log-spaced ages, so
that 16 of them reach back 65,000 steps. Across tensors it is attention masked by exp(-rate * distance), the
distance being that of two tensors in the tree of parameters (Choromanski, Lin, Chen et al., arXiv
2107.07999): layers side by side see more of each other than the two ends of a network do.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from learned_opt.flt import GaussianMixture

HEAD_SIZE = 8
COMPONENTS = 2  # Gaussians of each head's spectrum
RATE = 0.5  # of the decay with the distance in the tree, before meta-training


def ages(count: jax.Array, slots: int) -> jax.Array:
    """Age of the token in each slot after step `count`, int32 [slots]; more than `count` where there is none.

    Slot j is refilled at every multiple of 2**j with what slot j - 1 held before: its age runs from 2**j - 1
    to 2**(j + 1) - 2.
    """
    period = 1 << jnp.arange(slots, dtype=jnp.int32)
    return count % period + period - 1


def remember(history: jax.Array, token: jax.Array, count: jax.Array) -> jax.Array:
    """The history [tensors, slots, features] after the tokens [tensors, features] of step `count`."""
    shifted = jnp.concatenate([token[:, None], history[:, :-1]], axis=1)
    due = count % (1 << jnp.arange(history.shape[1], dtype=jnp.int32)) == 0
    return jnp.where(due[:, None], shifted.astype(history.dtype), history)


class ControllerAttention(hk.Module):
    """Two attentions on controller tokens. Its output layer starts at zero: untrained, it says nothing."""

    def __init__(self, heads: int, features: int, outputs: int, name: str = "attention"):
        super().__init__(name=name)
        fan_in = hk.initializers.VarianceScaling(1.0, "fan_in", "normal")
        shape = (features, heads, HEAD_SIZE)
        names = ("query_time", "key_time", "value_time", "query_tree", "key_tree", "value_tree")
        self.maps = [hk.get_parameter(each, shape, init=fan_in) for each in names]
        self.output = hk.get_parameter("output", (2, heads, HEAD_SIZE, outputs), init=jnp.zeros)
        mixture = (heads, COMPONENTS)
        self.spectrum = GaussianMixture(
            weight=hk.get_parameter("weight", mixture, init=jnp.zeros),
            mean=hk.get_parameter("mean", (*mixture, 1), init=jnp.zeros),
            scale=jnp.exp(hk.get_parameter("log_scale", mixture, init=hk.initializers.Constant(-2.0))),
        )
        start = hk.initializers.Constant(jnp.log(RATE))
        self.rate = jnp.exp(hk.get_parameter("log_tree_rate", (heads,), init=start))

    def __call__(
        self, token: jax.Array, history: jax.Array, count: jax.Array, distance: jax.Array
    ) -> jax.Array:
        """What both attentions say of each tensor, [tensors, outputs].

        Args:
          token: of this step, [tensors, features].
          history: after `remember` at this step, [tensors, slots, features].
          count: steps taken before this one, int32 scalar.
          distance: of every two tensors in the tree of parameters, [tensors, tensors].
        """
        dtype = token.dtype
        query_time, key_time, value_time, query_tree, key_tree, value_tree = (
            jnp.einsum("...f,fhd->...hd", x, weight.astype(dtype))
            for x, weight in zip((token, history, history, token, token, token), self.maps, strict=True)
        )
        age = ages(count, history.shape[1])
        mask = jnp.where(age <= count, self._encoding(age).astype(dtype), -jnp.inf)
        in_time = _attend("thd,tshd->ths", "ths,tshd->thd", query_time, key_time, value_time, mask)
        decay = -self.rate.astype(dtype)[:, None] * distance.astype(dtype)[:, None]
        in_tree = _attend("thd,uhd->thu", "thu,uhd->thd", query_tree, key_tree, value_tree, decay)
        return jnp.einsum("nthd,nhdo->to", jnp.stack([in_time, in_tree]), self.output.astype(dtype))

    def _encoding(self, age: jax.Array) -> jax.Array:
        """The additive encoding of each head at these ages, [heads, slots]."""
        lags = jnp.log2(1.0 + age)[:, None]
        return jax.vmap(lambda spectrum: spectrum.mask(lags))(self.spectrum)


def _attend(
    scores: str, mixture: str, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    logits = jnp.einsum(scores, query, key) * HEAD_SIZE**-0.5 + mask
    return jnp.einsum(mixture, jax.nn.softmax(logits), value)
