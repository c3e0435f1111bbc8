"""The statistics of an evaluation, on plain arrays.

Interquartile means with stratified bootstrap intervals follow Agarwal et al., "Deep Reinforcement Learning at
the Edge of the Statistical Precipice" (arXiv 2108.13264); performance profiles follow Dolan and Moré,
"Benchmarking optimization software with performance profiles" (arXiv cs/0102001).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy import special

BOOTSTRAP_SAMPLES = 2_000
LEVEL = 0.95


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half along the last axis, the values at its edges counting in part."""
    ordered = np.sort(values, axis=-1)
    edges = np.arange(ordered.shape[-1] + 1) / ordered.shape[-1]
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    mean: np.ndarray = (ordered * weights).sum(axis=-1) / weights.sum()
    return mean


def resample(seeds: int, tasks: int = 1) -> np.ndarray:
    """[B, tasks, seeds] indices: seeds drawn with replacement within each task; the same at every call."""
    return np.random.default_rng(0).integers(seeds, size=(BOOTSTRAP_SAMPLES, tasks, seeds))


def stratified_interval(
    scores: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean
) -> tuple[float, float]:
    """The 95% bootstrap interval of `statistic` over tasks of the mean over seeds.

    Args:
      scores: [tasks, seeds].
      statistic: [..., tasks] -> [...].
    """
    tasks, seeds = scores.shape
    means = np.take_along_axis(scores[None], resample(seeds, tasks), axis=2).mean(axis=2)
    return interval(statistic(means))


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The central 95% of [B] bootstrap samples."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def half_interval(values: np.ndarray) -> float:
    """Half the width of Student's 95% interval of the mean of [S] values; infinite for a single one."""
    if values.size < 2:
        return float("inf")
    error = values.std(ddof=1) / np.sqrt(values.size)
    return float(special.stdtrit(values.size - 1, (1 + LEVEL) / 2) * error)


def horizon_for(loss: float, own: int, horizons: np.ndarray, losses: np.ndarray) -> float:
    """The horizon at which a schedule would end with `loss`.

    Searched from the horizon number `own`: towards longer runs if its loss is above `loss`, else towards
    shorter ones, up to the first that crosses it. So a lower loss never gives a shorter horizon, even where
    longer runs overfit. Log loss is linear in log horizon in between; without a crossing it is the last
    horizon on that side.

    Args:
      loss: a positive loss.
      own: index into `horizons`.
      horizons: [H] increasing.
      losses: [H] final losses of runs of these lengths.
    """
    x, y = np.log(horizons), np.log(losses) - np.log(loss)
    if y[own] == 0:
        return float(horizons[own])
    path = range(own, len(x)) if y[own] > 0 else range(own, -1, -1)
    for before, after in pairwise(path):
        if y[before] * y[after] <= 0:
            share = y[before] / (y[before] - y[after])
            return float(np.exp(x[before] + share * (x[after] - x[before])))
    return float(horizons[path[-1]])


def speed_ups(own: np.ndarray, steps: int, horizons: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The speed-up of runs of `steps` steps over stretched ones, and its bootstrap samples.

    Args:
      own: [S] final losses.
      steps: their length.
      horizons: [H] increasing lengths of the stretched runs, `steps` among them.
      losses: [H, S] their final losses, on the same seeds.

    Returns:
      [1 + B]: the value for all seeds, then for seeds drawn with replacement; values at an end of
      `horizons / steps` are censored there.
    """
    picks = np.concatenate([np.arange(own.size)[None], resample(own.size)[:, 0]])
    unique, inverse = np.unique(np.sort(picks, axis=1), axis=0, return_inverse=True)
    here = int(np.flatnonzero(horizons == steps)[0])
    values = [horizon_for(own[pick].mean(), here, horizons, losses[:, pick].mean(axis=1)) for pick in unique]
    return np.asarray(values)[inverse.reshape(-1)] / steps


def profile(losses: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """[optimizers, len(ratios)]: the share of tasks that end within `ratio` times the best optimizer's loss.

    Args:
      losses: [optimizers, tasks], NaN where an optimizer has no result.
      ratios: increasing, from 1.
    """
    relative = losses / np.nanmin(losses, axis=0)
    return (relative[:, :, None] <= ratios * (1 + 1e-9)).mean(axis=1)


def first_reached(steps: np.ndarray, curve: np.ndarray, target: float) -> float | None:
    """The step at which a curve first is at `target` or below, linear in between; None if it never is."""
    finite = np.where(np.isfinite(curve), curve, np.inf)
    below = np.flatnonzero(finite <= target)
    if not below.size:
        return None
    at = int(below[0])
    if at == 0:
        return 0.0
    before = finite[at - 1]
    share = (before - target) / (before - finite[at]) if np.isfinite(before) else 1.0
    return float(steps[at - 1] + share * (steps[at] - steps[at - 1]))
