"""The outer loop: meta-gradients of a few families at a time move the meta-parameters."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import jax.numpy as jnp

from meta_train.checkpoint import Checkpoints, RunState
from meta_train.config import TrainConfig
from meta_train.ending import Ending
from meta_train.folder import occupied, record_session
from meta_train.hosts import from_first, is_first, largest, require_same, several
from meta_train.trainer import Trainer
from meta_train.watch import Watch


def train(
    config: TrainConfig, out: Path, time_limit_minutes: float | None = None, override: bool = False
) -> None:
    """Runs, or goes on with, the meta-training in a folder.

    Args:
      config: settings; those of the run that is already there, if there is one.
      out: folder for checkpoints, TensorBoard events and the settings; only the first host uses it.
      time_limit_minutes: stop after a checkpoint once so much time has passed; None for no limit.
      override: go on with these settings even if the run began with others.

    Raises:
      ValueError: the folder holds a run with other settings, or checkpoints that cannot be read; or hosts
        were given different settings.
      OSError: the folder is in use by another run, or cannot be written to.
      ConnectionError: another host is lost.
      KeyboardInterrupt: after a checkpoint, if the user interrupts.
      SystemExit: after a checkpoint, if the process is told to terminate.
    """
    ending = Ending(time_limit_minutes)
    require_same(config.to_json())
    trainer = Trainer(config)
    with _checkpoints(out, config, override) as checkpoints:
        state = trainer.start()
        state = from_first((checkpoints and checkpoints.restore(state)) or state)
        with Watch(out, config, int(state.step)) as watch:
            if int(state.step) == config.steps:
                watch.say(f"{out} holds a finished run of {config.steps} steps")
                return
            if is_first():
                record_session(out)
            trainer.compile(watch)
            with ending:
                _go_on(trainer, trainer.placed(state), checkpoints, watch, ending)


@contextmanager
def _checkpoints(out: Path, config: TrainConfig, override: bool) -> Iterator[Checkpoints | None]:
    """Those in the folder, for the first host; None for others."""
    if not is_first():
        yield None
        return
    with occupied(out), closing(Checkpoints(out, config, override)) as checkpoints:
        yield checkpoints


def _go_on(
    trainer: Trainer, state: RunState, checkpoints: Checkpoints | None, watch: Watch, ending: Ending
) -> None:
    config, before = trainer.config, float(state.seconds)

    def save(state: RunState) -> None:
        gathered = trainer.gathered(state)
        if checkpoints:
            checkpoints.save(gathered)

    try:
        if int(state.step) == 0:  # what is learned must be better
            state = trainer.validate(state, watch)
            watch.took(0, ending.passed())
        while int(state.step) < config.steps:
            after = trainer.step(state, watch)
            step = int(after.step)
            due = step % config.validate_every == 0 or step == config.steps
            if due:
                after = trainer.validate(after, watch)
                watch.learned(step, trainer.unravel(after.average))
            # Only now: a state that is saved early must not miss its validation.
            state = after._replace(seconds=jnp.float32(before + ending.passed()))
            if due:
                watch.took(step, float(state.seconds))
                save(state)
            if ending.stop() and step < config.steps:
                done = f"step {step} of {config.steps}"
                watch.say(f"time limit reached at {done}; the same command goes on from there")
                break
        else:
            watch.say(str(trainer.gain(state)))
    finally:
        # After an error of its own a host cannot gather: the others are somewhere else.
        if not (several() and isinstance(sys.exception(), Exception)):
            save(state)
            largest(0)  # hosts end together, after what the first has written
