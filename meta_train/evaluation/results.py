"""The result of one optimizer on one task, and the folder that finished results are kept in."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """One optimizer on one task: S report seeds, all with the same learning rate.

    Attributes:
      key: content hash of everything that determines the result.
      task: name of the task family.
      optimizer: name of the optimizer.
      fingerprint: its weights or constants.
      steps: length of every run.
      rate: the learning rate chosen on the tuning seeds; None if there was none to choose.
      tuning_runs: how many training runs that choice used.
      at_edge: whether the rate is at the edge of a grid that was widened twice.
      grid: (rate, mean final validation loss, diverged runs) for every rate tried.
      seeds: [S] the report seeds.
      initial: [S] validation loss before training.
      train: [S] final training loss (mean of the last 5% of the steps).
      valid: [S] final validation loss.
      diverged: [S] whether the run diverged (then `train` and `valid` are 4 x `initial`).
      points: [P] the steps at which `valid_curves` was measured.
      valid_curves: [S][P] validation losses; None where not finite.
      train_curves: [S][P - 1] mean training loss between two consecutive points; None where not finite.
      compile_seconds: time spent compiling; 0 if an earlier optimizer left its program.
      milliseconds: wall-clock for one step of one run, when `parallel` of them are trained side by side.
      parallel: see `milliseconds`.
      machine: the kind of device, for example "cpu".
    """

    key: str
    task: str
    optimizer: str
    fingerprint: str
    steps: int
    rate: float | None
    tuning_runs: int
    at_edge: bool
    grid: list[list[float]]
    seeds: list[int]
    initial: list[float]
    train: list[float]
    valid: list[float]
    diverged: list[bool]
    points: list[int]
    valid_curves: list[list[float | None]]
    train_curves: list[list[float | None]]
    compile_seconds: float
    milliseconds: float
    parallel: int
    machine: str


@dataclass(frozen=True)
class Failure:
    """An optimizer that could not be run on a task, and why."""

    task: str
    optimizer: str
    reason: str


class Store:
    """Finished results as JSON files in one folder; each is written completely or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, task: str, optimizer: str, key: str) -> Result | None:
        """The finished result with this key, or None."""
        try:
            return Result(**json.loads(self._path(task, optimizer, key).read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None

    def save(self, result: Result) -> None:
        """Write `result` under its key."""
        path = self._path(result.task, result.optimizer, result.key)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(dataclasses.asdict(result), allow_nan=False, indent=1))
        os.replace(unfinished, path)

    def _path(self, task: str, optimizer: str, key: str) -> Path:
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{task}-{optimizer}")
        return self.folder / f"{readable}-{key}.json"
