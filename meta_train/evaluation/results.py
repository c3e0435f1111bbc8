"""The result of one optimizer on one task."""

from __future__ import annotations

from dataclasses import dataclass, field

from meta_train.baselines import Setting

SMALLEST_LOSS = 1e-7  # what is smaller, rounding included, is as good as zero


@dataclass(frozen=True)
class Result:
    """One optimizer on one task: S report seeds, all with the same learning rate.

    Attributes:
      key: content hash of everything that determines the result.
      task: name of the task family.
      optimizer: name of the optimizer.
      fingerprint: its weights or constants.
      steps: length of every run.
      learned: whether the optimizer is compared with the others, or is what they are compared with.
      setting: (rate, weight decay, constant) chosen on the tuning seeds; None if there was nothing to choose.
      tuning_runs: how many training runs that choice used.
      at_edge: whether the rate is at the edge of a grid that was widened twice.
      grid: (rate, weight decay, constant, mean final validation loss, diverged runs) for all that was tried.
      seeds: [S] the report seeds.
      initial: [S] validation loss before training.
      train: [S] final training loss (mean of the last 5% of the steps).
      valid: [S] final validation loss.
      diverged: [S] whether the run diverged (then `train` and `valid` are 4 x `initial`).
      points: [P] the steps at which `valid_curves` was measured.
      valid_curves: [S][P] validation losses; None where not finite.
      train_curves: [S][P - 1] mean training loss between two consecutive points; None where not finite.
      compile_seconds: time spent compiling; 0 if an earlier optimizer left its program.
      milliseconds: wall-clock for one step of one run, when `parallel` of them are trained side by side and
        other tasks compile and run meanwhile.
      parallel: see `milliseconds`.
      machine: the kind of device, for example "cpu".
    """

    key: str
    task: str
    optimizer: str
    fingerprint: str
    steps: int
    learned: bool
    setting: list[float] | None
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

    @property
    def described(self) -> str:
        """The chosen setting in words."""
        if self.setting is None:
            return "untuned"
        rate, decay, constant = Setting(*self.setting)
        return f"{rate:g}{'!' if self.at_edge else ''}, decay {decay:g}{', constant' if constant else ''}"

    def leading(self, count: int) -> tuple[Setting, ...]:
        """The `count` best settings of the grid, increasing in their rate."""
        best = sorted(self.grid, key=lambda row: row[3])[:count]
        return tuple(sorted(Setting(*row[:3]) for row in best))


@dataclass(frozen=True)
class Failure:
    """An optimizer that could not be run on a task, and why."""

    task: str
    optimizer: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What an evaluation knows beside its results.

    Attributes:
      targets: validation loss to reach, by task; tasks without one are missing.
      milliseconds: wall-clock for one step of one run alone on this machine, by task and optimizer.
      failures: what could not be run.
    """

    targets: dict[str, float] = field(default_factory=dict)
    milliseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
