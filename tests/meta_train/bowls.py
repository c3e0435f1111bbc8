"""Runs of meta-training on two bowls."""

from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from meta_train.checkpoint import Checkpoints, RunState
from meta_train.config import TrainConfig
from meta_train.trainer import Trainer

from .tiny import settings


class Silent:
    """Watches nothing, but remembers the validation scores."""

    def __init__(self) -> None:
        self.means: list[float] = []

    def stepped(self, *_: Any) -> None: ...

    def agreed(self, *_: Any) -> None: ...

    def counted(self, *_: Any, **__: Any) -> None: ...

    def validated(self, step: int, per_family: Any, mean: float) -> None:
        self.means.append(mean)


def run_of(**changes: Any) -> TrainConfig:
    return settings(**({"families": ("bowl",), "validation": ("bowl_valid",)} | changes))


def saved(out: Path, config: TrainConfig | None = None) -> RunState:
    config = config or run_of()
    with closing(Checkpoints(out, config)) as checkpoints:
        state = checkpoints.restore(Trainer(config).start())
    assert state is not None
    return state


def assert_same_run(left: RunState, right: RunState) -> None:
    """Bit for bit, but for the time that it took."""
    jax.tree.map(np.testing.assert_array_equal, left._replace(seconds=0), right._replace(seconds=0))
