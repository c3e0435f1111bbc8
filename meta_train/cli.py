"""The `meta-train` command: train, export, evaluate, report, list."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import Progress
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, UseAppendAction, subcommand

from meta_train.baselines import BASELINES
from meta_train.evaluation import Optimizer, Protocol, baseline, evaluate, learned, tuned
from meta_train.lookup import (
    UsageError,
    cards,
    families,
    list_all,
    load_weights,
    named_weights,
    one_of,
    own_or_named_baseline,
)

DEMO_STEPS = 300
PIPE_WIDTH = 130
Names = Annotated[tuple[tuple[str, ...], ...], UseAppendAction]


def _flat(names: tuple[tuple[str, ...], ...]) -> list[str]:
    return list(dict.fromkeys(name for group in names for name in group))


@dataclass(frozen=True)
class Train:
    """Meta-train an optimizer; the same command again continues where it stopped."""

    out: Path
    """Folder of the run: checkpoints and logs. An unfinished run found there is continued."""
    preset: str = "demo"
    """Which settings to start from; `list` shows them."""
    steps: int | None = None
    """Number of outer steps; None keeps the preset's."""
    seed: int | None = None
    """Seed of everything random in the run; None keeps the preset's."""
    start: str | None = None
    """Weights to start from, a shipped name or a file; the run keeps their structure. None starts from the
    untrained optimizer."""
    time_limit: float | None = None
    """Minutes after which to write a checkpoint and stop with exit code 0; None for no limit."""

    def run(self, console: Console) -> int:
        """Delegate to the outer loop."""
        import learned_opt
        from meta_train.config import PRESETS
        from meta_train.outer import train

        if self.time_limit is not None and self.time_limit <= 0:
            raise UsageError(f"--time-limit is in minutes and must be positive, not {self.time_limit:g}")
        preset = one_of(PRESETS, self.preset, "preset")
        changes: dict[str, Any] = {"steps": self.steps, "seed": self.seed, "start": self.start}
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            if self.start is not None:
                given["optimizer"] = learned_opt.load_weights(self.start)[1]
            train(replace(preset, **given), self.out, self.time_limit)
        except ValueError as error:  # impossible settings, or a folder that holds another run
            raise UsageError(str(error)) from error
        return 0


