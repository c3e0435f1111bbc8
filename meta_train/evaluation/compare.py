"""Who wins: paired comparisons on one task, and summaries over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from meta_train.evaluation.results import Result

SMALLEST_LOSS = 1e-7
BOOTSTRAP_SAMPLES = 2_000

TIE_RULE = (
    "Ratio: final validation loss over the baseline's, seed by seed (a seed fixes member, initial parameters "
    "and batches for both), averaged in log. Win or loss: the 95% t-interval of the log ratio excludes 0; "
    "else a tie. A diverged run counts as 4 x its initial loss."
)
SPEED_RULE = (
    "Anytime speed-up: the step at which the baseline's mean validation curve first reaches its own final "
    "loss, over the step at which the optimizer's curve first does (21 points, 3-point means, linear in "
    "between). It asks when a run of this horizon gets there, not what a shorter run would reach. "
    "'-': never reached."
)


@dataclass(frozen=True)
class Comparison:
    """One optimizer against one baseline on one task.

    Attributes:
      task: name of the task.
      optimizer: name of the optimizer.
      baseline: name of the baseline.
      log_ratios: [S] log(final validation loss / the baseline's), per report seed.
      ratio: exp of their mean; below 1 the optimizer is better.
      low: lower end of the 95% interval of `ratio`.
      high: upper end; with one seed the interval is everything.
      verdict: "win", "tie" or "loss" (see `TIE_RULE`).
      speed_up: see `SPEED_RULE`; None if the baseline's final loss is never reached.
    """

    task: str
    optimizer: str
    baseline: str
    log_ratios: tuple[float, ...]
    ratio: float
    low: float
    high: float
    verdict: str
    speed_up: float | None


def compare(result: Result, baseline: Result) -> Comparison:
    """Compare two results on the same task, horizon and seeds.

    Raises:
      ValueError: if they are not.
    """
    for name in ("task", "steps", "seeds"):
        if getattr(result, name) != getattr(baseline, name):
            raise ValueError(
                f"{result.optimizer} and {baseline.optimizer} differ in {name}: "
                f"{getattr(result, name)} and {getattr(baseline, name)}; they cannot be compared"
            )
    logs = [np.log(np.maximum(one.valid, SMALLEST_LOSS)) for one in (result, baseline)]
    differences = logs[0] - logs[1]
    mean, half = float(differences.mean()), _half_interval(differences)
    verdict = "win" if mean + half < 0 else "loss" if mean - half > 0 else "tie"
    with np.errstate(over="ignore"):
        low, high = float(np.exp(mean - half)), float(np.exp(mean + half))
    return Comparison(
        task=result.task,
        optimizer=result.optimizer,
        baseline=baseline.optimizer,
        log_ratios=tuple(differences.tolist()),
        ratio=float(np.exp(mean)),
        low=low,
        high=high,
        verdict=verdict,
        speed_up=speed_up(result, baseline),
    )


def _half_interval(values: np.ndarray) -> float:
    if values.size < 2:
        return float("inf")
    error = values.std(ddof=1) / np.sqrt(values.size)
    return float(special.stdtrit(values.size - 1, 0.975) * error)


def speed_up(result: Result, baseline: Result) -> float | None:
    """How many times sooner the baseline's final loss is reached (see `SPEED_RULE`); None if it never is."""
    target = _smooth_curve(baseline)[-1]
    own, other = _first_reached(baseline, target), _first_reached(result, target)
    if own is None or other is None:
        return None
    return max(own, 1.0) / max(other, 1.0)


def _smooth_curve(result: Result) -> np.ndarray:
    curve = np.asarray(result.valid_curves, float).mean(axis=0)
    curve = np.where(np.isfinite(curve), curve, np.inf)
    inner = (curve[:-2] + curve[1:-1] + curve[2:]) / 3
    return np.concatenate([curve[:1], inner, curve[-1:]])


def _first_reached(result: Result, target: float) -> float | None:
    steps, curve = np.asarray(result.points, float), _smooth_curve(result)
    below = np.flatnonzero(curve <= target)
    if not below.size or not np.isfinite(target):
        return None
    at = int(below[0])
    if at == 0:
        return 0.0
    before = curve[at - 1]
    share = 1.0 if not np.isfinite(before) else (before - target) / (before - curve[at])
    return float(steps[at - 1] + share * (steps[at] - steps[at - 1]))


@dataclass(frozen=True)
class Summary:
    """One optimizer against one baseline over all tasks that both finished.

    Attributes:
      optimizer: name of the optimizer.
      baseline: name of the baseline.
      wins: number of tasks won.
      ties: number of tasks tied.
      losses: number of tasks lost.
      median_ratio: median over tasks of `Comparison.ratio`.
      mean_ratio: exp of the interquartile mean over tasks of the mean log ratio.
      low: lower end of its bootstrap 95% interval (seeds are resampled within each task).
      high: upper end.
      worst_task: the task with the largest ratio.
      worst_ratio: its ratio.
      median_speed_up: median over tasks; where the baseline's final loss is never reached it counts as 0.
    """

    optimizer: str
    baseline: str
    wins: int
    ties: int
    losses: int
    median_ratio: float
    mean_ratio: float
    low: float
    high: float
    worst_task: str
    worst_ratio: float
    median_speed_up: float


def summarise(comparisons: Sequence[Comparison]) -> Summary:
    """Summarise one (optimizer, baseline) pair over tasks."""
    verdicts = [one.verdict for one in comparisons]
    worst = max(comparisons, key=lambda one: one.ratio)
    logs = np.asarray([one.log_ratios for one in comparisons])
    tasks, seeds = logs.shape
    picks = np.random.default_rng(0).integers(seeds, size=(BOOTSTRAP_SAMPLES, tasks, seeds))
    resampled = np.take_along_axis(logs[None], picks, axis=2).mean(axis=2)
    low, high = np.quantile([interquartile_mean(sample) for sample in resampled], [0.025, 0.975])
    return Summary(
        optimizer=worst.optimizer,
        baseline=worst.baseline,
        wins=verdicts.count("win"),
        ties=verdicts.count("tie"),
        losses=verdicts.count("loss"),
        median_ratio=float(np.median([one.ratio for one in comparisons])),
        mean_ratio=float(np.exp(interquartile_mean(logs.mean(axis=1)))),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        worst_task=worst.task,
        worst_ratio=worst.ratio,
        median_speed_up=float(np.median([one.speed_up or 0.0 for one in comparisons])),
    )


def interquartile_mean(values: np.ndarray) -> float:
    """The mean of the middle half of [N] values, the values at its edges counting in part."""
    ordered = np.sort(values)
    edges = np.arange(ordered.size + 1) / ordered.size
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    return float((weights * ordered).sum() / weights.sum())
