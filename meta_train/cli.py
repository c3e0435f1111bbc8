"""The `meta-train` command: train, export, evaluate, describe, list."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, UseAppendAction, subcommand

from meta_train.baselines import BASELINES
from meta_train.config import EstimatorName
from meta_train.evaluation import Optimizer, Protocol, baseline, evaluate, learned
from meta_train.lookup import UsageError, describe, families, list_all, load_weights, named_weights, one_of

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
    estimator: EstimatorName | None = None
    """Of the meta-gradient: evolution strategies on whole runs (es) or on stretches of them (truncated-es),
    persistent (pes) or with reused noise (nres), or truncated backpropagation. None keeps the preset's."""
    truncation: int | None = None
    """Inner steps of a stretch, a multiple of 25; None keeps the preset's."""
    pairs_at_once: int | None = None
    """Antithetic pairs that a device evaluates side by side: bounds memory, and makes rounding the same on
    any number of devices. None keeps the preset's, 0 takes all."""
    start: str | None = None
    """Weights to start from, a shipped name or a file; the run keeps their structure. None starts from the
    untrained optimizer."""
    override: bool = False
    """Go on with a run that began with other settings, as far as its checkpoint fits."""
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
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("steps", "seed", "estimator", "truncation", "pairs_at_once", "start")
        }
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            if self.start is not None:
                given["optimizer"] = learned_opt.load_weights(self.start)[1]
            train(replace(preset, **given), self.out, self.time_limit, self.override)
        except ValueError as error:  # impossible settings, or a folder that holds another run
            raise UsageError(str(error)) from error
        except OSError as error:  # a folder that is in use, read-only or full
            raise UsageError(f"--out {self.out}: {error}") from error
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
        from meta_train.trained import load_trained

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

    Finished results stay in OUT/runs: the same command again, or one with more optimizers, runs only what is
    missing. OUT also gets results.csv, table.md and one PNG of learning curves for each task.
    """

    out: Path
    """Folder of the results."""
    weights: Names = ()
    """Learned optimizers: shipped names, .safetensors files, or "untrained" for the hand-designed start of
    meta-training. Default: the newest shipped weights."""
    suite: Literal["validation", "held_out", "demo"] | None = None
    """Which tasks: the suite that choices are made on, the one that is only reported, or its three cheapest
    ("demo", the default, at 300 steps)."""
    task: Names = ()
    """Tasks by name instead of a suite; FILE.py:NAME is a TaskFamily of your own."""
    steps: int | None = None
    """Length of every run; None takes the horizon on each task's card (300 for the suite "demo")."""
    baselines: Names = ()
    """Baselines from: adam, adamw, nadamw, lion, muon. Default: adamw."""
    rates: int = 9
    """How many half-decade learning rates a baseline starts with; a best one at the edge adds more."""
    tuning_seeds: int = 2
    """Seeds on which a baseline's learning rate is chosen."""
    report_seeds: int = 3
    """Fresh seeds on which every optimizer is reported."""
    max_parallel: int | None = None
    """How many runs are trained side by side; lower it if memory runs out. None chooses
    (1 on a CPU, where more are no faster)."""

    def run(self, console: Console) -> int:
        """Evaluate, then write and print everything."""
        chosen, optimizers, protocol = self._chosen()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.out} cannot be used as a folder: {error.strerror}") from error
        say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
        say(f"{len(chosen)} tasks, {len(optimizers)} optimizers; results: {self.out / 'runs'}")
        results, failures = evaluate(chosen, optimizers, protocol, self.out, log=say)
        from meta_train.evaluation import table
        from meta_train.plots import draw_all

        made = table.tables(results, failures)
        table.write_csv(results, self.out / "results.csv")
        table.write_markdown(made, self.out / "table.md")
        draw_all(results, table.comparisons(results), self.out)
        table.print_tables(made, console)
        say(f"results.csv, table.md and learning curves are in {self.out}")
        return 0 if results else 1

    def _chosen(self) -> tuple[dict[str, Any], list[Optimizer], Protocol]:
        if self.suite and self.task:
            raise UsageError("give either --suite or --task, not both")
        suite = self.suite or ("" if self.task else "demo")
        chosen = families(suite, _flat(self.task))
        try:
            baselines = [baseline(name, self.rates) for name in _flat(self.baselines) or ["adamw"]]
            protocol = Protocol(
                steps=DEMO_STEPS if suite == "demo" and self.steps is None else self.steps,
                tuning_seeds=self.tuning_seeds,
                report_seeds=self.report_seeds,
                max_parallel=self.max_parallel,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        learned_ones = [
            learned(name, *load_weights(w)) for w, name in named_weights(_flat(self.weights)).items()
        ]
        return chosen, learned_ones + baselines, protocol


@dataclass(frozen=True)
class Describe:
    """Show what the optimizer takes each parameter of a task's network for."""

    task: Positional[str]
    """A task by name, or FILE.py:NAME for a TaskFamily of your own."""

    def run(self, console: Console) -> int:
        """Print the table."""
        (family,) = families("", [self.task]).values()
        describe(console, self.task, family)
        return 0


@dataclass(frozen=True)
class List:
    """Show the tasks of every suite, the presets for `train`, the baselines and the shipped weights."""

    def run(self, console: Console) -> int:
        """Print the tables."""
        list_all(console, BASELINES)
        return 0


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Describe, subcommand("describe")]
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
