"""Logged `learned_opt.diagnostics`: one JSON object a line, from anybody's run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meta_train.evaluation.table import Table
from meta_train.plots import look, plain_ticks
from meta_train.report.page import Section

SHOWN = {
    "step": "step length",
    "signal_to_noise": "signal-to-noise",
    "blend": "orthogonal share",
    "shrink": "weight of the parameter",
}
"""The values of a tensor that are drawn, and what they are called."""
MOST_LINES = 7
MOST_NAMES = 40


def read_diagnostics(path: Path) -> list[dict[str, Any]]:
    """The lines of a file.

    Each has "count" and, as lists with one value for each tensor, the other values of
    `learned_opt.diagnostics`; "loss" (a number) and "tensors" (their names) are shown if they are there, and
    the masks of "weights" (a shipped name, or a file, looked for from the folder of `path` and then from the
    current one).

    Raises:
      ValueError: a line is not such an object, or there are none; the message names the line.
    """
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            int(line["count"])
            sizes = {len(line[name]) for name in SHOWN}
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with what learned_opt.diagnostics returns, "
                f"arrays as lists ({type(error).__name__}: {error})"
            ) from error
        if len(sizes | {len(each["step"]) for each in lines[:1]}) != 1:
            raise ValueError(f"{path}, line {number}: the number of tensors differs from that before")
        lines.append(line)
    if not lines:
        raise ValueError(f"{path} is empty: expected one JSON object a line")
    return lines


def diagnostics_section(title: str, lines: Sequence[Mapping[str, Any]]) -> Section:
    """A table of the last line, and every tensor's step length and signal-to-noise along the run."""
    last = lines[-1]
    count = len(last["step"])
    names = [str(name) for name in last.get("tensors", ())]
    if len(names) != count:
        names = [f"tensor {index}" for index in range(count)]
    rows = tuple(
        (name, *(f"{last[key][index]:.4g}" for key in SHOWN)) for index, name in enumerate(names[:MOST_NAMES])
    )
    note = f"{last.get('skipped', 0)} of {last['count']} steps were skipped because something was not finite."
    if count > MOST_NAMES:
        note += f" The first {MOST_NAMES} of {count} tensors."
    table = Table(f"After {last['count']} steps", ("tensor", *SHOWN.values()), rows, note)
    text = "Step length and signal-to-noise of every tensor along the run."
    return Section(title, [table], [(text, _figure(lines, names))])


def _figure(lines: Sequence[Mapping[str, Any]], names: list[str]) -> Figure:
    steps = np.asarray([int(line["count"]) for line in lines])
    with_loss = all("loss" in line for line in lines)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(1, 2 + with_loss)))
    if with_loss:
        axes = panels.pop(0)
        axes.plot(steps, [line["loss"] for line in lines], color="black", marker="o", ms=3)
        axes.set(title="loss", xlabel="step", yscale="log")
        plain_ticks(axes.yaxis)
    for axes, key in zip(panels, ("step", "signal_to_noise"), strict=True):
        values = np.asarray([line[key] for line in lines], float)
        if len(names) > MOST_LINES:
            _map(figure, axes, steps, values, names)
        else:
            _lines(axes, steps, values, names, legend=key == "step")
        axes.set(title=SHOWN[key], xlabel="step")
    return figure


def _lines(axes: Axes, steps: np.ndarray, values: np.ndarray, names: list[str], legend: bool) -> None:
    for index, name in enumerate(names):
        axes.plot(steps, values[:, index], **look(index), ms=4, markevery=(index, 5), label=name)
    axes.set(yscale="log")
    plain_ticks(axes.yaxis)
    axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
    if legend:
        axes.legend(frameon=False, fontsize=7, handlelength=4)


def _map(figure: Figure, axes: Axes, steps: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    """Many tensors: one row each, light is large (a scale that is as good without colour)."""
    smallest = values[values > 0].min() if (values > 0).any() else 1.0
    image = axes.pcolormesh(
        steps,
        np.arange(len(names)),
        np.log10(np.maximum(values, smallest)).T,
        cmap="cividis",
        shading="nearest",
    )
    axes.invert_yaxis()
    if len(names) <= MOST_NAMES:
        axes.set_yticks(range(len(names)), names, fontsize=6)
    figure.colorbar(image, ax=axes, label="log10")
