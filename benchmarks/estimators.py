"""Estimators of the meta-gradient at equal time: what each makes of the same weights, families and device.

    python benchmarks/estimators.py --out runs/estimators --devices 4          # four GPUs, one for each
    python benchmarks/estimators.py --out runs/estimators --picture estimators.png
    python benchmarks/estimators.py --out runs/tiny --families wine linear_map --pairs 4 --minutes 3

Every run starts from the same shipped weights, moved at random so that there is something to repair, and
stops after the same time, compilation included. Joined estimators need networks, which begin without effect;
the others have none, as in the presets. What is compared is the score of the VALIDATION families, on the
same members.
Run again with the same `--out`, finished runs are only drawn; those that failed begin anew.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree

from learned_opt import load_weights
from learned_opt.config import FLTConfig
from learned_opt.weights import save_weights
from meta_train.config import TrainConfig
from meta_train.estimators import perturbation_scale
from meta_train.outer import train
from meta_train.plots import look
from meta_train.report.trained import read_events
from tasks.suites import META_TRAIN

START = "start.safetensors"  # in the folder of the runs
FINISHED = "finished"  # an empty file in the folder of a run that did not fail
STEPS = 1_000_000  # never reached: the outer learning rate hardly decays
WHOLE, TRUNCATED = 0.025, 0.008  # rates of the outer Adam: few steps, or many


@dataclass(frozen=True)
class Options:
    """Compares estimators."""

    out: Path
    """Folder of the runs, one for each estimator."""
    estimators: tuple[str, ...] = ("es", "pes", "nres", "es+nres")
    """Names, or two joined by a plus: the first for the laws, the second for the networks."""
    minutes: float = 9.0
    """Of each run."""
    devices: int = 0
    """GPUs, each of which takes one run at a time; 0 runs one after the other on what there is."""
    families: tuple[str, ...] = tuple(META_TRAIN)
    """Names of META_TRAIN families."""
    pairs: int = 96
    """Antithetic pairs a family."""
    start: str = "flt-v1"
    """Weights to start from."""
    moved: float = 4.0
    """How far their meta-parameters are moved at random, in standard deviations of the perturbations."""
    picture: Path | None = None
    """Where to draw validation against time."""
    child: str = ""
    """For the script itself: the estimator that this process runs."""


def write_start(options: Options) -> None:
    """The moved weights, the same for every run."""
    theta, structure = load_weights(options.start)
    flat, unravel = ravel_pytree(theta)
    scale, _ = ravel_pytree(perturbation_scale(theta))
    noise = np.random.default_rng(0).standard_normal(flat.shape)
    moved = unravel(flat + jnp.float32(options.moved * noise) * scale)
    save_weights(options.out / START, moved, structure, card={})


def settings(options: Options, name: str) -> TrainConfig:
    first, *second = name.split("+")
    structure: FLTConfig = load_weights(options.start)[1]
    if second:
        structure = replace(structure, rule_width=8, controller_width=8)
    return TrainConfig(
        steps=STEPS,
        families=options.families,
        pairs=options.pairs,
        estimator=first,
        network_estimator="".join(second),
        truncation=50 if "backprop" in name else 100,
        horizons=(100, 2500),
        learning_rate=WHOLE if first == "es" else TRUNCATED,
        validation_steps=1000,
        validation_seeds=16,
        validate_every=10 if first == "es" else 100,
        start=str(options.out / START),
        optimizer=structure,
    )


def run(options: Options) -> None:
    """Every run that is missing, in a process and on a device of its own."""
    free: SimpleQueue[str] = SimpleQueue()
    for device in range(max(1, options.devices)):
        free.put(str(device))

    def one(name: str) -> None:
        shutil.rmtree(options.out / name, ignore_errors=True)
        device = free.get()
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": device} if options.devices else {})
        command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
        path = options.out / f"{name}.txt"
        with path.open("w") as log:
            done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        free.put(device)
        if done.returncode:
            print(f"{name} failed ({done.returncode}): see {path}", flush=True)
        else:
            (options.out / name / FINISHED).touch()

    options.out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in options.estimators if not (options.out / name / FINISHED).exists()]
    with ThreadPoolExecutor(max_workers=max(1, options.devices)) as pool:
        list(pool.map(one, missing))


def scores(options: Options, name: str) -> tuple[list[float], list[float], int]:
    """Minutes, validation scores, and outer steps of a run."""
    series = read_events(options.out / name / "events")
    seconds, values = series.get("seconds", {}), series.get("validation/mean", {})
    steps = [step for step in sorted(values) if step in seconds]
    last = max(series.get("meta_gradient_norm", {0: 0.0}))
    return [seconds[step] / 60 for step in steps], [values[step] for step in steps], last


def main(options: Options) -> None:
    if options.child:
        write_start(options)
        train(settings(options, options.child), options.out / options.child, options.minutes)
        return
    run(options)
    print("| estimator | outer steps | first score | lowest | last |\n|---|---|---|---|---|")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for index, name in enumerate(options.estimators):
        minutes, values, steps = scores(options, name)
        if values:
            print(f"| {name} | {steps} | {values[0]:.4f} | {min(values):.4f} | {values[-1]:.4f} |")
            axes.plot(minutes, values, **look(index), label=name)
    if options.picture:
        axes.set(xlabel="minutes, compilation included", ylabel="score of the VALIDATION families")
        axes.legend(frameon=False)
        figure.savefig(options.picture, dpi=90)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
