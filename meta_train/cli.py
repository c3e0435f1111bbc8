"""The `meta-train` command: train, export, evaluate, report, describe, list."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from meta_train.baselines import BASELINES
from meta_train.commands.evaluate import Evaluate
from meta_train.commands.train import Export, Train
from meta_train.lookup import UsageError, cards, describe, families, list_all

PIPE_WIDTH = 130


@dataclass(frozen=True)
class Report:
    """Make tables, a CSV file and an HTML page of what `train` or `evaluate` left, or of diagnostics."""

    source: Positional[Path]
    """Folder of `train` or of `evaluate`, or a .jsonl file with one `learned_opt.diagnostics` a line."""

    def run(self, console: Console) -> int:
        """Write the page beside, or into, what it describes."""
        from meta_train.report import write_report

        try:
            page = write_report(self.source, console)
        except ValueError as error:
            raise UsageError(str(error)) from error
        console.print(f"wrote {page}", markup=False, soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Describe:
    """Show what the optimizer takes each parameter of a task's network for."""

    task: Positional[str]
    """A task by name, or FILE.py:NAME for a TaskFamily of your own."""
    traced: bool = False
    """What its program does with them, instead of what their names and shapes say."""

    def run(self, console: Console) -> int:
        """Print the table."""
        (family,) = families("", [self.task]).values()
        describe(console, self.task, family, self.traced)
        return 0


@dataclass(frozen=True)
class List:
    """Show the tasks of every suite, the presets for `train`, the baselines and the shipped weights."""

    json: bool = False
    """Print the cards of the tasks as JSON instead."""

    def run(self, console: Console) -> int:
        """Print the tables."""
        if self.json:
            print(dumps(cards(), indent=1))
        else:
            list_all(console, BASELINES)
        return 0


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Describe, subcommand("describe")]
    | Annotated[Report, subcommand("report")]
    | Annotated[List, subcommand("list")]
)


def _console() -> Console:
    # A pipe has no width of its own, and the 80 columns that rich assumes would fold the tables.
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if known else Console(width=PIPE_WIDTH)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: the arguments; None takes those of the process.

    Returns:
      The exit code: 0, 1 if nothing could be evaluated, 2 for bad input, 130 after Ctrl-C.
    """
    try:
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="meta-train",
            description="Meta-train, evaluate and export learned optimizers.",
            args=argv,
            config=(OmitArgPrefixes, OmitSubcommandPrefixes),
        )
        return command.run(_console())
    except UsageError as error:
        print(f"meta-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("meta-train: interrupted; the same command again continues", file=sys.stderr)
        return 130
