"""Checkpoints of a meta-training run: what is saved, where, and how a run is found again."""

import json
import warnings
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
    excluded: jax.Array  # int32 []: meta-gradients of a family that were not finite, and left out
    clipped: jax.Array  # int32 []: outer steps whose meta-gradient was too long
    workers: dict[str, Any]  # by family, what its pairs keep between outer steps, arrays [pairs, ...]


class Checkpoints:
    """The checkpoints in a run's folder: atomic, the last few kept. Of several hosts, only the first uses it.

    Args:
      out: the folder, made if it is not there.
      config: settings of the run.
      override: go on with these settings even if the run began with others.

    Raises:
      ValueError: the folder holds a run with other settings; the message lists the differences.
    """

    def __init__(self, out: Path, config: TrainConfig, override: bool = False):
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        record = out / "config.json"
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT,
            enable_async_checkpointing=False,
            create=False,  # not possible for the first host alone
            multiprocessing_options=alone,
        )
        folder = (out / "checkpoints").absolute()
        folder.mkdir(exist_ok=True)
        self._manager = ocp.CheckpointManager(folder, options=options)
        # A run that never got to a checkpoint stands in nobody's way.
        begun = record.exists() and self._manager.latest_step() is not None
        differences = _differences(record, config) if begun else ""
        if differences and not override:
            self.close()
            raise ValueError(
                f"{out} holds a run with other settings ({differences}). "
                "Go on with its own, choose another --out, or force these with --override"
            )
        if not begun or differences:
            write_atomically(record, config.to_json().encode())

    def save(self, state: RunState) -> None:
        """Writes a checkpoint; one that is there already for this step is left as it is.

        Raises:
          OSError: it could not be written, for example because the disk is full; earlier ones stay.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        try:
            self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(state)._asdict()))
        except Exception as error:  # what a full disk raises depends on the layer that meets it
            kept = self._manager.latest_step()
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self._out} "
                f"({_first_line(error)}); {'none' if kept is None else f'that of step {kept}'} is kept. "
                "Make room; the same command then goes on from it"
            ) from error

    def restore(self, like: RunState) -> RunState | None:
        """The newest state that can be read, or None in a new run.

        Newer ones that cannot be read are warned of, and deleted.

        Args:
          like: gives structure, shapes and dtypes.

        Raises:
          ValueError: there are checkpoints, but none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for place, step in enumerate(steps):
            found = self._read(step, jax.device_get(like)._asdict())
            if found is not None:
                for damaged in steps[:place]:
                    self._manager.delete(damaged)
                return RunState(**found)
        if steps:
            raise ValueError(
                f"no checkpoint in {self._out} can be read: they are damaged, or of another release or "
                "optimizer. Choose another --out"
            )
        return None

    def _read(self, step: int, like: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except Exception as error:  # whatever a damaged file leads to
            warnings.warn(
                f"the checkpoint of step {step} in {self._out} cannot be read ({_first_line(error)})",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

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


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _differences(record: Path, config: TrainConfig) -> str:
    # What a run recorded before a setting existed is what that setting does by default.
    found = json.loads(TrainConfig(steps=1).to_json()) | json.loads(record.read_text())
    wanted = json.loads(config.to_json())
    differing = [key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key}: {found.get(key)} there, {wanted.get(key)} here" for key in differing)


def config_of(settings: dict[str, Any]) -> TrainConfig:
    """The TrainConfig that `recorded_settings` describes.

    Raises:
      ValueError: these are not the settings of a run made with this release.
    """
    values: dict[str, Any] = {key: _tuples(value) for key, value in settings.items()}
    try:
        values["optimizer"] = FLTConfig.from_json(json.dumps(settings["optimizer"]))
        return TrainConfig(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the settings of a run made with this release: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
