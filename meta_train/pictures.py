"""Pictures of what was learned: the masks over past gradients of the memory's modes, and their spectra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from learned_opt import FLTConfig
from learned_opt.flt.lorentzian import lorentzian_density, lorentzian_mask
from meta_train.plots import look

LONGEST_LAG = 1000
LOWEST_FREQUENCY = 1e-4


def modes_of(theta: Any, config: FLTConfig) -> Iterator[tuple[str, float, float]]:
    """(label, damping per step, cycles per step) of each mode of a modal memory."""
    (memory,) = (group for module, group in theta.items() if module.endswith("/memory"))
    learned = iter(memory.get("frequency", ()))
    for index, (mode, log_rate) in enumerate(zip(config.modes, memory["log_rate"], strict=True), start=1):
        frequency = next(learned) if mode.kind == "complex" else 0.5 * (mode.kind == "alternating")
        value = "gradient" if mode.value == "g" else "its square"
        yield f"{index}: {value}, {mode.kind}", float(np.exp(log_rate)), float(frequency)


def memory_figure(modes: Sequence[tuple[str, float, float]]) -> Figure:
    """Masks and spectra of modes as `modes_of` describes them."""
    lags = np.unique(np.geomspace(1, LONGEST_LAG + 1, 120).astype(int)) - 1
    frequencies = np.geomspace(LOWEST_FREQUENCY, 0.5, 120)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (label, rate, frequency) in enumerate(modes):
        gain = -np.expm1(-rate)
        marks = {"markevery": (4 * index, 16), "ms": 5, "label": label, **look(index)}
        mask = lorentzian_mask(jnp.asarray(lags, jnp.float32), gain, rate, frequency, 0.0)
        left.plot(lags + 1, mask, **marks)
        density = lorentzian_density(jnp.asarray(frequencies, jnp.float32), gain, rate, frequency)
        right.plot(frequencies, np.abs(density), **marks)
    left.set(title="mask", xlabel="age of the gradient + 1, steps", ylabel="weight", xscale="log")
    right.set(
        title="spectrum", xlabel="frequency, cycles a step", ylabel="density", xscale="log", yscale="log"
    )
    for axes in (left, right):
        axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
    left.legend(frameon=False, fontsize=8, handlelength=4)
    return figure
