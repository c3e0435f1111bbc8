"""The hand-designed optimizers that a learned one is compared with: one literal table.

Every baseline gets its own grid of learning rates (half a decade apart, four decades wide) and the same
schedule, `warmup_cosine`. `learning_rate` and `total_steps` may be traced scalars, so that a whole grid is
one `jax.vmap` and one compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

Scalar = float | jax.Array
Factory = Callable[[Scalar, Scalar], optax.GradientTransformation]

WARMUP_FRACTION = 0.05


class Baseline(NamedTuple):
    """One row of the table.

    Attributes:
      name: the name used on the command line and in every result.
      factory: `(learning_rate, total_steps) -> optax transformation`; both may be traced scalars.
      rates: the grid of peak learning rates, increasing, half a decade apart.
      weight_decay: the decoupled weight decay inside `factory`, for the printed table.
    """

    name: str
    factory: Factory
    rates: tuple[float, ...]
    weight_decay: float


def warmup_cosine(peak: Scalar, total_steps: Scalar) -> Callable[[Any], jax.Array]:
    """Linear warm-up over the first 5% of the run, then a half cosine down to zero at `total_steps`.

    With w = max(1, 0.05 T), the rate at step t is `peak * min(1, (t + 1) / w)` while t < w and
    `peak * (1 + cos(pi (t - w) / (T - w))) / 2` after it; it stays at zero for t >= T. The first step is not
    wasted on a rate of zero.

    Args:
      peak: the largest learning rate; may be traced.
      total_steps: T, the length of the run in steps; may be traced.

    Returns:
      A schedule `step -> float32 scalar`.
    """

    def schedule(step: Any) -> jax.Array:
        warmup = jnp.maximum(1.0, WARMUP_FRACTION * total_steps)
        progress = (step - warmup) / jnp.maximum(1.0, total_steps - warmup)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return peak * jnp.minimum(1.0, (step + 1) / warmup) * cosine

    return schedule


def half_decades(low: int, high: int) -> tuple[float, ...]:
    """The half-decade grid 10^low, 10^(low + 1/2), ..., 10^high, rounded to three significant digits."""
    return tuple(float(f"{10 ** (low + index / 2):.3g}") for index in range(2 * (high - low) + 1))


def widen(rates: tuple[float, ...], side: str, count: int = 2) -> tuple[float, ...]:
    """The `count` rates that continue a half-decade grid below (`side="low"`) or above (`side="high"`) it."""
    edge, sign = (min(rates), -1) if side == "low" else (max(rates), 1)
    return tuple(float(f"{edge * 10 ** (sign * index / 2):.3g}") for index in range(1, count + 1))


def _matrices_and_kernels(params: Any) -> Any:
    """Muon's view of each leaf: matrices, and convolution kernels flattened to [everything, out]."""

    def dimensions(leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if leaf.ndim == 2:
            return contrib.MuonDimensionNumbers(0, 1)
        if leaf.ndim == 4:
            return contrib.MuonDimensionNumbers((0, 1, 2), 3)
        return None

    return jax.tree.map(dimensions, params)


def _adam(rate: Scalar, steps: Scalar) -> optax.GradientTransformation:
    return optax.adam(warmup_cosine(rate, steps))


def _adamw(rate: Scalar, steps: Scalar) -> optax.GradientTransformation:
    return optax.adamw(warmup_cosine(rate, steps), weight_decay=1e-2)


def _nadamw(rate: Scalar, steps: Scalar) -> optax.GradientTransformation:
    return optax.nadamw(warmup_cosine(rate, steps), weight_decay=1e-2)


def _lion(rate: Scalar, steps: Scalar) -> optax.GradientTransformation:
    return optax.lion(warmup_cosine(rate, steps), weight_decay=1e-1)


def _muon(rate: Scalar, steps: Scalar) -> optax.GradientTransformation:
    return contrib.muon(
        warmup_cosine(rate, steps),
        weight_decay=1e-2,
        adam_weight_decay=1e-2,
        muon_weight_dimension_numbers=_matrices_and_kernels,
    )


BASELINES: dict[str, Baseline] = {
    row.name: row
    for row in (
        Baseline("adam", _adam, half_decades(-5, -1), 0.0),
        Baseline("adamw", _adamw, half_decades(-5, -1), 1e-2),
        Baseline("nadamw", _nadamw, half_decades(-5, -1), 1e-2),
        # A step of Lion has unit size in every coordinate, so its best rate is lower and its decay higher.
        Baseline("lion", _lion, half_decades(-6, -2), 1e-1),
        # Adam for everything that is neither a matrix nor a convolution kernel, at the same rate.
        Baseline("muon", _muon, half_decades(-4, 0), 1e-2),
    )
}
