"""The hand-designed optimizers that a learned one is compared with: one literal table, one row each.

A row's factory takes a `Setting`, what is chosen for it, whose fields may be traced scalars: a whole grid of
rates, decays and schedules is one `jax.vmap` and one compilation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

Scalar = float | jax.Array
Schedule = Callable[[Any], jax.Array]

WARMUP_FRACTION = 0.05
DECAYS = (0.0, 1e-2, 1e-1)
"""The weight decays of the wide grid."""


class Setting(NamedTuple):
    """What is chosen for an optimizer: floats in tables, traced scalars in compiled code.

    Attributes:
      rate: peak learning rate; for a learned optimizer the multiplier of its step.
      weight_decay: decoupled weight decay.
      constant: 1 keeps the peak rate after the warm-up, 0 lets it fall along a half cosine.
    """

    rate: Scalar = 1.0
    weight_decay: Scalar = 0.0
    constant: Scalar = 0.0


Factory = Callable[[Setting, Scalar], optax.GradientTransformation]


class Baseline(NamedTuple):
    """One row of the table.

    Attributes:
      name: the name used on the command line and in every result.
      factory: `(setting, total_steps) -> optax transformation`; all scalars may be traced.
      rates: the grid of peak learning rates, increasing, half a decade apart.
      weight_decay: the decoupled weight decay of the default grid; None if the optimizer has none.
      constant: whether its own schedule is constant after the warm-up, whatever is asked.
      eval_params: `(state, parameters) -> parameters` to evaluate at, if not the trained ones.
    """

    name: str
    factory: Factory
    rates: tuple[float, ...]
    weight_decay: float | None = 1e-2
    constant: bool = False
    eval_params: Callable[[Any, Any], Any] | None = None

    def grid(self, rates: Sequence[float], wide: bool = False) -> tuple[Setting, ...]:
        """The settings to try: `rates` as they are or, if `wide`, times weight decays and schedules."""
        if not wide:
            return tuple(Setting(rate, self.weight_decay or 0.0, float(self.constant)) for rate in rates)
        decays = (0.0,) if self.weight_decay is None else DECAYS
        schedules = (1.0,) if self.constant else (0.0, 1.0)
        return tuple(Setting(*each) for each in itertools.product(rates, decays, schedules))


def schedule(setting: Setting, total_steps: Scalar) -> Schedule:
    """Linear warm-up over the first 5% of the run, then a half cosine to zero, or the peak if constant.

    With w = max(1, 0.05 T), the rate at step t is `rate * min(1, (t + 1) / w)` while t < w and, unless
    constant, `rate * (1 + cos(pi (t - w) / (T - w))) / 2` after it; it stays at zero for t >= T. The first
    step is not wasted on a rate of zero.

    Args:
      setting: its `rate` and `constant` are used.
      total_steps: T, the length of the run in steps; may be traced.

    Returns:
      A schedule `step -> float32 scalar`.
    """

    def rate_at(step: Any) -> jax.Array:
        warmup = jnp.maximum(1.0, WARMUP_FRACTION * total_steps)
        progress = (step - warmup) / jnp.maximum(1.0, total_steps - warmup)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        shape = setting.constant + (1.0 - setting.constant) * cosine
        return setting.rate * jnp.minimum(1.0, (step + 1) / warmup) * shape

    return rate_at


def half_decades(low: int, high: int) -> tuple[float, ...]:
    """The half-decade grid 10^low, 10^(low + 1/2), ..., 10^high, rounded to three significant digits."""
    return tuple(float(f"{10 ** (low + index / 2):.3g}") for index in range(2 * (high - low) + 1))


def widen(rates: Sequence[float], side: str, count: int = 2) -> tuple[float, ...]:
    """The `count` rates that continue an even grid (on a log scale) below (`side="low"`) or above it."""
    low, *_, high = sorted(rates)
    ratio = (high / low) ** (1 / (len(rates) - 1))
    edge, factor = (low, 1 / ratio) if side == "low" else (high, ratio)
    return tuple(float(f"{edge * factor**index:.3g}") for index in range(1, count + 1))


def _matrices_and_kernels(params: Any) -> Any:
    """Muon's view of each leaf: matrices, and convolution kernels flattened to [everything, out]."""

    def dimensions(leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if leaf.ndim == 2:
            return contrib.MuonDimensionNumbers(0, 1)
        if leaf.ndim == 4:
            return contrib.MuonDimensionNumbers((0, 1, 2), 3)
        return None

    return jax.tree.map(dimensions, params)


def _adam(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    return optax.adam(schedule(setting, steps))


def _adamw(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    return optax.adamw(schedule(setting, steps), weight_decay=setting.weight_decay)


def _nadamw(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    return optax.nadamw(schedule(setting, steps), weight_decay=setting.weight_decay)


def _lion(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    return optax.lion(schedule(setting, steps), weight_decay=setting.weight_decay)


def _muon(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    return contrib.muon(
        schedule(setting, steps),
        weight_decay=setting.weight_decay,
        adam_weight_decay=setting.weight_decay,
        muon_weight_dimension_numbers=_matrices_and_kernels,
    )


def _ademamix(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    # The slow average remembers a fifth of the run: the published 0.9999 is meant for 50,000 steps.
    slow = 1.0 - 5.0 / jnp.maximum(steps, 50.0)
    return contrib.ademamix(schedule(setting, steps), b3=slow, weight_decay=setting.weight_decay)


def _schedule_free(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    return contrib.schedule_free_adamw(
        schedule(setting, steps),  # type: ignore[arg-type]  # a schedule is passed on as it is
        weight_decay=setting.weight_decay,
    )


def _prodigy(setting: Setting, steps: Scalar) -> optax.GradientTransformation:
    return contrib.prodigy(schedule(setting, steps), weight_decay=setting.weight_decay, safeguard_warmup=True)


BASELINES: dict[str, Baseline] = {
    row.name: row
    for row in (
        Baseline("adam", _adam, half_decades(-5, -1), weight_decay=None),
        Baseline("adamw", _adamw, half_decades(-5, -1)),
        Baseline("nadamw", _nadamw, half_decades(-5, -1)),
        # A step of Lion has unit size in every coordinate, so its best rate is lower and its decay higher.
        Baseline("lion", _lion, half_decades(-6, -2), weight_decay=1e-1),
        # Adam for everything that is neither a matrix nor a convolution kernel, at the same rate.
        Baseline("muon", _muon, half_decades(-4, 0)),
        Baseline("ademamix", _ademamix, half_decades(-5, -1)),
        Baseline(
            "schedule-free",
            _schedule_free,
            half_decades(-4, 0),
            constant=True,
            eval_params=contrib.schedule_free_eval_params,
        ),
        # The rate multiplies a step length that Prodigy finds itself.
        Baseline("prodigy", _prodigy, half_decades(-2, 2)),
    )
}