@dataclass(frozen=True)
class Export:
    """Write the meta-parameters of a run, with their card, as a weights file."""

    run_dir: Positional[Path]
    """Folder of a run made by `train`."""
    file: Positional[Path]
    """The file to write; its name ends in .safetensors."""
    share: float = 1.0
    """How much of the way from the run's start to take, above 0 and at most 1. Less than all of it when a run
    moved too far for networks unlike those it was trained on."""

    def run(self, console: Console) -> int:
        """Load the newest checkpoint and save it."""
        from learned_opt.weights import save_weights
        from meta_train.outer import load_trained

        if self.file.suffix != ".safetensors":
            raise UsageError(f"the file must end in .safetensors, not {self.file.name!r}")
        if not self.run_dir.is_dir():
            raise UsageError(f"there is no run in {str(self.run_dir)!r}: the folder does not exist")
        try:
            theta, config, card = load_trained(self.run_dir, self.share)
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(f"nothing to export from {str(self.run_dir)!r}: {error}") from error
        self.file.parent.mkdir(parents=True, exist_ok=True)
        save_weights(self.file, theta, config, card)
        line = f"wrote {self.file}; use it as flt_optimizer(weights={str(self.file)!r})"
        console.print(line, markup=False, soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Compare learned optimizers, untuned, with baselines whose learning rates are tuned.

    Finished results stay in OUT/runs and in the user's cache: the same command again, or one with more
    optimizers, runs only what is missing. OUT also gets results.csv, table.md, report.html and one PNG of
    learning curves for each task.
    """

    out: Path
    """Folder of the results."""
    weights: Names = ()
    """Learned optimizers: shipped names, .safetensors files, "untrained" for the hand-designed start of
    meta-training, or "none". Default: the newest shipped weights."""
    tuned_weights: bool = False
    """Also evaluate each of them with a multiplier and a weight decay chosen from 27 on the tuning seeds."""
    suite: Literal["validation", "held_out", "demo"] | None = None
    """Which tasks: the suite that choices are made on, the one that is only reported, or its three cheapest
    ("demo", the default, at 300 steps)."""
    task: Names = ()
    """Tasks by name instead of a suite; FILE.py:NAME is one of your own, see docs/evaluation.md."""
    steps: int | None = None
    """Length of every run; None takes the horizon on each task's card (300 for the suite "demo")."""
    baselines: Names = ()
    """Baselines by name, "all", or FILE.py:NAME for a `Baseline` of your own; `list` shows them.
    Default: adamw."""
    rates: int = 9
    """How many half-decade learning rates a baseline starts with; a best one at the edge adds more."""
    wide: bool = False
    """Also try constant schedules and weight decays 0, 0.01 and 0.1 with every rate: six times the trials."""
    speed_up: bool = False
    """Also run adamw at 0.5 to 4 times the horizon, which measures by how much it would have to be longer."""
    wall_clock: bool = False
    """Also time every optimizer alone on this machine, which adds seconds to the target."""
    tuning_seeds: int = 2
    """Seeds on which a baseline's learning rate is chosen."""
    report_seeds: int = 3
    """Fresh seeds on which every optimizer is reported."""
    max_parallel: int | None = None
    """How many runs are trained side by side; lower it if memory runs out. None chooses
    (1 on a CPU, where more are no faster)."""
    cache: bool = True
    """Whether finished runs are taken from the user's cache ($FLT_CACHE) and from the shipped results of
    baselines, and kept in the former. OUT/runs is used in any case."""

    def run(self, console: Console) -> int:
        """Evaluate, then write and print everything."""
        from learned_opt.weights import save_weights
        from meta_train.report import write_evaluation

        chosen, optimizers, protocol, weights = self._chosen()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.out} cannot be used as a folder: {error.strerror}") from error
        console.print(
            f"{len(chosen)} tasks, {len(optimizers)} optimizers; results: {self.out / 'runs'}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("evaluating", total=len(chosen) * len(optimizers))
            say = partial(progress.console.print, markup=False, highlight=False, soft_wrap=True)
            results, _ = evaluate(
                chosen, optimizers, protocol, self.out, log=say, done=lambda: progress.advance(bar)
            )
        for name, (theta, config) in weights.items():
            (self.out / "weights").mkdir(exist_ok=True)
            save_weights(self.out / "weights" / f"{name}.safetensors", theta, config, {})
        write_evaluation(self.out, console)
        return 0 if results else 1

    def _chosen(self) -> tuple[dict[str, Any], list[Optimizer], Protocol, dict[str, Any]]:
        if self.suite and self.task:
            raise UsageError("give either --suite or --task, not both")
        suite = self.suite or ("" if self.task else "demo")
        chosen = families(suite, _flat(self.task))
        names = _flat(self.baselines) or ["adamw"]
        try:
            rows = [own_or_named_baseline(name) for name in (BASELINES if names == ["all"] else names)]
            baselines = [baseline(row, self.rates, self.wide) for row in rows]
            protocol = Protocol(
                steps=DEMO_STEPS if suite == "demo" and self.steps is None else self.steps,
                tuning_seeds=self.tuning_seeds,
                report_seeds=self.report_seeds,
                max_parallel=self.max_parallel,
                stretch=self.speed_up,
                wall_clock=self.wall_clock,
                cache=self.cache,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        loaded = {name: load_weights(w) for w, name in named_weights(_flat(self.weights)).items()}
        untuned = [learned(name, *weights) for name, weights in loaded.items()]
        also = [tuned(optimizer) for optimizer in untuned] if self.tuned_weights else []
        return chosen, untuned + also + baselines, protocol, loaded


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
