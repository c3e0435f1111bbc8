"""One task family under one protocol: from an optimizer to its results."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import tasks
from meta_train.baselines import Setting
from meta_train.evaluation.optimizers import Optimizer, describe_key
from meta_train.evaluation.results import Result
from meta_train.evaluation.runs import Curves, Runner
from meta_train.evaluation.store import FORMAT, Store, file_name
from meta_train.evaluation.tuning import Trials, Tuning, choose, finals
from tasks.base import TaskFamily
from tasks.checks import check

if TYPE_CHECKING:
    from meta_train.evaluation.driver import Protocol

FIRST_REPORT_SEED = 1_000
LEADING = 3
PACE_SEGMENTS = 2
PACE_ROUNDS = 3


class Bench:
    """Data and programs are made when they are first needed.

    Args:
      task: the name in the results.
      family: what is trained.
      protocol: how.
      store: where results are looked for and kept.
      stop: once it is set, whatever runs raises KeyboardInterrupt.
    """

    def __init__(
        self,
        task: str,
        family: TaskFamily,
        protocol: Protocol,
        store: Store,
        stop: threading.Event | None = None,
    ) -> None:
        self.stop = stop
        self.task, self.family, self.protocol, self.store = task, family, protocol, store
        self.steps = protocol.steps or family.card.steps
        self.report = [FIRST_REPORT_SEED + index for index in range(protocol.report_seeds)]

    @cached_property
    def data(self) -> str:
        """The hash of the data."""
        return self.family.fingerprint()

    @cached_property
    def runner(self) -> Runner:
        """Trains; its programs are shared by all optimizers. The task is checked first."""
        check(self.family)
        parallel = self.protocol.parallel(self.family.card.parameters)
        return Runner(self.family, self.steps, parallel, self.stop)

    def results(self, optimizer: Optimizer) -> Iterator[tuple[Result, bool]]:
        """The optimizer's result, and those of stretched horizons; and whether each had to be computed."""
        result, fresh = self._result(optimizer, self.steps)
        yield result, fresh
        if optimizer.name in self.protocol.stretched:
            leading = dataclasses.replace(optimizer, grid=result.leading(LEADING))
            lengths = (max(1, round(self.steps * stretch)) for stretch in self.protocol.stretches)
            for steps in dict.fromkeys(lengths):
                if steps != self.steps:
                    tuned = self._stored(optimizer, self._key(optimizer, steps, horizon=steps))
                    yield (tuned, False) if tuned else self._result(leading, steps)

    def _stored(self, optimizer: Optimizer, key: str) -> Result | None:
        return self.store.load(self.task, optimizer.name, key)

    def _result(self, optimizer: Optimizer, steps: int) -> tuple[Result, bool]:
        key = self._key(optimizer, steps, self.steps)
        stored = self._stored(optimizer, key)
        if stored is not None:
            return stored, False
        runner = self.runner
        before = runner.compile_seconds, runner.run_seconds, runner.trained_steps
        tuning = None
        known = Trials(self.store.folder / file_name(self.task, optimizer.name, key, "trials"))
        if optimizer.tuned:
            # A grid that holds only the leading settings of another is not widened.
            widen = 2 if steps == self.steps else 0
            tuning = choose(runner, optimizer, range(self.protocol.tuning_seeds), steps, widen, known)
        setting = tuning.setting if tuning else Setting()
        curves = runner.run(optimizer, [(seed, setting) for seed in self.report], steps)
        after = runner.compile_seconds, runner.run_seconds, runner.trained_steps
        compiled, ran, trained = (b - a for a, b in zip(before, after, strict=True))
        result = _result(key, self.task, optimizer, self.report, tuning, curves)
        result = dataclasses.replace(
            result,
            compile_seconds=compiled,
            milliseconds=1e3 * ran / trained,
            parallel=runner.parallel,
            machine=jax.devices()[0].device_kind,
        )
        self._write_watched(optimizer, curves)
        self.store.save(result)
        known.forget()
        return result, True

    def milliseconds(self, optimizers: Sequence[Optimizer]) -> dict[str, float]:
        """Wall-clock for one step of one run, by optimizer: the quickest of short runs taken in turn."""
        runner = self.runner if self.runner.parallel == 1 else Runner(self.family, self.steps, 1)
        steps = PACE_SEGMENTS * runner.length
        best: dict[str, float] = {}
        for attempt in range(1 + PACE_ROUNDS):  # the first one compiles
            for optimizer in optimizers:
                setting = optimizer.grid[len(optimizer.grid) // 2] if optimizer.tuned else Setting()
                began = time.perf_counter()
                runner.run(optimizer, [(self.report[0], setting)], steps)
                if attempt:
                    taken = 1e3 * (time.perf_counter() - began) / steps
                    best[optimizer.name] = min(taken, best.get(optimizer.name, taken))
        return best

    def _write_watched(self, optimizer: Optimizer, curves: Curves) -> None:
        """What the optimizer did on the first report seed, in the format that `report` reads."""
        lines = []
        shapes = jax.tree.leaves_with_path(self.family.card.shapes())
        names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in shapes]
        for point, watched in enumerate(curves.watched, start=1):
            if watched:
                line = {name: np.asarray(value[0]).tolist() for name, value in watched.items()}
                lines.append(
                    json.dumps({"loss": float(curves.valid[0, point]), "tensors": names, **line}) + "\n"
                )
        if lines:
            folder = self.store.folder.parent / "diagnostics"
            folder.mkdir(exist_ok=True)
            (folder / file_name(self.task, optimizer.name, "jsonl")).write_text("".join(lines))

    def _key(self, optimizer: Optimizer, steps: int, horizon: int) -> str:
        """Of runs of `steps` steps in an evaluation whose tasks have that horizon."""
        card = self.family.card
        shapes = jax.tree.map(lambda leaf: [list(leaf.shape), str(leaf.dtype)], card.shapes())
        return describe_key(
            {
                "format": FORMAT,
                "task": [self.family.name, card.kind, card.architecture, card.batch_size, card.recipe],
                "shapes": repr(shapes),
                "data": self.data,
                "source": _foreign_source(self.family),
                "optimizer": [
                    optimizer.fingerprint or optimizer.name,
                    [list(each) for each in optimizer.grid],
                ],
                "steps": [steps, horizon],
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
) -> Result:
    end = finals(curves)
    trials = tuning.trials if tuning else ()
    return Result(
        key=key,
        task=task,
        optimizer=optimizer.name,
        fingerprint=optimizer.fingerprint,
        steps=curves.points[-1],
        learned=optimizer.learned,
        setting=_floats(tuning.setting) if tuning else None,
        tuning_runs=tuning.runs if tuning else 0,
        at_edge=tuning.at_edge if tuning else False,
        grid=[[*_floats(trial.setting), trial.valid, trial.diverged] for trial in trials],
        seeds=seeds,
        initial=end.initial.tolist(),
        train=end.train.tolist(),
        valid=end.valid.tolist(),
        diverged=end.diverged.tolist(),
        points=list(curves.points),
        valid_curves=_finite_or_none(curves.valid),
        train_curves=_finite_or_none(curves.train),
        compile_seconds=0.0,
        milliseconds=0.0,
        parallel=0,
        machine="",
    )


def _floats(setting: Setting) -> list[float]:
    return [float(value) for value in setting]


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
