"""The smallest optimizer and the smallest runs: what compiles in seconds."""

from typing import Any

from learned_opt.config import FLTConfig
from meta_train.config import TrainConfig

OPTIMIZER = FLTConfig(rule_width=2, controller_width=2)


def settings(**changes: Any) -> TrainConfig:
    """A run of a few outer steps on the quickest real families."""
    small: dict[str, Any] = {
        "steps": 4,
        "families": ("linear_map",),
        "families_per_step": 1,
        "pairs": 4,
        "horizons": (25, 75),
        "validation": ("iris",),
        "validation_steps": 50,
        "validation_seeds": 2,
        "validate_every": 2,
        "optimizer": OPTIMIZER,
    }
    return TrainConfig(**(small | changes))
