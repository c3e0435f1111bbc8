"""The per-tensor controller: how long a step, how much of it orthogonal, how fast the parameters shrink.

It starts as three laws, such as `step = exp(law . features) * warm-up * decay`, whose exponents are
meta-parameters; a small network corrects them and gives the rule a context, and so may an attention over the
tensor's past and across the tensors of the tree. The controller remembers what its
own steps did: the cosine between a gradient and the direction of the step before it (minus the derivative of
the loss with respect to the log step size) runs through its own Fourier memory; while it is high, steps grow.
"""

import math
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from learned_opt.config import FLTConfig
from learned_opt.optimizer.attention import ControllerAttention, remember

FLOOR = 1e-3  # of the schedule: what is left of a step at the end of the run and after it
COLLAPSED = 0.07  # signal to noise below which gradients vanish: steady noise alone gives 0.24
OVERSHOT = -0.1  # lasting cosine between a gradient and the step before it below which steps go too far
UNDERSHOT = 0.2  # and above which they are too short,
CLEAR = 0.4  # if the signal to noise is above this as well
GROWTH = 0.1  # of the log step, at each step and for each unit of what is above
LARGEST_GROWTH = 3.0  # of the log step in all: a factor of 20
LARGEST_SHARE = 0.03  # of a parameter that a single step may shrink away in a short run,
LEAST_SHARE = 0.01  # and in a long one
SHORT = 1000  # steps
LARGEST_SPREAD = 1.5  # more than any steady noise; shrinking that grew with it without end would feed itself
SURPRISED = 1.7  # spread above which single gradients tower over the others: a batch of one example, say
LARGEST_SURPRISE = 4.0
SIGNALS = ("hypergradient", "alignment")
STATIC_FEATURES = ("one", "matrix", "embedding", "fan_in", "fan_out", "depth")
SIZE_FEATURES = ("parameter", "noise_fast", "noise_slow", "sparsity")
CHANGE_FEATURES = ("decline", "spread", "surprise", "collapse", "overshoot", "undershoot")
TIME_FEATURES = ("horizon", "anytime", "elapsed", "noise_late")
LAWS = {
    # log step before the schedule
    "step_law": {
        "one": -4.6,
        "matrix": 2.0,
        "depth": -1.3,
        "surprise": -1.0,
        "collapse": 2.0,
        "overshoot": 1.0,
        "undershoot": 1.0,
    },
    # logit of the orthogonal share
    "blend_law": {"one": 2.5},
    # log weight of the parameter
    "shrink_law": {
        "one": -7.3,
        "matrix": 5.3,
        "embedding": 5.0,
        "decline": -1.8,
        "spread": 2.0,
        "surprise": -8.0,
        "collapse": -3.0,
        "overshoot": 30.0,
    },
}
"""What is decided for each tensor: the exponents that the features start with, zero where none is given."""


def feature_names(config: FLTConfig) -> tuple[str, ...]:
    """Names of the controller's inputs, in order."""
    modes = range(len(config.signal_decays))
    remembered = tuple(f"{signal}_{mode}" for signal in SIGNALS for mode in modes)
    shared = ("mean_noise", "mean_hypergradient")
    return STATIC_FEATURES + SIZE_FEATURES + CHANGE_FEATURES + TIME_FEATURES + remembered + shared


class Measures(NamedTuple):
    """Scale-free statistics of each logical tensor, arrays [tensors]."""

    parameter_rms: jax.Array
    noise_fast: jax.Array  # rms of the first read over the root of the squares: signal to noise
    noise_slow: jax.Array
    sparsity: jax.Array  # mean over rms of the rows' root squares: 1 when all rows learn alike
    hypergradient: jax.Array  # cos(g_t, u_{t-1})
    alignment: jax.Array  # cos(g_t, first read)
    decline: jax.Array  # log of the gradients' size now less its mean over the steps so far
    spread: jax.Array  # standard deviation of that log over recent steps: large once few examples still err


class Decision(NamedTuple):
    """What the controller says of each logical tensor."""

    log_step: jax.Array  # [tensors]
    blend: jax.Array  # [tensors], share of the orthogonal direction
    shrink: jax.Array  # [tensors], weight of the parameter beside the direction
    context: jax.Array  # [tensors, rule_width]
    signals: tuple[jax.Array, jax.Array]  # real and imaginary state, [tensors, signals, modes]
    growth: jax.Array  # [tensors], of the log step so far
    history: Any  # past tokens, [tensors, history, features]; () without attention


class Past(NamedTuple):
    """What the controller remembers and knows beside this step's measures."""

    signals: tuple[jax.Array, jax.Array]
    growth: jax.Array
    history: Any
    distance: jax.Array | None  # of every two tensors in the tree of parameters, [tensors, tensors]


