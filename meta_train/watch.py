"""What a run shows while it goes: a progress bar with the time left; for TensorBoard numbers and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from meta_train.config import TrainConfig
from meta_train.devices import memory_in_use
from meta_train.hosts import is_first
from meta_train.pictures import memory_figure, modes_of
from meta_train.unroll import Score


class Watch:
    """Terminal and TensorBoard of one run, on its first host. A context manager."""

    def __init__(self, out: Path, config: TrainConfig, step: int):
        self._writer = SummaryWriter(str(out / "events"), write_to_disk=is_first())
        self._progress = Progress(
            TextColumn("meta-training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(soft_wrap=True, quiet=not is_first()),
        )
        self._bar = self._progress.add_task("steps", total=config.steps, completed=step, note="compiling")
        self._pairs, self._optimizer = config.pairs, config.optimizer

    def __enter__(self) -> Self:
        """Starts the progress bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the progress bar and writes what is left."""
        self._progress.stop()
        self._writer.close()

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)

    def compiled(self, name: str, seconds: float) -> None:
        """A family is ready."""
        self._progress.update(self._bar, note=f"compiled {name} in {seconds:.0f} s")
        if not self._progress.console.is_terminal:
            self.say(f"compiled {name} in {seconds:.0f} s")

    def stepped(
        self,
        step: int,
        horizons: Sequence[int],
        scores: Mapping[str, Score],
        gradient: jax.Array,
        theta: Any,
        seconds: float,
    ) -> None:
        """An outer step is done; each of its families took so many inner steps."""
        norm = float(np.linalg.norm(gradient))
        finals = {name: float(np.median(score.final)) for name, score in scores.items()}
        rate, horizon = 2 * self._pairs * sum(horizons) / seconds, round(np.mean(horizons))
        scalars = {"meta_gradient_norm": norm, "horizon": horizon, "inner_steps_per_second": rate}
        scalars |= {f"log_loss/{name}": value for name, value in finals.items()}
        scalars |= {f"law/{name}": value for name, value in _laws(theta).items()}
        scalars |= {f"device_memory/{name}": value for name, value in memory_in_use().items()}
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, float(value), step)
        shown = " ".join(f"{name} {value:.2f}" for name, value in finals.items())
        note = f"T={horizon} |g|={norm:.1f} {rate / 1e3:.0f}k steps/s  {shown}"
        self._progress.update(self._bar, completed=step, note=note)
        if not self._progress.console.is_terminal:
            self.say(f"step {step}: {seconds:.1f} s  {note}")

    def excluded(self, step: int, family: str) -> None:
        """A family's meta-gradient is not finite."""
        self.say(f"step {step}: the meta-gradient of {family} is not finite and is left out")

    def counted(self, step: int, **counts: int) -> None:
        """How often something has happened in this run so far."""
        for name, count in counts.items():
            self._writer.add_scalar(f"count/{name}", count, step)

    def agreed(self, step: int, shared: float) -> None:
        """How much of the families' meta-gradients points the same way, as a squared length."""
        self._writer.add_scalar("meta_gradient_shared", shared, step)

    def took(self, step: int, seconds: float) -> None:
        """How long the run has taken so far, all its sessions together."""
        self._writer.add_scalar("seconds", seconds, step)

    def validated(self, step: int, per_family: Mapping[str, np.ndarray], mean: float) -> None:
        """A measurement on the validation families is done."""
        for name, values in per_family.items():
            self._writer.add_scalar(f"validation/{name}", float(np.mean(values)), step)
        self._writer.add_scalar("validation/mean", mean, step)
        shown = " ".join(f"{name} {np.mean(values):.3f}" for name, values in per_family.items())
        self.say(f"step {step}: validation {mean:.4f}  {shown}")

    def learned(self, step: int, theta: Any) -> None:
        """Meta-parameters as they are at a measurement: their histograms, and a picture of their memory."""
        if not is_first():
            return
        for module, group in theta.items():
            place = module.removeprefix("flt/~/").replace("/~/", "/")
            for name, values in group.items():
                self._writer.add_histogram(f"{place}/{name}", np.ravel(values), step)
        if self._optimizer.memory == "modal":
            figure = memory_figure(list(modes_of(theta, self._optimizer)))
            self._writer.add_figure("masks", figure, step)


def _laws(theta: Any) -> dict[str, float]:
    """The meta-parameters with a name and a meaning of their own, by name."""
    named = {}
    for module, group in theta.items():
        if module.endswith("schedule") or module.endswith("memory"):
            for name, value in group.items():
                for index, scalar in enumerate(np.ravel(value)):
                    named[f"{name}_{index}" if np.ndim(value) else name] = float(scalar)
    return named
