"""Figures of an evaluation: learning curves, who wins, a performance profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from meta_train.evaluation.compare import Comparison
from meta_train.evaluation.results import SMALLEST_LOSS, Result
from meta_train.evaluation.statistics import profile

# Okabe and Ito's palette, safe for the colour-blind; line styles tell lines apart without any colour.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARGIN = 0.08


def look(index: int) -> dict[str, Any]:
    """Colour, line style and marker of the line number `index`: any one tells seven apart, two many more."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": STYLES[(index + index // len(COLOURS)) % len(STYLES)],
        "marker": MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
    }


def figures(results: Sequence[Result], pairs: Sequence[Comparison]) -> dict[str, Figure]:
    """Learning curves of each task, then "summary" and "profile" if there is anything to compare.

    Args:
      results: one for each (task, optimizer).
      pairs: comparisons of them.

    Returns:
      Figures by a name that is good for a file.
    """
    names = list(dict.fromkeys(result.optimizer for result in results))
    # Learned optimizers first: they get the most visible colours.
    names.sort(key=lambda name: not any(each.learned for each in results if each.optimizer == name))
    drawn = {
        _file_name(task): _curves([result for result in results if result.task == task], names)
        for task in dict.fromkeys(result.task for result in results)
    }
    if pairs:
        drawn["summary"] = _summary(pairs)
    if len(names) > 1:
        drawn["profile"] = _profile(results, names)
    return drawn


def _profile(results: Sequence[Result], names: Sequence[str]) -> Figure:
    tasks = list(dict.fromkeys(result.task for result in results))
    losses = np.full((len(names), len(tasks)), np.nan)
    for result in results:
        losses[names.index(result.optimizer), tasks.index(result.task)] = max(
            np.mean(result.valid), SMALLEST_LOSS
        )
    ratios = np.geomspace(1.0, 4.0, 200)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for index, (name, shares) in enumerate(zip(names, profile(losses, ratios), strict=True)):
        axes.plot(
            ratios, 100 * shares, **look(index), drawstyle="steps-post", markevery=(5 * index, 40), label=name
        )
    axes.set(xscale="log", xlim=(1.0, 4.0), ylim=(-3.0, 103.0))
    axes.set(xlabel="final validation loss / the best optimizer's on this task", ylabel="share of tasks, %")
    axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
    plain_ticks(axes.xaxis)
    axes.legend(frameon=False, fontsize=8, handlelength=4)
    return figure


def _curves(results: Sequence[Result], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for result in results:
        index = names.index(result.optimizer)
        label = f"{result.optimizer} ({result.described})"
        middles = (np.asarray(result.points[:-1]) + np.asarray(result.points[1:])) / 2
        _line(left, middles, result.train_curves, index, label)
        _line(right, np.asarray(result.points, float), result.valid_curves, index, label)
    left.set(title="training loss", xlabel="step", ylabel="loss", yscale="log")
    right.set(title="validation loss", xlabel="step")
    initial = max(max(result.initial) for result in results)
    lowest = min(_lowest(result) for result in results)
    left.set_ylim(lowest * (1 - MARGIN), initial * (1 + 2 * MARGIN))
    for axes in (left, right):
        axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
        plain_ticks(axes.yaxis)
    right.legend(frameon=False, fontsize=8, handlelength=4)
    first = results[0]
    figure.suptitle(f"{first.task}: {first.steps} steps, mean of {len(first.seeds)} seeds, range shaded")
    return figure


def _line(axes: Axes, x: np.ndarray, curves: list[list[float | None]], index: int, label: str) -> None:
    values = np.asarray(curves, float)
    colour = look(index)["color"]
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, values.mean(axis=0), **look(index), markevery=4, ms=4, label=label)


def _lowest(result: Result) -> float:
    values = [
        value for curves in (result.valid_curves, result.train_curves) for curve in curves for value in curve
    ]
    return max(min(value for value in values if value is not None), 1e-7)


def _summary(pairs: Sequence[Comparison]) -> Figure:
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    series = list(dict.fromkeys((pair.optimizer, pair.baseline) for pair in pairs))
    figure = Figure(figsize=(9, 1.6 + 0.15 * len(tasks) * max(3, len(series))), layout="constrained")
    axes = figure.subplots()
    for index, (optimizer, baseline) in enumerate(series):
        colour, marker = look(index)["color"], look(index)["marker"]
        offset = 0.7 * ((index + 0.5) / len(series) - 0.5)
        for pair in pairs:
            if (pair.optimizer, pair.baseline) == (optimizer, baseline):
                y = tasks.index(pair.task) + offset
                axes.plot([pair.low, pair.high], [y, y], color=colour, lw=1.2, alpha=0.5)
                filled = "none" if pair.verdict == "tie" else colour
                axes.plot(pair.ratio, y, marker=marker, color=colour, markerfacecolor=filled, ls="none", ms=6)
        axes.plot([], [], marker=marker, color=colour, ls="none", label=f"{optimizer} / {baseline}")
    ratios = [pair.ratio for pair in pairs]
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, 0.7 * min(ratios)), max(2.0, 1.4 * max(ratios)))
    plain_ticks(axes.xaxis)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.grid(True, axis="x", which="both", alpha=0.25, linewidth=0.5)
    axes.set_xlabel(
        "final validation loss / the tuned baseline's (left of 1: better; hollow: a tie; bar: 95% interval)"
    )
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)
    return figure


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times powers of ten, as 0.05 rather than 5e-02."""
    for set_locator, set_formatter, multiples in (
        (axis.set_major_locator, axis.set_major_formatter, (1.0,)),
        (axis.set_minor_locator, axis.set_minor_formatter, (2.0, 5.0)),
    ):
        set_locator(ticker.LogLocator(subs=multiples))
        set_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def _file_name(task: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in task)
