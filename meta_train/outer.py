"""The outer loop: meta-gradients of a few families at a time move the meta-parameters."""

import datetime
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from learned_opt import load_weights, untrained
from learned_opt.config import FLTConfig
from meta_train.checkpoint import Checkpoints, RunState, config_of, recorded_settings
from meta_train.config import CHUNK, TrainConfig
from meta_train.devices import Population, replicate
from meta_train.estimators import Keys, meta_gradient, pair_scores, perturbation_scale
from meta_train.unroll import Score, objective, unroll
from meta_train.watch import Watch
from tasks import TaskFamily
from tasks.suites import META_TRAIN, VALIDATION

AVERAGING = 0.9  # decay of the running average of the meta-parameters
VALIDATION_SEED = 1_000_003  # of the validation members: the same in every run


def train(config: TrainConfig, out: Path, time_limit_minutes: float | None = None) -> None:
    """Runs, or goes on with, the meta-training in a folder.

    Args:
      config: settings; those of the run that is already there, if there is one.
      out: folder for checkpoints, TensorBoard events and the settings.
      time_limit_minutes: stop after a checkpoint once so much time has passed; None for no limit.

    Raises:
      ValueError: the folder holds a run with other settings.
      KeyboardInterrupt: after a checkpoint, if the user interrupts.
    """
    started = time.monotonic()
    trainer = Trainer(config)
    with closing(Checkpoints(out, config)) as checkpoints:
        state = checkpoints.restore(trainer.start()) or trainer.start()
        with Watch(out, config, int(state.step)) as watch:
            if int(state.step) == config.steps:
                watch.say(f"{out} holds a finished run of {config.steps} steps")
                return
            trainer.compile(watch)
            _go_on(trainer, state, checkpoints, watch, started, time_limit_minutes)


def _go_on(
    trainer: "Trainer",
    state: RunState,
    checkpoints: Checkpoints,
    watch: Watch,
    started: float,
    time_limit_minutes: float | None,
) -> None:
    config, before = trainer.config, float(state.seconds)
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
                checkpoints.save(state)
            expired = time_limit_minutes is not None and passed > 60 * time_limit_minutes
            if expired and step < config.steps:
                done = f"step {step} of {config.steps}"
                watch.say(f"time limit reached at {done}; the same command goes on from there")
                break
        else:
            watch.say(str(trainer.gain(state)))
    finally:
        checkpoints.save(state)


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
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }
    if share < 1:
        start, chosen = jax.device_get((trainer.flat, chosen))
        chosen = start + np.float32(share) * (chosen - start)
    return jax.device_get(trainer.unravel(chosen)), config.optimizer, card


class Gain(NamedTuple):
    """Paired comparison of two meta-parameters on the same members."""

    before: float
    after: float
    standard_error: float  # of the mean difference

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray) -> "Gain":
        """From the objectives of the members, arrays [members]."""
        error = np.std(before - after, ddof=1) / np.sqrt(len(before)) if len(before) > 1 else np.nan
        return cls(float(before.mean()), float(after.mean()), float(error))

    def __str__(self) -> str:
        """One line for the terminal."""
        fall = self.before - self.after
        errors = f", {fall / self.standard_error:.1f} standard errors" if self.standard_error > 0 else ""
        return (
            f"meta-loss on fixed validation seeds: {self.before:.3f} at the start, {self.after:.3f} now: "
            f"it fell by {fall:.3f}{errors}"
        )