class Controller(hk.Module):
    """Law, network and signal memory; applied once to all tensors of a tree."""

    def __init__(self, config: FLTConfig, name: str = "controller"):
        super().__init__(name=name)
        names = feature_names(config)
        size, width, modes = len(names), config.controller_width, len(config.signal_decays)
        laws = [hk.get_parameter(law, (size,), init=_planted(names, start)) for law, start in LAWS.items()]
        self.laws = jnp.stack(laws, axis=-1)
        self.context_width = config.rule_width
        if width:
            fan_in = hk.initializers.VarianceScaling(1.0, "fan_in", "normal")
            self.w1 = hk.get_parameter("w1", (size, width), init=fan_in)
            self.b1 = hk.get_parameter("b1", (width,), init=jnp.zeros)
            self.w2 = hk.get_parameter("w2", (width, len(LAWS) + self.context_width), init=jnp.zeros)
        self.width = width
        outputs = len(LAWS) + self.context_width
        heads = config.attention_heads
        self.attention = ControllerAttention(heads, size, outputs) if heads else None
        rates = [math.log(-math.log(decay)) for decay in config.signal_decays]
        self.log_rate = hk.get_parameter("log_rate", (modes,), init=_values(rates))
        self.frequency = hk.get_parameter("frequency", (modes,), init=jnp.zeros)
        self.phase = hk.get_parameter("phase", (modes,), init=jnp.zeros)
        self.schedule = Schedule()

    def __call__(
        self,
        static: jax.Array,
        measures: Measures,
        past: Past,
        count: jax.Array,
        horizon: jax.Array,
    ) -> Decision:
        """Decides for all tensors.

        Args:
          static: [tensors, len(STATIC_FEATURES)], from the geometry alone.
          measures: statistics at this step.
          past: state of the signal memory; past tokens and distances for the attention.
          count: steps taken before this one, scalar.
          horizon: planned number of steps, scalar; infinite if unknown.
        """
        dtype = static.dtype
        signals, read, correction = self._remember(measures, past.signals, count)
        remembered = read / correction
        lasting = read[:, SIGNALS.index("hypergradient"), min(1, read.shape[-1] - 1)]
        growth = grown(past.growth, lasting, measures.noise_fast)
        noise_fast, noise_slow = _log(measures.noise_fast), _log(measures.noise_slow)
        known = jnp.isfinite(horizon)
        length = run_length(count, horizon).astype(dtype)
        elapsed = jnp.where(known, jnp.clip(count / length, 0.0, 1.0), 0.0)
        ones = jnp.ones_like(noise_fast)
        measured = [
            jnp.clip(jnp.log(measures.parameter_rms + 1e-3) / 2 + static[:, 3], -4.0, 4.0),
            noise_fast,
            noise_slow,
            _log(measures.sparsity),
            jnp.clip(measures.decline, -4.0, 4.0),
            jnp.clip(measures.spread, 0.0, LARGEST_SPREAD),
            jnp.clip(measures.spread - SURPRISED, 0.0, LARGEST_SURPRISE),
            jnp.minimum(noise_fast - math.log(COLLAPSED), 0.0),
            jnp.minimum(lasting - OVERSHOT, 0.0),
            growth,
            ones * jnp.log(length / 500.0) / 2,
            ones * (1.0 - known),
            ones * (elapsed - 0.5),
            noise_fast * elapsed,
        ]
        shared = [ones * jnp.mean(noise_fast), ones * jnp.mean(remembered[:, 0, -1])]
        parts = (
            static,
            jnp.stack(measured, axis=-1),
            remembered.reshape(len(ones), -1),
            jnp.stack(shared, axis=-1),
        )
        x = jnp.concatenate([part.astype(dtype) for part in parts], axis=-1)
        decided = x @ self.laws.astype(dtype)
        context = jnp.zeros((len(noise_fast), self.context_width), dtype)
        if self.width:
            hidden = jnp.tanh(x @ self.w1.astype(dtype) + self.b1.astype(dtype)) @ self.w2.astype(dtype)
            decided, context = decided + hidden[:, : len(LAWS)], hidden[:, len(LAWS) :]
        history = past.history
        if self.attention is not None and past.distance is not None:
            history = remember(history, x, count)
            seen = self.attention(x, history, count, past.distance)
            decided, context = decided + seen[:, : len(LAWS)], context + seen[:, len(LAWS) :]
        log_step, blend, log_shrink = decided.T
        log_step = log_step + jnp.log(self.schedule(count, horizon)).astype(dtype)
        return Decision(
            log_step=jnp.clip(log_step, -18.0, 3.0),
            blend=jax.nn.sigmoid(blend),
            shrink=jnp.exp(jnp.clip(log_shrink, -18.0, 6.0)),
            context=context,
            signals=signals,
            growth=growth,
            history=history,
        )

    def _remember(
        self, measures: Measures, signals: tuple[jax.Array, jax.Array], count: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array, jax.Array]:
        """Advances the complex modes.

        Returns them, what they read, [tensors, signals, modes], and by what to divide that, [modes].
        """
        real, imag = signals
        dtype = real.dtype
        rate, angle = jnp.exp(self.log_rate.astype(dtype)), 2 * jnp.pi * self.frequency.astype(dtype)
        modulus, gain = jnp.exp(-rate), -jnp.expm1(-rate)
        rho_real, rho_imag = modulus * jnp.cos(angle), modulus * jnp.sin(angle)
        value = jnp.stack([measures.hypergradient, measures.alignment], axis=-1)[:, :, None].astype(dtype)
        new_real = rho_real * real - rho_imag * imag + gain * value
        new_imag = rho_imag * real + rho_real * imag
        correction = -jnp.expm1(-rate * (count.astype(dtype) + 1))
        phase = self.phase.astype(dtype)
        read = new_real * jnp.cos(phase) - new_imag * jnp.sin(phase)
        return (new_real, new_imag), read, correction


