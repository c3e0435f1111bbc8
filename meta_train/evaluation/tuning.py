"""Choose an optimizer's setting, and say what became of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meta_train.baselines import Setting, widen
from meta_train.evaluation.optimizers import Optimizer
from meta_train.evaluation.results import SMALLEST_LOSS
from meta_train.evaluation.runs import Curves, Runner

DIVERGED_ABOVE = 1.2
DIVERGED_COUNTS_AS = 4.0
WIDEN_AT_MOST = 2


@dataclass(frozen=True)
class Finals:
    """The end of R runs; every array has shape [R].

    Attributes:
      initial: validation loss before the first step.
      train: mean training loss of the last 5% of the steps; 4 x `initial` for a diverged run.
      valid: validation loss after the last step; 4 x `initial` for a diverged run.
      diverged: whether a final loss is not finite, or the training loss ended above 1.2 x `initial`. (A
        network that overfits raises its validation loss: that is a bad result, not a divergence.)
    """

    initial: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    diverged: np.ndarray


def finals(curves: Curves) -> Finals:
    """Summarise recorded runs.

    Raises:
      ValueError: what no optimizer can be blamed for: a loss is not finite before any training, or negative.
    """
    initial, train, valid = curves.valid[:, 0], curves.train[:, -1], curves.valid[:, -1]
    if not np.isfinite(initial).all():
        raise ValueError(f"the task's loss is not finite before the first step: {initial.tolist()}")
    stable = np.isfinite(train) & np.isfinite(valid) & (train <= DIVERGED_ABOVE * initial)
    lowest = min(initial.min(), np.min(valid, where=stable, initial=np.inf))
    if lowest < -SMALLEST_LOSS:
        raise ValueError(
            f"the task's loss becomes negative ({lowest:.4g}), but losses are compared by their ratios: add "
            "a constant to it that keeps it above zero"
        )
    penalty = DIVERGED_COUNTS_AS * initial
    return Finals(initial, np.where(stable, train, penalty), np.where(stable, valid, penalty), ~stable)


@dataclass(frozen=True)
class Trial:
    """One setting: mean final validation loss over the tuning seeds, and diverged runs."""

    setting: Setting
    valid: float
    diverged: int


class Trials:
    """Finished trials of one grid search, kept in a file that a killed search goes on from.

    Args:
      path: one JSON list a line; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.found: dict[Setting, Trial] = {}
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # the kill came while it was written
                    setting, valid, diverged = json.loads(line)
                    self.found[Setting(*setting)] = Trial(Setting(*setting), valid, diverged)

    def add(self, trials: Sequence[Trial]) -> None:
        """Remember more of them."""
        self.found |= {trial.setting: trial for trial in trials}
        if self.path is not None:
            with self.path.open("a") as file:
                file.writelines(json.dumps(dataclasses.astuple(trial)) + "\n" for trial in trials)

    def forget(self) -> None:
        """Remove the file: the search is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Tuning:
    """The outcome of a grid search.

    Attributes:
      setting: the setting with the lowest mean final validation loss.
      trials: every setting that was tried.
      runs: the number of training runs that the choice used.
      at_edge: whether the best rate is at the grid's edge even after it was widened as often as allowed.
    """

    setting: Setting
    trials: tuple[Trial, ...]
    runs: int
    at_edge: bool


def choose(
    runner: Runner,
    optimizer: Optimizer,
    seeds: Sequence[int],
    steps: int | None = None,
    widen_at_most: int = WIDEN_AT_MOST,
    known: Trials | None = None,
) -> Tuning:
    """Try `optimizer.grid` on the tuning seeds, and more rates where the best one is at the grid's edge.

    Args:
      runner: trains.
      optimizer: whose setting is chosen.
      seeds: the tuning seeds.
      steps: length of the runs; None is the runner's usual.
      widen_at_most: how often two more rates are added.
      known: trials that are not repeated; new ones are added.
    """
    known = known or Trials()
    trials = _try(runner, optimizer, optimizer.grid, seeds, steps, known)
    for _ in range(widen_at_most):
        side = _edge(trials)
        if side is None:
            break
        best = _best(trials).setting
        wider = [best._replace(rate=rate) for rate in widen(_rates(trials), side)]
        trials += _try(runner, optimizer, wider, seeds, steps, known)
    at_edge = widen_at_most > 0 and _edge(trials) is not None
    return Tuning(_best(trials).setting, tuple(trials), len(trials) * len(seeds), at_edge)


def _try(
    runner: Runner,
    optimizer: Optimizer,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    steps: int | None,
    known: Trials,
) -> list[Trial]:
    missing = [setting for setting in settings if setting not in known.found]
    size = max(1, runner.parallel // len(seeds))
    for group in (missing[first : first + size] for first in range(0, len(missing), size)):
        end = finals(runner.run(optimizer, [(seed, setting) for setting in group for seed in seeds], steps))
        valid = end.valid.reshape(len(group), len(seeds)).mean(axis=1)
        diverged = end.diverged.reshape(len(group), len(seeds)).sum(axis=1)
        known.add([Trial(each, float(v), int(d)) for each, v, d in zip(group, valid, diverged, strict=True)])
    return [known.found[setting] for setting in settings]


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.valid)


def _rates(trials: Sequence[Trial]) -> list[float]:
    return sorted({float(trial.setting.rate) for trial in trials})


def _edge(trials: Sequence[Trial]) -> str | None:
    rates, best = _rates(trials), _best(trials).setting.rate
    return "low" if best == rates[0] else "high" if best == rates[-1] else None
