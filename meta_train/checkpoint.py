"""Checkpoints of a meta-training run: what is saved, where, and how a run is found again."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from learned_opt.config import FLTConfig
from learned_opt.weights.writing import write_atomically
from meta_train.config import TrainConfig

KEPT = 3


class RunState(NamedTuple):
    """Everything a run needs to go on as if it had never stopped; arrays."""

    step: jax.Array  # int32 []: outer steps done
    flat: jax.Array  # float32 [size]: meta-parameters
    outer: Any  # state of the outer optimizer
    average: jax.Array  # float32 [size]: running average of the meta-parameters
    best: jax.Array  # float32 [size]: the average with the lowest validation score so far
    best_score: jax.Array  # float32 []: infinite before the first measurement
    seconds: jax.Array  # float32 []: time spent meta-training


class Checkpoints:
    """The checkpoints in a run's folder: atomic, the last few kept.

    Raises:
      ValueError: the folder holds a run with other settings; the message lists the differences.
    """

    def __init__(self, out: Path, config: TrainConfig):
        out.mkdir(parents=True, exist_ok=True)
        record = out / "config.json"
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager((out / "checkpoints").absolute(), options=options)
        # A run that never got to a checkpoint stands in nobody's way.
        begun = record.exists() and self._manager.latest_step() is not None
        differences = _differences(record, config) if begun else ""
        if differences:
            self.close()
            raise ValueError(
                f"{out} holds a run with other settings ({differences}). "
                "Continue it with its own settings, or choose another --out"
            )
        if not begun:
            write_atomically(record, config.to_json().encode())

    def save(self, state: RunState) -> None:
        """Writes a checkpoint; one that is there already for this step is left as it is."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(state)._asdict()))

    def restore(self, like: RunState) -> RunState | None:
        """The newest state, or None in a new run. `like` gives structure, shapes and dtypes."""
        step = self._manager.latest_step()
        if step is None:
            return None
        found = self._manager.restore(step, args=ocp.args.StandardRestore(jax.device_get(like)._asdict()))
        return RunState(**found)

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()


def recorded_settings(out: Path) -> dict[str, Any]:
    """The settings of the run in a folder, as JSON values.

    Raises:
      FileNotFoundError: there is no run in this folder.
    """
    record = out / "config.json"
    if not record.exists():
        raise FileNotFoundError(f"{record} does not exist: start a run with meta-train train --out {out}")
    return json.loads(record.read_text())


def _differences(record: Path, config: TrainConfig) -> str:
    found, wanted = json.loads(record.read_text()), json.loads(config.to_json())
    differing = [key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key}: {found.get(key)} there, {wanted.get(key)} here" for key in differing)


def config_of(settings: dict[str, Any]) -> TrainConfig:
    """The TrainConfig that `recorded_settings` describes.

    Raises:
      ValueError: these are not the settings of a run made with this release.
    """
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    try:
        values["optimizer"] = FLTConfig.from_json(json.dumps(settings["optimizer"]))
        return TrainConfig(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the settings of a run made with this release: {error}") from error
