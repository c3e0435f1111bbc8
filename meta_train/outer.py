"""The outer loop: meta-gradients of a few families at a time move the meta-parameters."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import jax.numpy as jnp

from meta_train.checkpoint import Checkpoints, RunState
from meta_train.config import TrainConfig
from meta_train.folder import occupied, record_session
from meta_train.trainer import Trainer
from meta_train.watch import Watch

TERMINATED = 128 + signal.SIGTERM  # exit code


def train(
    config: TrainConfig, out: Path, time_limit_minutes: float | None = None, override: bool = False
) -> None:
    """Runs, or goes on with, the meta-training in a folder.

    Args:
      config: settings; those of the run that is already there, if there is one.
      out: folder for checkpoints, TensorBoard events and the settings.
      time_limit_minutes: stop after a checkpoint once so much time has passed; None for no limit.
      override: go on with these settings even if the run began with others.

    Raises:
      ValueError: the folder holds a run with other settings, or checkpoints that cannot be read.
      OSError: the folder is in use by another run, or cannot be written to.
      KeyboardInterrupt: after a checkpoint, if the user interrupts.
      SystemExit: after a checkpoint, if the process is told to terminate.
    """
    started = time.monotonic()
    trainer = Trainer(config)
    with occupied(out), closing(Checkpoints(out, config, override)) as checkpoints:
        state = checkpoints.restore(trainer.start()) or trainer.start()
        with Watch(out, config, int(state.step)) as watch:
            if int(state.step) == config.steps:
                watch.say(f"{out} holds a finished run of {config.steps} steps")
                return
            record_session(out)
            trainer.compile(watch)
            with _exit_on_sigterm():
                _go_on(trainer, trainer.placed(state), checkpoints, watch, started, time_limit_minutes)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM an exception, so that what was reached is saved on the way out."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _go_on(
    trainer: Trainer,
    state: RunState,
    checkpoints: Checkpoints,
    watch: Watch,
    started: float,
    time_limit_minutes: float | None,
) -> None:
    config, before = trainer.config, float(state.seconds)
    if int(state.step) == 0:  # what is learned must be better than this
        state = trainer.validate(state, watch)
        watch.took(0, time.monotonic() - started)
    try:
        while int(state.step) < config.steps:
            after = trainer.step(state, watch)
            step = int(after.step)
            due = step % config.validate_every == 0 or step == config.steps
            if due:
                after = trainer.validate(after, watch)
            passed = time.monotonic() - started
            # Only now: a state that is saved early must not miss its validation.
            state = after._replace(seconds=jnp.float32(before + passed))
            if due:
                watch.took(step, float(state.seconds))
                checkpoints.save(trainer.gathered(state))
            expired = time_limit_minutes is not None and passed > 60 * time_limit_minutes
            if expired and step < config.steps:
                done = f"step {step} of {config.steps}"
                watch.say(f"time limit reached at {done}; the same command goes on from there")
                break
        else:
            watch.say(str(trainer.gain(state)))
    finally:
        checkpoints.save(trainer.gathered(state))
