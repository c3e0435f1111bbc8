"""Kills a meta-training run again and again, and compares what it ends with to a run that nobody touched.

    python benchmarks/kill_and_resume.py --kills 20

Each kill is SIGKILL at a random moment of a process that trains, compilation included. The same command goes
on every time. In the end the meta-parameters must be the same, bit for bit.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from learned_opt.config import FLTConfig
from meta_train.checkpoint import Checkpoints
from meta_train.config import TrainConfig
from meta_train.outer import train
from meta_train.trainer import Trainer

CONFIG = TrainConfig(
    steps=60,
    families=("wine", "linear_map"),
    families_per_step=1,
    pairs=4,
    horizons=(25, 75),
    validation=("iris",),
    validation_steps=50,
    validation_seeds=2,
    validate_every=3,
    optimizer=FLTConfig(rule_width=0, controller_width=0),
)


@dataclass(frozen=True)
class Options:
    """Kills a run and resumes it."""

    kills: int = 20
    """How many."""
    seed: int = 0
    """Of the moments."""
    child: Path | None = None
    """For the script itself: the folder in which this process trains."""


def meta_parameters(out: Path) -> np.ndarray | None:
    """Of the newest checkpoint, with its average and best; None if there is none."""
    with closing(Checkpoints(out, CONFIG)) as checkpoints:
        state = checkpoints.restore(Trainer(CONFIG).start())
    return None if state is None else np.concatenate([state.flat, state.average, state.best])


def main(options: Options) -> int:
    if options.child:
        train(CONFIG, options.child)
        return 0
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        untouched, killed = Path(folder, "untouched"), Path(folder, "killed")
        command = [sys.executable, __file__, "--child"]
        # Else a kill would mostly meet a process that compiles what the one before it had compiled.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder, "compiled"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        for run in (Path(folder, "first"), untouched):  # the first compiles; the other is timed
            started = time.monotonic()
            subprocess.run([*command, str(run)], check=True, stdout=subprocess.DEVNULL)
            whole = time.monotonic() - started
        done = 0
        while done < options.kills:
            process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL)
            try:
                process.wait(moments.uniform(0.3, 1.0) * whole)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
            else:  # it ended before it could be killed
                assert process.returncode == 0
                _compare(untouched, killed)
                print(f"{done} kills so far, a run ended, and is the same bit for bit", flush=True)
                killed = killed.with_name(f"{killed.name}_")
        subprocess.run([*command, str(killed)], check=True, stdout=subprocess.DEVNULL)
        _compare(untouched, killed)
        print(f"{done} kills: the same bit for bit")
    return 0


def _compare(untouched: Path, killed: Path) -> None:
    np.testing.assert_array_equal(meta_parameters(killed), meta_parameters(untouched))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
