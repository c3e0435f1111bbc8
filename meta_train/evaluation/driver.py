"""Evaluate optimizers on task families: tune, run, keep every finished result, survive a broken task."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

import tasks
from meta_train.evaluation.optimizers import Optimizer, describe_key
from meta_train.evaluation.results import FORMAT, Failure, Result, Store
from meta_train.evaluation.runs import Curves, Runner
from meta_train.evaluation.tuning import Tuning, choose_rate, finals
from tasks.base import TaskFamily

FIRST_REPORT_SEED = 1_000
RUNS_TIMES_PARAMETERS = 200_000_000
MOST_PARALLEL_RUNS = 64


@dataclass(frozen=True)
class Protocol:
    """How every optimizer is treated.

    Attributes:
      steps: length of every run; None takes the horizon on each task's card.
      tuning_seeds: seeds 0, 1, ... on which a learning rate is chosen.
      report_seeds: seeds 1000, 1001, ... which are reported; never used to choose anything.
      max_parallel: how many runs are trained side by side; None chooses (1 on a CPU).
    """

    steps: int | None = None
    tuning_seeds: int = 2
    report_seeds: int = 3
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "tuning_seeds", "report_seeds", "max_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.tuning_seeds > FIRST_REPORT_SEED:
            raise ValueError(f"tuning_seeds must be at most {FIRST_REPORT_SEED}, not {self.tuning_seeds}")

    def parallel(self, parameters: int) -> int:
        """Runs trained side by side: one on a CPU (more are no faster and compile longer), many elsewhere."""
        if self.max_parallel is not None:
            return self.max_parallel
        if jax.default_backend() == "cpu":
            return 1
        return max(1, min(MOST_PARALLEL_RUNS, RUNS_TIMES_PARAMETERS // max(1, parameters)))


def evaluate(
    families: Mapping[str, TaskFamily],
    optimizers: Sequence[Optimizer],
    protocol: Protocol,
    out: Path,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[list[Result], list[Failure]]:
    """Evaluate every optimizer on every family.

    A result is written to `out`/runs as soon as it is there, and read instead of computed the next time. An
    exception inside a task becomes a `Failure`, and the rest goes on.

    Args:
      families: the task families by the name they are reported under.
      optimizers: what is evaluated; names are unique.
      protocol: horizon and seeds.
      out: the folder of the results.
      log: receives one line for each finished pair.

    Returns:
      Results and failures, in the order of `families` and `optimizers`.

    Raises:
      ValueError: if two optimizers have the same name.
    """
    names = [optimizer.name for optimizer in optimizers]
    if len(set(names)) < len(names):
        raise ValueError(f"two optimizers have the same name: {', '.join(names)}")
    store = Store(out / "runs")
    results: list[Result] = []
    failures: list[Failure] = []
    for task, family in families.items():
        bench = _Bench(task, family, protocol, store)
        for optimizer in optimizers:
            try:
                result, fresh = bench.result(optimizer)
            except Exception as error:  # whatever a user's task raises is reported, and the others go on
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                failures.append(Failure(task, optimizer.name, reason))
                log(f"{task} / {optimizer.name}: FAILED, {reason}")
            else:
                results.append(result)
                log(_line(result, fresh))
    return results, failures


class _Bench:
    """One task family under one protocol; data and programs are made when they are first needed."""

    def __init__(self, task: str, family: TaskFamily, protocol: Protocol, store: Store) -> None:
        self.task, self.family, self.protocol, self.store = task, family, protocol, store
        self.steps = protocol.steps or family.card.steps
        self.report = [FIRST_REPORT_SEED + index for index in range(protocol.report_seeds)]

    @cached_property
    def data(self) -> str:
        return self.family.fingerprint()

    @cached_property
    def runner(self) -> Runner:
        return Runner(self.family, self.steps, self.protocol.parallel(self.family.card.parameters))

    def result(self, optimizer: Optimizer) -> tuple[Result, bool]:
        """The result, and whether it had to be computed."""
        key = self._key(optimizer)
        stored = self.store.load(self.task, optimizer.name, key)
        if stored is not None:
            return stored, False
        runner = self.runner
        compiled, ran, count = runner.compile_seconds, runner.run_seconds, runner.runs
        tuning = (
            choose_rate(runner, optimizer, range(self.protocol.tuning_seeds)) if optimizer.tuned else None
        )
        curves = runner.run(optimizer, [(seed, tuning.rate if tuning else 1.0) for seed in self.report])
        result = _result(key, self.task, optimizer, self.report, tuning, curves, runner.parallel)
        milliseconds = 1e3 * (runner.run_seconds - ran) / (self.steps * (runner.runs - count))
        result = dataclasses.replace(
            result, compile_seconds=runner.compile_seconds - compiled, milliseconds=milliseconds
        )
        self.store.save(result)
        return result, True

    def _key(self, optimizer: Optimizer) -> str:
        return describe_key(
            {
                "format": FORMAT,
                "task": self.family.name,
                "card": repr(self.family.card),
                "data": self.data,
                "source": _foreign_source(self.family),
                "optimizer": [optimizer.name, optimizer.fingerprint, optimizer.rates],
                "steps": self.steps,
                "seeds": [self.protocol.tuning_seeds if optimizer.tuned else 0, self.report],
            }
        )


def _result(
    key: str,
    task: str,
    optimizer: Optimizer,
    seeds: list[int],
    tuning: Tuning | None,
    curves: Curves,
    parallel: int,
) -> Result:
    end = finals(curves)
    blocks = np.split(curves.train, curves.points[1:-1], axis=1)
    return Result(
        key=key,
        task=task,
        optimizer=optimizer.name,
        fingerprint=optimizer.fingerprint,
        steps=curves.train.shape[1],
        rate=tuning.rate if tuning else None,
        tuning_runs=tuning.runs if tuning else 0,
        at_edge=tuning.at_edge if tuning else False,
        grid=[list(dataclasses.astuple(trial)) for trial in tuning.trials] if tuning else [],
        seeds=seeds,
        initial=end.initial.tolist(),
        train=end.train.tolist(),
        valid=end.valid.tolist(),
        diverged=end.diverged.tolist(),
        points=list(curves.points),
        valid_curves=_finite_or_none(curves.valid),
        train_curves=_finite_or_none(np.stack([block.mean(axis=1) for block in blocks], axis=1)),
        compile_seconds=0.0,
        milliseconds=0.0,
        parallel=parallel,
        machine=jax.devices()[0].device_kind,
    )


def _finite_or_none(values: np.ndarray) -> list[list[float | None]]:
    return [[float(value) if np.isfinite(value) else None for value in row] for row in values]


def _foreign_source(family: TaskFamily) -> str:
    """Hash of the files that define a family of the user's, so that an edited task is run again."""
    home = str(Path(tasks.__file__).parent)
    functions: tuple[Any, ...] = (family.sample, family.init, family.batch, family.loss, family.data)
    files = {
        inspect.unwrap(f).__code__.co_filename for f in functions if hasattr(inspect.unwrap(f), "__code__")
    }
    digest = hashlib.sha256()
    for file in sorted(name for name in files if not name.startswith(home) and Path(name).is_file()):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _line(result: Result, fresh: bool) -> str:
    rate = "" if result.rate is None else f" at rate {result.rate:g} ({result.tuning_runs} tuning runs)"
    how = f"compiled in {result.compile_seconds:.1f} s" if fresh else "finished earlier"
    return f"{result.task} / {result.optimizer}: validation {np.mean(result.valid):.4g}{rate}, {how}"
