"""Evaluate optimizers on task families: tune, run, keep every finished result, survive a broken task."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from meta_train.evaluation.bench import FIRST_REPORT_SEED, Bench
from meta_train.evaluation.optimizers import Optimizer
from meta_train.evaluation.results import Failure, Outcome, Result
from meta_train.evaluation.store import Store, save_evaluation
from tasks.base import TaskFamily

RUNS_TIMES_PARAMETERS = 200_000_000
MOST_PARALLEL_RUNS = 64
MOST_TASKS_AT_ONCE = 4
STRETCHES = (0.5, 0.7, 1.4, 2.0, 2.8, 4.0)


@dataclass(frozen=True)
class Protocol:
    """How every optimizer is treated.

    Attributes:
      steps: length of every run; None takes the horizon on each task's card.
      tuning_seeds: seeds 0, 1, ... on which a setting is chosen.
      report_seeds: seeds 1000, 1001, ... which are reported; never used to choose anything.
      max_parallel: how many runs are trained side by side; None chooses (1 on a CPU).
      stretched: baselines that are also run for stretched horizons, which measures speed-ups over them.
      stretches: those horizons, in units of `steps`.
      wall_clock: whether every optimizer is timed, alone, after all else.
      cache: whether the user's cache and the shipped results are used.
    """

    steps: int | None = None
    tuning_seeds: int = 2
    report_seeds: int = 3
    max_parallel: int | None = None
    stretched: tuple[str, ...] = ()
    stretches: tuple[float, ...] = STRETCHES
    wall_clock: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "tuning_seeds", "report_seeds", "max_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not all(0 < stretch < np.inf for stretch in self.stretches):
            raise ValueError(f"stretches must be positive, not {self.stretches}")
        if self.tuning_seeds > FIRST_REPORT_SEED:
            raise ValueError(f"tuning_seeds must be at most {FIRST_REPORT_SEED}, not {self.tuning_seeds}")

    def parallel(self, parameters: int) -> int:
        """Runs trained side by side: one on a CPU (more are no faster and compile longer), many elsewhere."""
        if self.max_parallel is not None:
            return self.max_parallel
        if jax.default_backend() == "cpu":
            return 1
        share = max(1, min(MOST_PARALLEL_RUNS, RUNS_TIMES_PARAMETERS // max(1, parameters)))
        return share * jax.local_device_count()


def evaluate(
    families: Mapping[str, TaskFamily],
    optimizers: Sequence[Optimizer],
    protocol: Protocol,
    out: Path,
    log: Callable[[str], None] = lambda line: None,
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Result], Outcome]:
    """Evaluate every optimizer on every family, several families at once.

    A result is written to `out`/runs as soon as it is there, and read instead of computed the next time. An
    exception inside a task becomes a `Failure`, and the rest goes on.

    Args:
      families: the task families by the name they are reported under.
      optimizers: what is evaluated; names are unique.
      protocol: horizon and seeds.
      out: the folder of the results.
      log: receives one line for each finished pair.
      done: is called after each of the `len(families) * len(optimizers)` pairs.

    Returns:
      The results, in the order of `families` and `optimizers` (an optimizer's runs of stretched horizons
      follow its result), and what else there is to say. Both are in `out`, for `report`, too.

    Raises:
      ValueError: if two optimizers have the same name.
    """
    names = [optimizer.name for optimizer in optimizers]
    if len(set(names)) < len(names):
        raise ValueError(f"two optimizers have the same name: {', '.join(names)}")
    store = Store(out / "runs", protocol.cache)

    stop = threading.Event()
    benches = {task: Bench(task, family, protocol, store, stop) for task, family in families.items()}

    def one(bench: Bench) -> tuple[list[Result], list[Failure]]:
        task = bench.task
        results: list[Result] = []
        failures: list[Failure] = []
        for optimizer in optimizers:
            try:
                for result, fresh in bench.results(optimizer):
                    results.append(result)
                    log(_line(result, fresh))
            except Exception as error:  # whatever a user's code raises is reported, and the others go on
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                failures.append(Failure(task, optimizer.name, reason))
                log(f"{task} / {optimizer.name}: FAILED, {reason}")
            done()
        return results, failures

    pool = ThreadPoolExecutor(min(MOST_TASKS_AT_ONCE, os.cpu_count() or 1))
    try:
        pairs = list(pool.map(one, benches.values()))
    except BaseException:  # Ctrl-C comes to this thread alone
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    results = [result for found, _ in pairs for result in found]
    outcome = Outcome(
        targets={task: family.card.target for task, family in families.items() if family.card.target},
        milliseconds=_milliseconds(benches, optimizers, results) if protocol.wall_clock else {},
        failures=[failure for _, failures in pairs for failure in failures],
    )
    save_evaluation(results, outcome, out)
    return results, outcome


def _milliseconds(
    benches: Mapping[str, Bench], optimizers: Sequence[Optimizer], results: Sequence[Result]
) -> dict[str, dict[str, float]]:
    finished: dict[str, set[str]] = {}
    for result in results:
        finished.setdefault(result.task, set()).add(result.optimizer)
    return {
        task: benches[task].milliseconds([each for each in optimizers if each.name in names])
        for task, names in finished.items()
    }


def _line(result: Result, fresh: bool) -> str:
    how = f"compiled in {result.compile_seconds:.1f} s" if fresh else "finished earlier"
    runs = f" ({result.tuning_runs} tuning runs)" if result.setting else ""
    name = f"{result.task} / {result.optimizer}, {result.steps} steps"
    return f"{name}: validation {np.mean(result.valid):.4g}, {result.described}{runs}; {how}"
