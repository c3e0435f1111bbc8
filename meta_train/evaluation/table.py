"""Results as tables: on the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich.table
from rich import box
from rich.console import Console, Group, RenderableType
from rich.text import Text

from meta_train.evaluation.compare import SPEED_RULE, TIE_RULE, Comparison, Summary, compare, summarise
from meta_train.evaluation.results import Failure, Result

CSV_COLUMNS = (
    "task",
    "optimizer",
    "seed",
    "steps",
    "learning_rate",
    "tuning_runs",
    "initial",
    "train",
    "valid",
    "diverged",
    "milliseconds",
    "machine",
    "key",
)


@dataclass(frozen=True)
class Table:
    """A titled table of strings."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """The table as GitHub Markdown."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        body = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        return f"## {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def rich(self) -> RenderableType:
        """The table for a rich console."""
        table = rich.table.Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index < 2 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return Group(table, Text(self.note, style="dim")) if self.note else table


def comparisons(results: Sequence[Result]) -> list[Comparison]:
    """Every optimizer without a learning rate to tune, against every one with, task by task."""
    by_task: dict[str, list[Result]] = {}
    for result in results:
        by_task.setdefault(result.task, []).append(result)
    return [
        compare(candidate, against)
        for group in by_task.values()
        for candidate in group
        for against in group
        if candidate.rate is None and against.rate is not None
    ]


def tables(results: Sequence[Result], failures: Sequence[Failure]) -> list[Table]:
    """All tables of an evaluation; the empty ones are left out."""
    pairs = comparisons(results)
    made = [_losses(results), _pairs(pairs), _summaries(pairs), _failures(failures)]
    return [table for table in made if table.rows]


def _losses(results: Sequence[Result]) -> Table:
    columns = ("task", "optimizer", "rate", "trials", "train", "valid", "diverged", "ms/step")
    rows = tuple(
        (
            result.task,
            result.optimizer,
            "untuned" if result.rate is None else f"{result.rate:g}" + ("!" if result.at_edge else ""),
            str(result.tuning_runs),
            _mean_and_error(result.train),
            _mean_and_error(result.valid),
            f"{sum(result.diverged)}/{len(result.diverged)}",
            f"{result.milliseconds:.3g}",
        )
        for result in results
    )
    note = (
        "trials: tuning runs. Mean over the report seeds ± standard error. train: mean of the last 5% of the "
        "steps; valid: after the last step. ms/step: wall-clock for one step of one run, measurements "
        "included, compilation not; many runs may have been trained side by side."
    )
    if any(result.at_edge for result in results):
        note += " !: the best rate is at the edge of a grid that was widened twice."
    steps = " or ".join(str(steps) for steps in sorted({result.steps for result in results}))
    title = f"Final losses after {steps} steps"
    return Table(title, columns, rows, note)


def _pairs(pairs: Sequence[Comparison]) -> Table:
    columns = ("task", "optimizer", "against", "ratio", "95% interval", "verdict", "speed-up")
    rows = tuple(
        (
            pair.task,
            pair.optimizer,
            pair.baseline,
            f"{pair.ratio:.3f}",
            f"{pair.low:.3g} to {pair.high:.3g}",
            pair.verdict,
            "-" if pair.speed_up is None else f"{pair.speed_up:.2f}",
        )
        for pair in pairs
    )
    return Table("Against each baseline, task by task", columns, rows, f"{TIE_RULE} {SPEED_RULE}")


def _summaries(pairs: Sequence[Comparison]) -> Table:
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for pair in pairs:
        groups.setdefault((pair.optimizer, pair.baseline), []).append(pair)
    columns = (
        "optimizer",
        "against",
        "wins/ties/losses",
        "median ratio",
        "interquartile mean",
        "worst task",
        "median speed-up",
    )
    rows = tuple(_summary_row(summarise(group)) for group in groups.values())
    note = (
        "Ratios of final validation losses over tasks, below 1 is better; in brackets the bootstrap 95% "
        "interval, seeds resampled within tasks. A speed-up that is never reached counts as 0."
    )
    return Table("Over all tasks", columns, rows, note)


def _summary_row(summary: Summary) -> tuple[str, ...]:
    return (
        summary.optimizer,
        summary.baseline,
        f"{summary.wins}/{summary.ties}/{summary.losses}",
        f"{summary.median_ratio:.3f}",
        f"{summary.mean_ratio:.3f} [{summary.low:.3f}, {summary.high:.3f}]",
        f"{summary.worst_task} {summary.worst_ratio:.3f}",
        f"{summary.median_speed_up:.2f}",
    )


def _failures(failures: Sequence[Failure]) -> Table:
    rows = tuple((failure.task, failure.optimizer, failure.reason[:200]) for failure in failures)
    return Table("Could not be run", ("task", "optimizer", "reason"), rows)


def _mean_and_error(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.4g}"
    return f"{np.mean(values):.4g} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2g}"


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row for each (task, optimizer, seed); the columns are `CSV_COLUMNS`."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        for result in results:
            for index, seed in enumerate(result.seeds):
                per_seed = {
                    name: getattr(result, name)[index] for name in ("initial", "train", "valid", "diverged")
                }
                shared = {name: getattr(result, name) for name in CSV_COLUMNS if hasattr(result, name)}
                rate = "" if result.rate is None else result.rate
                writer.writerow({**shared, **per_seed, "seed": seed, "learning_rate": rate})


def write_markdown(made: Sequence[Table], path: Path) -> None:
    """All tables in one Markdown file."""
    path.write_text("\n".join(table.markdown() for table in made))


def print_tables(made: Sequence[Table], console: Console) -> None:
    """All tables on the terminal."""
    for table in made:
        console.print(table.rich())
        console.print()
