"""Choose a baseline's learning rate, and say what became of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meta_train.baselines import widen
from meta_train.evaluation.optimizers import Optimizer
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
      ValueError: if a loss is not finite before any training, which no optimizer can be blamed for.
    """
    initial, train, valid = curves.valid[:, 0], curves.final_train, curves.valid[:, -1]
    if not np.isfinite(initial).all():
        raise ValueError(f"the task's loss is not finite before the first step: {initial.tolist()}")
    stable = np.isfinite(train) & np.isfinite(valid) & (train <= DIVERGED_ABOVE * initial)
    penalty = DIVERGED_COUNTS_AS * initial
    return Finals(initial, np.where(stable, train, penalty), np.where(stable, valid, penalty), ~stable)


@dataclass(frozen=True)
class Trial:
    """One learning rate: mean final validation loss over the tuning seeds, and diverged runs."""

    rate: float
    valid: float
    diverged: int


@dataclass(frozen=True)
class Tuning:
    """The outcome of a grid search.

    Attributes:
      rate: the learning rate with the lowest mean final validation loss.
      trials: every rate that was tried, increasing.
      runs: the number of training runs that the choice used.
      at_edge: whether the best rate is at the grid's edge even after it was widened twice.
    """

    rate: float
    trials: tuple[Trial, ...]
    runs: int
    at_edge: bool


def choose_rate(runner: Runner, optimizer: Optimizer, seeds: Sequence[int]) -> Tuning:
    """Try `optimizer.rates` on the tuning seeds; widen the grid at an edge that is best, at most twice."""
    trials = try_rates(runner, optimizer, optimizer.rates, seeds)
    for _ in range(WIDEN_AT_MOST):
        side = _edge(trials)
        if side is None:
            break
        wider = widen(tuple(trial.rate for trial in trials), side)
        trials = sorted(trials + try_rates(runner, optimizer, wider, seeds), key=lambda trial: trial.rate)
    return Tuning(_best(trials).rate, tuple(trials), len(trials) * len(seeds), _edge(trials) is not None)


def try_rates(
    runner: Runner, optimizer: Optimizer, rates: Sequence[float], seeds: Sequence[int]
) -> list[Trial]:
    """Every rate on every seed."""
    end = finals(runner.run(optimizer, [(seed, rate) for rate in rates for seed in seeds]))
    valid = end.valid.reshape(len(rates), len(seeds)).mean(axis=1)
    diverged = end.diverged.reshape(len(rates), len(seeds)).sum(axis=1)
    return [Trial(rate, float(v), int(d)) for rate, v, d in zip(rates, valid, diverged, strict=True)]


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.valid)


def _edge(trials: Sequence[Trial]) -> str | None:
    best = _best(trials)
    return "low" if best == trials[0] else "high" if best == trials[-1] else None
