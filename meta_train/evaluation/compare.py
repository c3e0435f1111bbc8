"""Who wins: paired comparisons on one task, and summaries over tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meta_train.evaluation import statistics, store
from meta_train.evaluation.results import SMALLEST_LOSS, Result

RESOLUTION = 10.0 ** (1 - store.DIGITS)  # of a shipped loss: what differs by less in log is equal

TIE_RULE = (
    "Ratio: final validation loss over the baseline's, seed by seed (a seed fixes member, initial parameters "
    "and batches for both), averaged in log. Win or loss: the 95% t-interval of the log ratio excludes 0 "
    f"by {RESOLUTION:g}, to which losses are kept; else a tie. A diverged run counts as 4 x its initial loss."
)
SPEED_RULE = (
    "Speed-up: the horizon to which the baseline's whole schedule must be stretched (or shrunk) to end with "
    "the optimizer's final validation loss, over the optimizer's own; in brackets the bootstrap 95% interval "
    "over seeds. The baseline ran at several horizons, each with the best of at least its three leading "
    "settings, chosen on the tuning seeds; linear in log between them. < and >: beyond the last of them."
)


@dataclass(frozen=True)
class SpeedUp:
    """How much longer the baseline must run (see `SPEED_RULE`).

    Attributes:
      samples: the value for all seeds, then bootstrap samples; censored at `least` and `most`.
      least: the shortest stretched horizon over the optimizer's own.
      most: the longest.
    """

    samples: np.ndarray
    least: float
    most: float

    @property
    def value(self) -> float:
        """The speed-up for all seeds."""
        return float(self.samples[0])

    def __str__(self) -> str:
        low, high = statistics.interval(self.samples[1:])
        return f"{self._sign(self.value)}{self.value:.2f} [{low:.2f}, {high:.2f}]"

    def _sign(self, value: float) -> str:
        return "> " if value >= self.most * (1 - 1e-6) else "< " if value <= self.least * (1 + 1e-6) else ""


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
      speed_up: None if the baseline was not run for stretched horizons.
    """

    task: str
    optimizer: str
    baseline: str
    log_ratios: tuple[float, ...]
    ratio: float
    low: float
    high: float
    verdict: str
    speed_up: SpeedUp | None


def compare(result: Result, baseline: Result, stretched: Sequence[Result] = ()) -> Comparison:
    """Compare two results on the same task, horizon and seeds.

    Args:
      result: the optimizer's.
      baseline: the baseline's.
      stretched: the baseline's at other horizons.

    Raises:
      ValueError: if they are not.
    """
    for name in ("task", "steps", "seeds"):
        if getattr(result, name) != getattr(baseline, name):
            raise ValueError(
                f"{result.optimizer} and {baseline.optimizer} differ in {name}: "
                f"{getattr(result, name)} and {getattr(baseline, name)}; they cannot be compared"
            )
    differences = np.log(_losses(result)) - np.log(_losses(baseline))
    mean, half = float(differences.mean()), statistics.half_interval(differences)
    verdict = "win" if mean + half < -RESOLUTION else "loss" if mean - half > RESOLUTION else "tie"
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
        speed_up=_speed_up(result, [baseline, *stretched]) if stretched else None,
    )


def _losses(result: Result) -> np.ndarray:
    return np.maximum(result.valid, SMALLEST_LOSS)


def _speed_up(result: Result, reference: Iterable[Result]) -> SpeedUp:
    runs = sorted((one for one in reference if one.seeds == result.seeds), key=lambda one: one.steps)
    horizons = np.asarray([one.steps for one in runs], float)
    losses = np.stack([_losses(one) for one in runs])
    samples = statistics.speed_ups(_losses(result), result.steps, horizons, losses)
    return SpeedUp(samples, horizons[0] / result.steps, horizons[-1] / result.steps)


def comparisons(results: Sequence[Result]) -> list[Comparison]:
    """Every learned optimizer against every other, task by task.

    Of an optimizer's results on a task the first counts; those of other horizons measure speed-ups.
    """
    by_task: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        by_task.setdefault(result.task, {}).setdefault(result.optimizer, []).append(result)
    pairs = []
    for group in by_task.values():
        for candidate, *_ in group.values():
            for against, *stretched in group.values():
                if candidate.learned and not against.learned:
                    pairs.append(compare(candidate, against, stretched))
    return pairs


def own_horizon(results: Iterable[Result]) -> list[Result]:
    """The first result of each optimizer on each task: those that are not stretched."""
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        first.setdefault((result.task, result.optimizer), result)
    return list(first.values())


def steps_to(result: Result, target: float | None) -> float | None:
    """The step at which the mean validation curve first reaches `target`; None if it never does."""
    if target is None:
        return None
    curve = np.asarray(result.valid_curves, float).mean(axis=0)
    return statistics.first_reached(np.asarray(result.points, float), curve, target)


@dataclass(frozen=True)
class Summary:
    """One optimizer against one baseline over all tasks that both finished.

    Attributes:
      optimizer: name of the optimizer.
      baseline: name of the baseline.
      verdicts: how many tasks were won, tied, lost, by "win", "tie" and "loss".
      median_ratio: median over tasks of `Comparison.ratio`.
      mean_ratio: exp of the interquartile mean over tasks of the mean log ratio.
      low: lower end of its bootstrap 95% interval (seeds are resampled within each task).
      high: upper end.
      worst_task: the task with the largest ratio.
      worst_ratio: its ratio.
      speed_up: exp of the interquartile mean over tasks of the log speed-up, with its interval, censored ones
        at their bounds; None if none was measured.
    """

    optimizer: str
    baseline: str
    verdicts: Mapping[str, int]
    median_ratio: float
    mean_ratio: float
    low: float
    high: float
    worst_task: str
    worst_ratio: float
    speed_up: tuple[float, float, float] | None


def summarise(pairs: Sequence[Comparison]) -> Summary:
    """Summarise one (optimizer, baseline) pair over tasks."""
    verdicts = [one.verdict for one in pairs]
    worst = max(pairs, key=lambda one: one.ratio)
    logs = np.asarray([one.log_ratios for one in pairs])
    low, high = statistics.stratified_interval(logs)
    return Summary(
        optimizer=worst.optimizer,
        baseline=worst.baseline,
        verdicts={verdict: verdicts.count(verdict) for verdict in ("win", "tie", "loss")},
        median_ratio=float(np.median([one.ratio for one in pairs])),
        mean_ratio=float(np.exp(statistics.interquartile_mean(logs.mean(axis=1)))),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        worst_task=worst.task,
        worst_ratio=worst.ratio,
        speed_up=_mean_speed_up([one.speed_up for one in pairs if one.speed_up is not None]),
    )


def _mean_speed_up(speed_ups: Sequence[SpeedUp]) -> tuple[float, float, float] | None:
    if not speed_ups:
        return None
    rng = np.random.default_rng(0)
    # Tasks are resampled apart: the same draws for all of them would make their noise look common.
    samples = np.stack([rng.permutation(one.samples[1:]) for one in speed_ups], axis=1)
    means = np.exp(statistics.interquartile_mean(np.log(samples)))
    value = np.exp(statistics.interquartile_mean(np.log([one.value for one in speed_ups])))
    return float(value), *statistics.interval(means)
