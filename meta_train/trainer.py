"""A run's compiled programs, and the rule that moves the meta-parameters."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from learned_opt import load_weights, untrained
from meta_train.checkpoint import RunState
from meta_train.config import CHUNK, TrainConfig
from meta_train.devices import Population, replicate, rounded_up
from meta_train.estimators import Keys, estimator_of, perturbation_scale
from meta_train.hosts import from_first
from meta_train.turns import Turns
from meta_train.unroll import Score, objective, unroll
from meta_train.watch import Watch
from tasks import TaskFamily
from tasks.augment import augmented
from tasks.suites import META_TRAIN, VALIDATION

VALIDATION_SEED = 1_000_003  # of the validation members: the same in every run


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
            self.theta = _start_from(config, self.theta)
        self.flat, self.unravel = ravel_pytree(self.theta)
        scale, _ = ravel_pytree(perturbation_scale(self.theta))
        self.scale = scale / 0.1
        rate = optax.cosine_decay_schedule(config.learning_rate, config.steps, alpha=0.1)
        self.outer = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b1=0.8, b2=0.95))
        self.families = {name: META_TRAIN[name] for name in config.families}
        if config.augmented:
            self.families = {name: augmented(f, config.augmented) for name, f in self.families.items()}
        self.validation = {name: VALIDATION[name] for name in config.validation}
        self.turns = Turns(config.families, config.families_per_step, config.seed)
        self.programs: dict[str, Population] = {}
        self.data: dict[str, Any] = {}
        self.estimators = {
            name: estimator_of(family, config, self.theta) for name, family in self.families.items()
        }
        self.combine = {name: jax.jit(estimator.gradient) for name, estimator in self.estimators.items()}
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
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            self.workers(),
        )

    def workers(self) -> dict[str, Any]:
        """Those of every family before the first outer step, arrays [pairs, ...]."""
        pairs = self.config.pairs
        return {name: e.workers(pairs, self.families[name].data()) for name, e in self.estimators.items()}

    def placed(self, state: RunState) -> RunState:
        """A state whose workers are shared by the devices."""
        return self._with_workers(state, Population.placed)

    def gathered(self, state: RunState) -> RunState:
        """The same with workers [pairs, ...], which any number of devices can share again."""
        return self._with_workers(state, Population.gathered)

    def _with_workers(self, state: RunState, change: Callable[[Population, Any], Any]) -> RunState:
        changed = {name: change(self.programs[name], workers) for name, workers in state.workers.items()}
        return state._replace(workers=changed)

    def compile(self, watch: Watch) -> None:
        """Compiles every family's program, in parallel threads."""
        config = self.config
        workers = self.workers()
        jobs = {
            name: (Population(estimator.evaluate, config.pairs, piece=config.pairs_at_once), workers[name])
            for name, estimator in self.estimators.items()
        }
        for name, family in self.validation.items():
            jobs[name] = (Population(self._member_scores(family), rounded_up(config.validation_seeds)), None)
        arguments = Keys.of(0, 0, 0), jnp.int32(CHUNK)
        self.data = {name: replicate(f.data()) for name, f in (self.families | self.validation).items()}

        def build(name: str) -> None:
            started = time.monotonic()
            population, kept = jobs[name]
            kept = None if kept is None else population.placed(kept)
            self.programs[name] = population.compile(self.flat, *arguments, self.data[name], workers=kept)
            watch.compiled(name, time.monotonic() - started)

        with ThreadPoolExecutor(max_workers=min(len(jobs), os.cpu_count() or 1)) as pool:
            list(pool.map(build, jobs))

    def step(self, state: RunState, watch: Watch) -> RunState:
        """One outer step. A family whose meta-gradient is not finite is left out of it."""
        started = time.monotonic()
        step = int(state.step)
        horizons: list[int] = []
        scores: dict[str, Score] = {}
        workers = dict(state.workers)
        gradients = []
        for name in self.turns[step]:
            keys = Keys.of(self.config.seed, step, self.config.families.index(name))
            horizons.append(self.horizon(step, name))
            population, arguments = self.programs[name], (state.flat, keys, jnp.int32(horizons[-1]))
            found = population(*arguments, self.data[name], workers=workers[name])
            scores[name], workers[name] = found
            weighed = population.gathered(self.estimators[name].weighed(workers[name]))
            gradients.append(self.combine[name](*jax.device_get((scores[name], weighed)), keys))
        finite = np.isfinite(np.stack(gradients)).all(axis=1)
        for name, good in zip(scores, finite, strict=True):
            if not good:
                watch.excluded(step + 1, name)
        kept = [gradient for gradient, good in zip(gradients, finite, strict=True) if good]
        gradient = sum(kept, jnp.zeros_like(self.flat)) / max(1, len(kept))
        gradient = from_first(gradient)  # hosts may round differently
        if len(kept) > 1:
            watch.agreed(step + 1, shared(np.stack(kept)))
        state = self.advance(state._replace(workers={}), gradient, len(gradients) - len(kept))
        state = state._replace(workers=workers)
        watch.stepped(
            step + 1, horizons, scores, gradient, self.unravel(state.flat), time.monotonic() - started
        )
        watch.counted(step + 1, excluded=int(state.excluded), clipped=int(state.clipped))
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
            values = np.asarray(objective(score, self.config.objective))
            measured[name] = values[: self.config.validation_seeds]
        return measured

    def gain(self, state: RunState) -> Gain:
        """How much lower the objective is with the best meta-parameters than with those of the start."""
        before, after = (
            np.concatenate(list(self.measure(flat).values())) for flat in (self.flat, state.best)
        )
        return Gain.of(before, after)

    def horizon(self, step: int, family: str) -> int:
        """Inner steps of an outer step, a multiple of CHUNK."""
        config, share = self.config, step / max(1, self.config.steps - 1)
        if config.estimator_of(family) != "es":
            return _chunks(_grown(config.truncation, config.last_truncation, share))
        shortest, longest = config.horizons
        low, high = np.log((shortest, _grown(config.longest_at_first or longest, longest, share)))
        return _chunks(np.exp(np.random.default_rng([config.seed, step, 1]).uniform(low, high)))

    def _advance(self, state: RunState, gradient: jax.Array, excluded: int = 0) -> RunState:
        updates, outer = self.outer.update(gradient, state.outer, state.flat)
        flat, decay = state.flat + updates * self.scale, self.config.averaging
        return state._replace(
            step=state.step + 1,
            flat=flat,
            outer=outer,
            average=decay * state.average + (1 - decay) * flat,
            excluded=state.excluded + excluded,
            clipped=state.clipped + (jnp.linalg.norm(gradient) > self.config.clip),
        )

    def _member_scores(self, family: TaskFamily) -> Any:
        def one(flat: jax.Array, member: jax.Array, keys: Keys, steps: jax.Array, data: Any) -> Score:
            key = jax.random.fold_in(keys.members, member)
            return unroll(
                family, self.config.optimizer, self.unravel(flat), key, steps, jnp.asarray(True), data
            )

        return jax.vmap(one, (None, 0, None, None, None))