def grown(growth: jax.Array, lasting: jax.Array, noise: jax.Array) -> jax.Array:
    """How much longer than the laws say steps have become, log, after one more; all [tensors].

    Laws know networks, not how far a parameter has to go: to an offset of 500, say. Where gradients keep the
    direction of the step before, and clearly, steps grow; where they point against it, that is taken back.
    It is hypergradient descent (Baydin et al., arXiv 1703.04782) on the log step, with a dead zone between.

    Args:
      growth: so far, in [0, LARGEST_GROWTH].
      lasting: mean cosine between a gradient and the step before it over recent steps, 0 before the first.
      noise: signal to noise, `Measures.noise_fast`.
    """
    short = jnp.maximum(jnp.minimum(lasting - UNDERSHOT, noise - CLEAR), 0.0)
    far = jnp.maximum(-lasting, 0.0)
    return jnp.clip(growth + GROWTH * (short - far), 0.0, LARGEST_GROWTH)


def run_length(count: jax.Array, horizon: jax.Array) -> jax.Array:
    """Planned number of steps, scalar; if that is infinite, the number with this step."""
    return jnp.where(jnp.isfinite(horizon), horizon, count + 1.0)


def largest_share(count: jax.Array, horizon: jax.Array) -> jax.Array:
    """What a single step may shrink away of a parameter: 3% in runs of up to 1,000 steps, 1% from 3,000 on.

    At 3% a step, what a network learned 100 steps ago is down to a twentieth unless gradients renew it. A
    long run sees more examples than can come again in so few steps.

    Args:
      count: steps taken so far, scalar.
      horizon: planned number of steps, scalar, infinite if unknown.
    """
    return jnp.clip(LARGEST_SHARE * SHORT / run_length(count, horizon), LEAST_SHARE, LARGEST_SHARE)


class Schedule(hk.Module):
    """Warm-up and decay: `min(1, (t+1)/(wT+1)) (1 - t/T)^kappa` with a horizon T, else a power law."""

    def __call__(self, count: jax.Array, horizon: jax.Array) -> jax.Array:
        """The factor at a step, in [1e-3, 1] after warm-up. Scalar in, scalar out."""
        warmup, power = _positive("log_warmup", -3.5), _positive("log_decay_power", 0.0)
        any_warmup, any_time = _positive("log_anytime_warmup", 2.0), _positive("log_anytime_scale", 6.0)
        any_power = _positive("log_anytime_power", -0.7)
        known = jnp.isfinite(horizon)
        length = jnp.where(known, horizon, 1.0)
        elapsed = count / length
        rise = jnp.minimum((count + 1) / (jnp.where(known, warmup * length, any_warmup) + 1), 1.0)
        fall = jnp.maximum(1 - elapsed, FLOOR) ** power
        fade = (1 + count / any_time) ** -any_power
        return jnp.maximum(rise * jnp.where(known, fall, fade), rise * FLOOR)


def _planted(names: tuple[str, ...], values: dict[str, float]) -> hk.initializers.Initializer:
    return _values([values.get(name, 0.0) for name in names])


def _values(values: list[float]) -> hk.initializers.Initializer:
    return hk.initializers.Constant(jnp.asarray(values))


def _positive(name: str, log_start: float) -> jax.Array:
    return jnp.exp(hk.get_parameter(name, (), init=hk.initializers.Constant(log_start)))


def _log(x: jax.Array) -> jax.Array:
    return jnp.log(x + 1e-3)
