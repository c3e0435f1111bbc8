"""Train one task family many times side by side: seeds x learning rates in one compiled program.

A seed fixes the member of the family, its initial parameters, every batch and the validation batches,
whatever the optimizer: two optimizers on one seed differ in nothing but the optimizer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.evaluation.optimizers import Build, Optimizer
from tasks.base import Split, TaskFamily

PyTree = Any

VALIDATION_BATCHES = 8
CURVE_POINTS = 20
FINAL_FRACTION = 0.05


@dataclass(frozen=True)
class Curves:
    """What a set of R runs recorded.

    Attributes:
      train: [R, steps] float32, the loss of each training batch before the step taken on it.
      valid: [R, len(points)] float32, the mean loss over the fixed validation batches.
      points: the steps at which `valid` was measured; the first is 0 and the last is `steps`.
    """

    train: np.ndarray
    valid: np.ndarray
    points: tuple[int, ...]

    @property
    def final_train(self) -> np.ndarray:
        """[R] mean training loss of the last 5% of the steps."""
        count = max(1, round(FINAL_FRACTION * self.train.shape[1]))
        return self.train[:, -count:].mean(axis=1)


def curve_points(steps: int) -> tuple[int, ...]:
    """The steps at which the validation loss is measured: 0, `steps` and about 20 in all between them."""
    return tuple(sorted({round(steps * index / CURVE_POINTS) for index in range(CURVE_POINTS + 1)}))


class Start(NamedTuple):
    """What a seed fixes, whatever the optimizer; stacked, every leaf has a leading axis of R runs."""

    member: PyTree
    params: PyTree
    batch_key: jax.Array
    valid_batches: PyTree


class Runner:
    """Runs optimizers on one task family; one compilation for each distinct `Optimizer.build`.

    Args:
      family: the task family.
      steps: length of every run.
      parallel: how many runs are trained side by side; a shorter list of runs is padded to this number, so
        that every call meets the same shapes and nothing is compiled twice.

    Attributes:
      points: the steps at which the validation loss is measured.
      compile_seconds: spent on compiling so far.
      run_seconds: spent on training so far.
      runs: trained so far, padding included.
    """

    def __init__(self, family: TaskFamily, steps: int, parallel: int) -> None:
        self.family, self.steps, self.parallel = family, steps, parallel
        self.points = curve_points(steps)
        self.compile_seconds = 0.0
        self.run_seconds = 0.0
        self.runs = 0
        self._data = jax.device_put(family.data())
        self._start = jax.jit(partial(_start, family))
        self._starts: dict[int, Start] = {}
        self._programs: dict[Build, Any] = {}

    def run(self, optimizer: Optimizer, runs: Sequence[tuple[int, float]]) -> Curves:
        """Train once for every (seed, learning rate) in `runs`, in that order."""
        padded = [*runs, *[runs[-1]] * (-len(runs) % self.parallel)]
        chunks = [
            self._chunk(optimizer, padded[first : first + self.parallel])
            for first in range(0, len(padded), self.parallel)
        ]
        train, valid = (np.concatenate(column)[: len(runs)] for column in zip(*chunks, strict=True))
        return Curves(train=train, valid=valid, points=self.points)

    def compile(self, optimizer: Optimizer) -> None:
        """Compile ahead of `run`. Safe to call for several optimizers at once from threads."""
        if optimizer.build in self._programs:
            return
        began = time.perf_counter()
        start = self._start_of(0)
        wide = partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct((self.parallel, *x.shape), x.dtype))
        program = partial(_train_side_by_side, optimizer.build, self.family, self.steps, self.points)
        arguments = optimizer.weights, self._data, wide(start), wide(jnp.zeros((), jnp.float32))
        self._programs[optimizer.build] = jax.jit(program).lower(*arguments).compile()
        self.compile_seconds += time.perf_counter() - began

    def _chunk(
        self, optimizer: Optimizer, runs: Sequence[tuple[int, float]]
    ) -> tuple[np.ndarray, np.ndarray]:
        starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[self._start_of(seed) for seed, _ in runs])
        rates = jnp.asarray([rate for _, rate in runs], jnp.float32)
        self.compile(optimizer)
        began = time.perf_counter()
        train, valid = jax.block_until_ready(
            self._programs[optimizer.build](optimizer.weights, self._data, starts, rates)
        )
        self.run_seconds += time.perf_counter() - began
        self.runs += len(runs)
        return np.asarray(train), np.asarray(valid)[:, list(self.points)]

    def _start_of(self, seed: int) -> Start:
        if seed not in self._starts:
            self._starts[seed] = self._start(self._data, jax.random.key(seed))
        return self._starts[seed]


def _start(family: TaskFamily, data: Split, key: jax.Array) -> Start:
    # A program of its own, not mapped: on a CPU, initialisers take longer to compile than the training step.
    member_key, init_key, batch_key, valid_key = jax.random.split(key, 4)
    member = family.sample(member_key)
    valid_keys = jax.random.split(valid_key, VALIDATION_BATCHES)
    valid_batches = jax.lax.map(lambda each: family.batch(each, data.valid, member), valid_keys)
    return Start(member, family.init(init_key, member), batch_key, valid_batches)


def _train_side_by_side(
    build: Build,
    family: TaskFamily,
    steps: int,
    points: tuple[int, ...],
    weights: PyTree,
    data: Split,
    starts: Start,
    rates: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Losses of R runs: train [R, steps], and valid [R, steps + 1] (NaN off the points)."""

    def optimizer(rate: jax.Array) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(build(weights, rate, steps))

    def step(t: jax.Array, rate: jax.Array, start: Start, state: PyTree) -> tuple[PyTree, jax.Array]:
        params, opt_state = state
        batch = family.batch(jax.random.fold_in(start.batch_key, t), data.train, start.member)
        loss, grads = jax.value_and_grad(family.loss)(params, batch, start.member)
        updates, opt_state = optimizer(rate).update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss.astype(jnp.float32)

    def validate(start: Start, params: PyTree) -> jax.Array:
        losses = jax.lax.map(lambda batch: family.loss(params, batch, start.member), start.valid_batches)
        return losses.mean().astype(jnp.float32)

    # One more iteration than there are steps: it only measures the final parameters, and saves compiling the
    # validation loss a second time. The condition is outside vmap, or both of its branches would always run.
    def iteration(state: PyTree, inputs: tuple[jax.Array, jax.Array]) -> tuple[PyTree, Any]:
        t, measure = inputs
        unmeasured = jnp.full(rates.shape, jnp.nan, jnp.float32)
        valid = jax.lax.cond(measure, lambda: jax.vmap(validate)(starts, state[0]), lambda: unmeasured)
        state, train = jax.vmap(step, (None, 0, 0, 0))(t, rates, starts, state)
        return state, (train, valid)

    measured = np.zeros(steps + 1, bool)
    measured[list(points)] = True
    state = starts.params, jax.vmap(lambda rate, params: optimizer(rate).init(params))(rates, starts.params)
    _, (train, valid) = jax.lax.scan(iteration, state, (jnp.arange(steps + 1), jnp.asarray(measured)))
    return train[:steps].T, valid.T
