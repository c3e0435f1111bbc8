"""The report on a run of `train`: its TensorBoard events, and the memory that it learned."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboardX.proto.event_pb2 import Event

from meta_train.evaluation.table import Table
from meta_train.plots import look
from meta_train.report.memory import memory_section
from meta_train.report.page import Section

Series = dict[str, dict[int, float]]
LOSSES, VALIDATION = "log_loss/", "validation/"


def training_sections(out: Path) -> list[Section]:
    """Curves, a table of the validation scores, and the memory of the newest checkpoint.

    Raises:
      ValueError: nothing was logged yet.
    """
    series = read_events(out / "events")
    if not series:
        raise ValueError(f"{out} holds no logged step yet")
    validation = {name: values for name, values in series.items() if name.startswith(VALIDATION)}
    rows = tuple(
        (name.removeprefix(VALIDATION), *(f"{value:.4f}" for value in _ends(values)))
        for name, values in validation.items()
    )
    note = "What meta-training lowers, on fixed validation members: a mean of log losses."
    table = Table("Validation", ("family", "first", "lowest", "last"), rows, note)
    curves = Section(
        "Meta-training", [table] if rows else [], [("Curves of the run, by outer step.", _figure(series))]
    )
    return [curves, *_memory(out)]


def _memory(out: Path) -> list[Section]:
    from meta_train.outer import load_trained

    try:
        theta, config, _ = load_trained(out)
    except (FileNotFoundError, ValueError):  # no checkpoint yet, or one of another version
        return []
    return [memory_section(out.name, theta, config)]


def read_events(folder: Path) -> Series:
    """Scalars by tag and step, from every TensorBoard file in a folder; a later file wins.

    A record is its length (8 bytes), a checksum (4), an `Event`, and a checksum (4).
    """
    series: Series = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in _records(path.read_bytes()):
            for value in event.summary.value:
                series.setdefault(value.tag, {})[event.step] = value.simple_value
    return series


def _records(data: bytes) -> Iterator[Event]:
    at = 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        if at + 16 + size > len(data):
            return  # the run was killed while it wrote this one
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size


def _ends(values: Mapping[int, float]) -> tuple[float, float, float]:
    ordered = [values[step] for step in sorted(values)]
    return ordered[0], min(ordered), ordered[-1]


def _figure(series: Series) -> Figure:
    panels = {
        "validation": [name for name in series if name.startswith(VALIDATION)],
        "log of the final loss, training families": [name for name in series if name.startswith(LOSSES)],
        "size of the meta-gradient": ["meta_gradient_norm"],
    }
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        _lines(axes, series, names)
        axes.set(title=title, xlabel="outer step")
    return figure


def _lines(axes: Axes, series: Series, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        steps = sorted(series.get(name, {}))
        label = name.rpartition("/")[2]
        axes.plot(steps, [series[name][step] for step in steps], **look(index), ms=3, lw=1, label=label)
    axes.grid(True, alpha=0.25, linewidth=0.5)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=6, handlelength=4, ncols=1 + len(names) // 16)
