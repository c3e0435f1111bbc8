"""Results as tables: on the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
import rich.table
from rich import box
from rich.console import Console, Group, RenderableType
from rich.text import Text

from meta_train.evaluation.compare import (
    SPEED_RULE,
    TIE_RULE,
    Comparison,
    Summary,
    comparisons,
    own_horizon,
    steps_to,
    summarise,
)
from meta_train.evaluation.results import Failure, Outcome, Result

OVER_ALL = "Over all tasks"
NOTHING = "-"
CSV_COLUMNS = (
    "task",
    "optimizer",
    "seed",
    "steps",
    "setting",
    "tuning_runs",
    "initial",
    "train",
    "valid",
    "diverged",
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

    def without_empty_columns(self) -> Table:
        """The same table; a column in which no row has anything is left out."""
        used = [any(row[index] != NOTHING for row in self.rows) for index in range(len(self.columns))]
        columns, *rows = (tuple(compress(line, used)) for line in (self.columns, *self.rows))
        return replace(self, columns=columns, rows=tuple(rows))

    def write_csv(self, path: Path) -> None:
        """The table as CSV."""
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *self.rows])

    def rich(self) -> RenderableType:
        """The table for a rich console."""
        table = rich.table.Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index < 2 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return Group(table, Text(self.note, style="dim")) if self.note else table


def tables(results: Sequence[Result], outcome: Outcome) -> list[Table]:
    """All tables of an evaluation; empty ones and empty columns are left out."""
    pairs = comparisons(results)
    own = own_horizon(results)
    made = [_losses(own, outcome), _pairs(pairs), _summaries(pairs), _failures(outcome.failures)]
    return [table.without_empty_columns() for table in made if table.rows]


def _losses(results: Sequence[Result], outcome: Outcome) -> Table:
    columns = (
        "task",
        "optimizer",
        "setting",
        "trials",
        "train",
        "valid",
        "diverged",
        "steps to target",
        "ms/step",
        "s to target",
    )
    rows = tuple(
        (
            result.task,
            result.optimizer,
            result.described,
            str(result.tuning_runs),
            _mean_and_error(result.train),
            _mean_and_error(result.valid),
            f"{sum(result.diverged)}/{len(result.diverged)}",
            *_to_target(result, outcome),
        )
        for result in results
    )
    note = (
        "setting: peak learning rate, or multiplier of a learned step, and weight decay. trials: tuning "
        "runs. Mean over the report seeds ± standard error. train: mean of the last 5% of the steps; valid: "
        "after the last step. Target: a validation loss on the task's card."
    )
    if outcome.milliseconds:
        note += " ms/step: wall-clock of one run alone on this machine, compilation not included."
    if any(result.at_edge for result in results):
        note += " !: the best rate is at the edge of a grid that was widened twice."
    steps = " or ".join(str(steps) for steps in sorted({result.steps for result in results}))
    title = f"Final losses after {steps} steps"
    return Table(title, columns, rows, note)


def _to_target(result: Result, outcome: Outcome) -> tuple[str, str, str]:
    target = outcome.targets.get(result.task)
    pace = outcome.milliseconds.get(result.task, {}).get(result.optimizer)
    steps = steps_to(result, target)
    shown = NOTHING if target is None else "never" if steps is None else f"{steps:.0f}"
    seconds = NOTHING if steps is None or pace is None else f"{steps * pace / 1e3:.3g}"
    return shown, NOTHING if pace is None else f"{pace:.3g}", seconds


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
            NOTHING if pair.speed_up is None else str(pair.speed_up),
        )
        for pair in pairs
    )
    note = TIE_RULE + (f" {SPEED_RULE}" if any(pair.speed_up is not None for pair in pairs) else "")
    return Table("Against each baseline, task by task", columns, rows, note)


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
        "speed-up",
    )
    rows = tuple(_summary_row(summarise(group)) for group in groups.values())
    note = (
        "Ratios of final validation losses over tasks, below 1 is better. In brackets: stratified bootstrap "
        "95% intervals (seeds resampled within tasks)."
    )
    if any(pair.speed_up is not None for pair in pairs):
        note += " Speed-up: interquartile mean, those beyond the horizons that were run counting as bounds."
    return Table(OVER_ALL, columns, rows, note)


def _summary_row(summary: Summary) -> tuple[str, ...]:
    speed_up = NOTHING
    if summary.speed_up is not None:
        speed_up = "{:.2f} [{:.2f}, {:.2f}]".format(*summary.speed_up)
    return (
        summary.optimizer,
        summary.baseline,
        "/".join(str(summary.verdicts[verdict]) for verdict in ("win", "tie", "loss")),
        f"{summary.median_ratio:.3f}",
        f"{summary.mean_ratio:.3f} [{summary.low:.3f}, {summary.high:.3f}]",
        f"{summary.worst_task} {summary.worst_ratio:.3f}",
        speed_up,
    )


def _failures(failures: Sequence[Failure]) -> Table:
    rows = tuple((failure.task, failure.optimizer, failure.reason[:200]) for failure in failures)
    return Table("Could not be run", ("task", "optimizer", "reason"), rows)


def _mean_and_error(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.4g}"
    return f"{np.mean(values):.4g} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2g}"


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row for each (task, optimizer, horizon, seed); the columns are `CSV_COLUMNS`."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        for result in results:
            for index, seed in enumerate(result.seeds):
                per_seed = {
                    name: getattr(result, name)[index] for name in ("initial", "train", "valid", "diverged")
                }
                shared = {name: getattr(result, name) for name in CSV_COLUMNS if hasattr(result, name)}
                writer.writerow({**shared, **per_seed, "seed": seed, "setting": result.described})


def write_markdown(made: Sequence[Table], path: Path) -> None:
    """All tables in one Markdown file, the one over all tasks first."""
    ordered = sorted(made, key=lambda table: table.title != OVER_ALL)
    path.write_text("\n".join(table.markdown() for table in ordered))


def print_tables(made: Sequence[Table], console: Console) -> None:
    """All tables on the terminal, the one over all tasks near the end, where one looks."""
    for table in made:
        console.print(table.rich())
        console.print()
