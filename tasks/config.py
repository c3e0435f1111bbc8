"""How the members of a family differ: ranges from which each member's settings are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random

from tasks.base import Config, Key


class Span(NamedTuple):
    """A range to draw from: uniform in the value or, if `log`, in its logarithm. Negative draws become 0."""

    low: float
    high: float
    log: bool = False

    @property
    def positive(self) -> bool:
        """Whether any draw can differ from 0."""
        return self.high > 0


def fixed(value: float) -> Span:
    """The range that holds one value."""
    return Span(value, value)


def factor(low: float, high: float) -> Span:
    """A log-uniform range."""
    return Span(low, high, log=True)


Vary = Mapping[str, Span]
"""From the name of a setting to its range; settings not named are as in `PLAIN`."""

RELU, TANH, GELU = fixed(1 / 6), fixed(1 / 2), fixed(5 / 6)
"""The `activation` setting: [0, 1/3) is relu, [1/3, 2/3) tanh, [2/3, 1] gelu."""

PLAIN: dict[str, Span] = {
    "scale": fixed(1.0),  # times the usual standard deviation of the hidden kernels at the start
    "head": fixed(1.0),  # the same for the last kernel
    "embed": fixed(1.0),  # the same for embedding tables
    "activation": RELU,
    "output": fixed(1.0),  # times the logits, or times the targets of a regression
    "label_noise": fixed(0.0),  # fraction of wrong labels, or the noise of unit-variance targets
    "input_noise": fixed(0.0),  # in standard deviations of the inputs
    "condition": fixed(0.0),  # spread of the input features' scales, in decades
}
"""Every setting, at the value that a user who tunes nothing would have."""


def sampler(vary: Vary) -> Callable[[Key], Config]:
    """The function from a key to the settings of one member.

    Raises:
      ValueError: a setting is unknown, or its range is empty or cannot be drawn from.
    """
    spans = ranges(vary)

    def sample(key: Key) -> Config:
        own, settings = random.split(key)
        draws = random.uniform(settings, (len(spans),), jnp.float32)
        return {
            "key": own,
            **{name: _place(u, span) for u, (name, span) in zip(draws, spans.items(), strict=True)},
        }

    return sample


def ranges(vary: Vary) -> dict[str, Span]:
    """All settings' ranges: `PLAIN`, overridden by `vary`."""
    if unknown := sorted(set(vary) - set(PLAIN)):
        raise ValueError(f"unknown settings {unknown}: expected some of {sorted(PLAIN)}")
    for name, span in vary.items():
        if span.low > span.high or (span.log and span.low <= 0):
            raise ValueError(f"{name}={span}: expected low <= high, and low > 0 if log")
    return {**PLAIN, **vary}


def _place(u: jax.Array, span: Span) -> jax.Array:
    if span.low == span.high:
        return jnp.float32(span.low)
    if span.log:
        return span.low * jnp.exp(u * math.log(span.high / span.low))
    return jnp.maximum(span.low + u * (span.high - span.low), 0.0)
