"""`meta-train evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from rich.console import Console
from rich.progress import Progress
from tyro.conf import UseAppendAction

from meta_train.baselines import BASELINES
from meta_train.evaluation import Optimizer, Protocol, anytime, baseline, evaluate, learned, traced, tuned
from meta_train.evaluation.driver import STRETCHES
from meta_train.lookup import (
    NONE,
    UsageError,
    families,
    load_weights,
    named_weights,
    own_or_named_baseline,
    too_large,
)

DEMO_STEPS = 300
Names = Annotated[tuple[tuple[str, ...], ...], UseAppendAction]


def _flat(names: tuple[tuple[str, ...], ...]) -> list[str]:
    return list(dict.fromkeys(name for group in names for name in group))


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
    anytime: bool = False
    """Also evaluate each of them without telling it how long the run is, as schedule-free AdamW and Prodigy
    are used."""
    traced: bool = False
    """Also evaluate each of them with what the task's program does with its parameters (`geometry_of`),
    instead of what their names and shapes say."""
    suite: Literal["validation", "held_out", "demo"] | None = None
    """Which tasks: the suite that choices are made on, the one that is only reported (on a CPU without its
    tasks for a GPU), or three cheap ones of it ("demo", the default, at 300 steps)."""
    task: Names = ()
    """Tasks by name instead of a suite; FILE.py:NAME is one of your own, see docs/evaluation.md."""
    steps: int | None = None
    """Length of every run; None takes the horizon on each task's card (300 for the suite "demo")."""
    baselines: Names = ()
    """Baselines by name, "all", "none", or FILE.py:NAME for a `Baseline` of your own; `list` shows them.
    Default: adamw."""
    rates: int = 9
    """How many half-decade learning rates a baseline starts with; a best one at the edge adds more."""
    wide: bool = False
    """Also try constant schedules and weight decays 0, 0.01 and 0.1 with every rate: six times the trials."""
    speed_up: bool = False
    """Also run baselines at other horizons, which measures by how much they would have to be longer."""
    speed_up_over: Names = ()
    """Which baselines those are. Default: adamw."""
    stretches: tuple[float, ...] = STRETCHES
    """The other horizons, in units of the horizon."""
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
        large = [] if self.task else too_large(chosen, jax.default_backend())
        chosen = {name: family for name, family in chosen.items() if name not in large}
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.out} cannot be used as a folder: {error.strerror}") from error
        plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
        console.print(
            f"{len(chosen)} tasks, {len(optimizers)} optimizers; results: {self.out / 'runs'}", **plain
        )
        if large:
            names = ", ".join(large)
            console.print(f"left out, their cards ask for a GPU: {names} (--task NAME runs one)", **plain)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("evaluating", total=len(chosen) * len(optimizers))
            say = partial(progress.console.print, **plain)
            results, _ = evaluate(
                chosen, optimizers, protocol, self.out, log=say, done=lambda: progress.advance(bar)
            )
        for name, (theta, config) in weights.items():
            (self.out / "weights").mkdir(exist_ok=True)
            save_weights(self.out / "weights" / f"{name}.safetensors", theta, config, {})
        write_evaluation(self.out, console)
        return 0 if results else 1

    def _stretched(self, baselines: list[str]) -> tuple[str, ...]:
        if not self.speed_up:
            return ()
        names = tuple(_flat(self.speed_up_over)) or ("adamw",)
        if missing := set(names) - set(baselines):
            raise ValueError(
                f"speed-up over {', '.join(sorted(missing))}: not evaluated, name it in --baselines, too"
            )
        return names

    def _chosen(self) -> tuple[dict[str, Any], list[Optimizer], Protocol, dict[str, Any]]:
        if self.suite and self.task:
            raise UsageError("give either --suite or --task, not both")
        suite = self.suite or ("" if self.task else "demo")
        chosen = families(suite, _flat(self.task))
        names = _flat(self.baselines) or ["adamw"]
        try:
            named = BASELINES if names == ["all"] else [name for name in names if name != NONE]
            rows = [own_or_named_baseline(name) for name in named]
            baselines = [baseline(row, self.rates, self.wide) for row in rows]
            protocol = Protocol(
                steps=DEMO_STEPS if suite == "demo" and self.steps is None else self.steps,
                tuning_seeds=self.tuning_seeds,
                report_seeds=self.report_seeds,
                max_parallel=self.max_parallel,
                stretched=self._stretched([row.name for row in baselines]),
                stretches=self.stretches,
                wall_clock=self.wall_clock,
                cache=self.cache,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        loaded = {name: load_weights(w) for w, name in named_weights(_flat(self.weights)).items()}
        if not loaded and not baselines:
            raise UsageError("--weights none and --baselines none leave nothing to evaluate: name one")
        untuned = [learned(name, *weights) for name, weights in loaded.items()]
        also = [tuned(optimizer) for optimizer in untuned] if self.tuned_weights else []
        also += [anytime(optimizer) for optimizer in untuned] if self.anytime else []
        also += [traced(optimizer) for optimizer in untuned] if self.traced else []
        return chosen, untuned + also + baselines, protocol, loaded