def _grown(first: int, last: int, share: float) -> float:
    """Between the two, log-linearly; the first if there is no last."""
    return first if last in (0, first) else first ** (1 - share) * last**share


def _chunks(steps: float) -> int:
    return max(CHUNK, round(steps / CHUNK) * CHUNK)


def shared(gradients: np.ndarray) -> float:
    """Estimate of the squared length of what several families' meta-gradients have in common.

    It is the mean product of two of them, in which their noise cancels: unbiased, so it may be negative.

    Args:
      gradients: [families, size], two families or more.
    """
    products = gradients @ gradients.T
    return float(products[~np.eye(len(gradients), dtype=bool)].mean())


def _start_from(config: TrainConfig, untrained: Any) -> Any:
    """The weights to start from; networks that they lack are those of the untrained optimizer."""
    theta, structure = load_weights(config.start)
    own = config.optimizer
    networks = ("rule_width", "controller_width", "attention_heads")
    lacking = {name: getattr(own, name) for name in networks if not getattr(structure, name)}
    if "attention_heads" in lacking:
        lacking["history"] = own.history
    found = {module: group | theta.get(module, {}) for module, group in untrained.items()}
    fits = jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, untrained)
    if replace(structure, **lacking) != own or not fits:
        raise ValueError(f"{config.start} was made for {structure}, this run is for {own}")
    return found
