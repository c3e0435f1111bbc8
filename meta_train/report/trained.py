"""The report on a run of `train`: its TensorBoard events, and the memory that it learned."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure
from tensorboardX.proto.event_pb2 import Event

from meta_train.evaluation.table import Table
from meta_train.plots import look
from meta_train.report.memory import memory_section
from meta_train.report.page import Section

Series = dict[str, dict[int, float]]
LOSSES, VALIDATION = "log_loss/", "validation/"
ALSO = ("inner_steps_per_second", "device_memory/", "law/")
COLUMNS = 6


def training_sections(out: Path) -> list[Section]:
    """Curves, a table of the validation scores, and the memory of the newest checkpoint.

    Raises:
      ValueError: nothing was logged yet.
    """
    series = read_events(out / "events")
    if not series:
        raise ValueError(f"{out} holds no logged step yet")
    rows = tuple(
        (name, *(f"{value:.4f}" for value in (scores[0], min(scores), scores[-1])))
        for name, scores in ((name, _ordered(values)) for name, values in _under(VALIDATION, series).items())
    )
    note = "What meta-training lowers, on fixed validation members: a mean of log losses."
    table = Table("Validation", ("family", "first", "lowest", "last"), rows, note)
    figures = [("Curves of the run, by outer step.", _figure(series))]
    if _under(LOSSES, series):
        text = (
            "Log of the final loss of each training family, by outer step; horizons differ from step to step."
        )
        figures.append((text, _panels(_under(LOSSES, series))))
    also = {name: values for name, values in series.items() if name.startswith(ALSO)}
    if also:
        text = "Speed, memory of the fullest device in GiB, and the laws that were learned, by outer step."
        figures.append((text, _panels(also)))
    curves = Section("Meta-training", [table] if rows else [], figures)
    return [curves, *_memory(out)]


def _memory(out: Path) -> list[Section]:
    from meta_train.trained import load_trained

    try:
        theta, config, _ = load_trained(out)
    except (FileNotFoundError, ValueError):  # no checkpoint yet, or one of another version
        return []
    return [memory_section(out.name, theta, config)]


def read_events(folder: Path) -> Series:
    """Scalars by tag and step, from every TensorBoard file in a folder; a later file wins."""
    series: Series = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in records(path):
            for value in event.summary.value:
                if not value.HasField("simple_value"):  # a histogram or a picture
                    continue
                series.setdefault(value.tag, {})[event.step] = value.simple_value
    return series


def records(path: Path) -> Iterator[Event]:
    """What a TensorBoard file holds.

    A record is its length (8 bytes), a checksum (4), an `Event`, and a checksum (4).
    """
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        if at + 16 + size > len(data):
            return  # the run was killed while it wrote this one
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size


def _figure(series: Series) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, values) in enumerate(_under(VALIDATION, series).items()):
        left.plot(sorted(values), _ordered(values), **look(index), ms=4, lw=1, label=name)
    left.set(title="validation", xlabel="outer step")
    left.legend(frameon=False, fontsize=7, handlelength=4)
    norms = series.get("meta_gradient_norm", {})
    right.plot(sorted(norms), _ordered(norms), color="black", lw=1)
    right.set(title="size of the meta-gradient", xlabel="outer step")
    for axes in (left, right):
        axes.grid(True, alpha=0.25, linewidth=0.5)
    return figure


def _panels(series: Series) -> Figure:
    """One small panel for each."""
    rows = -(-len(series) // COLUMNS)
    figure = Figure(figsize=(11, 1.5 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False).ravel()
    for axes, (name, values) in zip(panels, series.items(), strict=False):
        axes.plot(sorted(values), _ordered(values), color="black", lw=0.8)
        axes.set_title(name, fontsize=7)
        axes.tick_params(labelsize=6)
    for axes in panels[len(series) :]:
        axes.set_axis_off()
    return figure


def _under(prefix: str, series: Series) -> Series:
    return {name.removeprefix(prefix): values for name, values in series.items() if name.startswith(prefix)}


def _ordered(values: Mapping[int, float]) -> list[float]:
    return [values[step] for step in sorted(values)]