class Trainer:
    """A run's compiled functions and the rule that moves the meta-parameters."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.theta, _ = untrained(config.optimizer, jax.random.key(config.seed))
        if config.start:
            self.theta = _start_from(config)
        self.flat, self.unravel = ravel_pytree(self.theta)
        scale, _ = ravel_pytree(perturbation_scale(self.theta))
        self.scale = scale / 0.1
        rate = optax.cosine_decay_schedule(config.learning_rate, config.steps, alpha=0.1)
        self.outer = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b1=0.8, b2=0.95))
        self.families = {name: META_TRAIN[name] for name in config.families}
        self.validation = {name: VALIDATION[name] for name in config.validation}
        self.programs: dict[str, Population] = {}
        self.data: dict[str, Any] = {}
        self.combine = jax.jit(meta_gradient, static_argnums=(2, 3))
        self.advance = jax.jit(self._advance)

    def start(self) -> RunState:
        """The state of a new run."""
        zero = jnp.zeros((), jnp.float32)
        return RunState(
            jnp.zeros((), jnp.int32),
            self.flat,
            self.outer.init(self.flat),
            self.flat,
            self.flat,
            zero + jnp.inf,
            zero,
        )

    def compile(self, watch: Watch) -> None:
        """Compiles every family's program, in parallel threads."""
        config = self.config
        jobs = {
            name: (pair_scores(f, config, self.theta), config.pairs, config.pairs_at_once)
            for name, f in self.families.items()
        }
        for name, family in self.validation.items():
            jobs[name] = (self._member_scores(family), config.validation_seeds, 0)
        arguments = Keys.of(0, 0, 0), jnp.int32(CHUNK)
        self.data = {name: replicate(f.data()) for name, f in (self.families | self.validation).items()}

        def build(name: str) -> None:
            started = time.monotonic()
            function, members, piece = jobs[name]
            population = Population(function, members, piece=piece)
            self.programs[name] = population.compile(self.flat, *arguments, self.data[name])
            watch.compiled(name, time.monotonic() - started)

        with ThreadPoolExecutor(max_workers=min(len(jobs), os.cpu_count() or 1)) as pool:
            list(pool.map(build, jobs))

    def step(self, state: RunState, watch: Watch) -> RunState:
        """One outer step."""
        started = time.monotonic()
        step = int(state.step)
        horizon = self.horizon(step)
        scores: dict[str, Score] = {}
        gradients = []
        for name in self.chosen(step):
            keys = Keys.of(self.config.seed, step, self.config.families.index(name))
            scores[name] = self.programs[name](state.flat, keys, jnp.int32(horizon), self.data[name])
            one_device = jax.device_get(scores[name])
            gradients.append(self.combine(one_device, keys, self.flat.size, self.config.objective))
        gradient = sum(gradients) / len(gradients)
        state = self.advance(state, gradient)
        watch.stepped(
            step + 1, horizon, scores, gradient, self.unravel(state.flat), time.monotonic() - started
        )
        return state

    def validate(self, state: RunState, watch: Watch) -> RunState:
        """Measures the averaged meta-parameters; remembers them if they are the best so far."""
        per_family = self.measure(state.average)
        mean = float(np.mean([np.mean(values) for values in per_family.values()]))
        watch.validated(int(state.step), per_family, mean)
        if mean < state.best_score:
            state = state._replace(best=state.average, best_score=jnp.float32(mean))
        return state

    def measure(self, flat: jax.Array) -> dict[str, np.ndarray]:
        """Objective of every validation member, [members] for each family; the members never change."""
        steps = jnp.int32(self.config.validation_steps)
        measured = {}
        for index, name in enumerate(self.config.validation):
            keys = Keys.of(VALIDATION_SEED, 0, index)
            score = self.programs[name](flat, keys, steps, self.data[name])
            measured[name] = np.asarray(objective(score, self.config.objective))
        return measured

    def gain(self, state: RunState) -> Gain:
        """How much lower the objective is with the best meta-parameters than with those of the start."""
        before, after = (
            np.concatenate(list(self.measure(flat).values())) for flat in (self.flat, state.best)
        )
        return Gain.of(before, after)

    def chosen(self, step: int) -> list[str]:
        """The families of an outer step: all of them in turn, in an order drawn anew for each round."""
        per_step, names = min(self.config.families_per_step, len(self.families)), list(self.families)
        places = range(step * per_step, (step + 1) * per_step)
        turns = {place // len(names) for place in places}
        order = {
            turn: np.random.default_rng([self.config.seed, turn]).permutation(len(names)) for turn in turns
        }
        return [names[order[place // len(names)][place % len(names)]] for place in places]

    def horizon(self, step: int) -> int:
        """Inner steps of an outer step."""
        low, high = np.log(self.config.horizons)
        draw = np.random.default_rng([self.config.seed, step, 1]).uniform(low, high)
        return max(CHUNK, round(np.exp(draw) / CHUNK) * CHUNK)

    def _advance(self, state: RunState, gradient: jax.Array) -> RunState:
        updates, outer = self.outer.update(gradient, state.outer, state.flat)
        flat = state.flat + updates * self.scale
        average = AVERAGING * state.average + (1 - AVERAGING) * flat
        return state._replace(step=state.step + 1, flat=flat, outer=outer, average=average)

    def _member_scores(self, family: TaskFamily) -> Any:
        def one(flat: jax.Array, member: jax.Array, keys: Keys, steps: jax.Array, data: Any) -> Score:
            key = jax.random.fold_in(keys.members, member)
            return unroll(
                family, self.config.optimizer, self.unravel(flat), key, steps, jnp.asarray(True), data
            )

        return jax.vmap(one, (None, 0, None, None, None))


def _start_from(config: TrainConfig) -> Any:
    theta, structure = load_weights(config.start)
    if structure != config.optimizer:
        raise ValueError(f"{config.start} was made for {structure}, this run is for {config.optimizer}")
    return theta


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
