"""What a run has learned, for `export`."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from learned_opt.config import FLTConfig
from meta_train.checkpoint import Checkpoints, config_of, recorded_settings
from meta_train.folder import last_session
from meta_train.trainer import Trainer


def load_trained(out: Path, share: float = 1.0) -> tuple[Any, FLTConfig, dict[str, Any]]:
    """(meta-parameters, config, card) of the run in a folder: the average with the best validation score.

    Args:
      out: folder of the run.
      share: how much of the way from the run's start to take; all of it by default.

    Raises:
      FileNotFoundError: there is no checkpoint in this folder.
      ValueError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected more than 0 and at most 1")
    settings = recorded_settings(out)
    config = config_of(settings)
    # The weights that the run started from may be gone; all of the way does not need them.
    trainer = Trainer(config if share < 1 else replace(config, start=""))
    with closing(Checkpoints(out, config)) as checkpoints:
        state = checkpoints.restore(trainer.start())
    if state is None:
        raise FileNotFoundError(f"{out} holds no checkpoint yet")
    chosen = state.best if np.isfinite(state.best_score) else state.average
    card = {
        "settings": settings,
        "outer_steps": int(state.step),
        "share": share,
        "validation_score": float(state.best_score),
        "seconds": round(float(state.seconds)),
        **last_session(out),
    }
    if share < 1:
        start, chosen = jax.device_get((trainer.flat, chosen))
        chosen = start + np.float32(share) * (chosen - start)
    return jax.device_get(trainer.unravel(chosen)), config.optimizer, card
