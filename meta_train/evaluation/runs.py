"""Train one task family many times side by side: seeds x settings in one compiled program.

A seed fixes the member of the family, its initial parameters, every batch and the validation batches,
whatever the optimizer: two optimizers on one seed differ in nothing but the optimizer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import geometry_of
from meta_train import devices
from meta_train.baselines import Setting
from meta_train.evaluation.optimizers import Optimizer
from tasks.base import Split, TaskFamily

PyTree = Any

VALIDATION_BATCHES = 8
CURVE_POINTS = 20


@dataclass(frozen=True)
class Curves:
    """What a set of R runs recorded.

    Attributes:
      train: [R, len(points) - 1] float32, mean loss of the training batches between two points, each before
        the step taken on it. The last of them is about 5% of the run.
      valid: [R, len(points)] float32, the mean loss over the fixed validation batches.
      points: the steps at which `valid` was measured; the first is 0 and the last is the run's length.
      watched: for each point but the first what `Optimizer.watch` returned; arrays [R, ...].
    """

    train: np.ndarray
    valid: np.ndarray
    points: tuple[int, ...]
    watched: tuple[dict[str, np.ndarray], ...] = ()


def segment_length(steps: int) -> int:
    """Steps between two measurements of a run of this length: about 20 of them."""
    return -(-steps // CURVE_POINTS)


def curve_points(steps: int, length: int) -> tuple[int, ...]:
    """The steps at which the validation loss is measured: 0, and from `steps` backwards every `length`."""
    return (0, *range(steps % length or length, steps + 1, length))


class Start(NamedTuple):
    """What a seed fixes, whatever the optimizer; stacked, every leaf has a leading axis of R runs."""

    member: PyTree
    batch_key: jax.Array
    valid_batches: PyTree
    initial: jax.Array  # the validation loss before the first step


class State(NamedTuple):
    """What a run changes."""

    params: PyTree
    optimizer: PyTree


class Runner:
    """Runs optimizers on one task family; one compilation for each `Optimizer.build` and number of runs.

    Args:
      family: the task family.
      steps: length of a usual run, which fixes how often losses are measured.
      parallel: the largest number of runs to train side by side.
      stop: once it is set, by another thread, `run` raises KeyboardInterrupt.

    Attributes:
      compile_seconds: spent on compiling so far.
      run_seconds: spent on training so far.
      trained_steps: steps trained so far, of all runs together.
    """

    def __init__(
        self, family: TaskFamily, steps: int, parallel: int, stop: threading.Event | None = None
    ) -> None:
        self.stop = stop or threading.Event()
        self.family, self.steps, self.parallel = family, steps, parallel
        self.length = segment_length(steps)
        self.devices = jax.local_devices()[:parallel]
        self.compile_seconds = 0.0
        self.run_seconds = 0.0
        self.trained_steps = 0
        self._data = devices.replicate(family.data(), self.devices)
        self._start = jax.jit(partial(_start, family))
        self._starts: dict[int, tuple[Start, PyTree]] = {}
        self._programs: dict[Any, Any] = {}

    def initial(self, seeds: Sequence[int]) -> np.ndarray:
        """[S] validation losses before the first step."""
        return np.asarray([self._start_of(seed)[0].initial for seed in seeds])

    def run(
        self, optimizer: Optimizer, runs: Sequence[tuple[int, Setting]], steps: int | None = None
    ) -> Curves:
        """Train once for every (seed, setting) in `runs`, in that order, for `steps` instead of the usual."""
        side_by_side = self._side_by_side(optimizer, len(runs))
        padded = [*runs, *[runs[-1]] * (-len(runs) % side_by_side)]
        chunks = [
            self._chunk(optimizer, padded[first : first + side_by_side], steps or self.steps)
            for first in range(0, len(padded), side_by_side)
        ]
        parts = [(one.train, one.valid, one.watched) for one in chunks]
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(runs)], *parts)
        return Curves(joined[0], joined[1], chunks[0].points, joined[2])

    def _side_by_side(self, optimizer: Optimizer, runs: int) -> int:
        """A number of runs whose program is there already, if it holds them all, or the least new one."""
        known = [size for build, _, size in self._programs if build == optimizer.build and size >= runs]
        share = len(self.devices)
        return min(known) if known else min(self.parallel // share, -(-runs // share)) * share

    def _chunk(self, optimizer: Optimizer, runs: Sequence[tuple[int, Setting]], steps: int) -> Curves:
        starts, params = _stack([self._start_of(seed) for seed, _ in runs])
        settings = _stack([Setting(*map(jnp.float32, setting)) for _, setting in runs])
        starts, params, settings = devices.deal((starts, params, settings), self.devices)
        weights = devices.replicate(optimizer.weights, self.devices)
        total = jnp.int32(steps)
        state = self._call(optimizer, 0, len(runs), (weights, total, settings, params))
        points, rows = curve_points(steps, self.length), []
        for first, last in pairwise(points):
            if self.stop.is_set():
                raise KeyboardInterrupt
            arguments = (weights, self._data, total, jnp.int32(first), settings, starts, state)
            state, *row = self._call(optimizer, last - first, len(runs), arguments)
            rows.append(row)
        began = time.perf_counter()
        train, valid, watched = zip(*devices.gather(rows), strict=True)
        self.run_seconds += time.perf_counter() - began
        self.trained_steps += steps * len(runs)
        valid = (devices.gather(starts.initial), *valid)
        return Curves(np.stack(train, 1), np.stack(valid, 1), points, watched)

    def _call(self, optimizer: Optimizer, length: int, size: int, arguments: tuple[Any, ...]) -> Any:
        """The first state of `size` runs, or `length` steps of them."""
        began = time.perf_counter()
        key = optimizer.build, length, size
        if key not in self._programs:
            if length:
                function = partial(_segment, optimizer, self.family, length)
                program = devices.spread(function, (None,) * 4 + (0,) * 3, self.devices, donate=(6,))
            else:
                program = devices.spread(
                    partial(_init, optimizer, self.family), (None, None, 0, 0), self.devices
                )
            self._programs[key] = program.lower(*arguments).compile()
        compiled = time.perf_counter()
        result = self._programs[key](*arguments)
        self.compile_seconds += compiled - began
        self.run_seconds += time.perf_counter() - compiled
        return result

    def _start_of(self, seed: int) -> tuple[Start, PyTree]:
        if seed not in self._starts:
            self._starts[seed] = self._start(self.family.data(), jax.random.key(seed))
        return self._starts[seed]


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _start(family: TaskFamily, data: Split, key: jax.Array) -> tuple[Start, PyTree]:
    # A program of its own, not mapped: on a CPU, initialisers take longer to compile than the training step.
    member_key, init_key, batch_key, valid_key = jax.random.split(key, 4)
    member = family.sample(member_key)
    valid_keys = jax.random.split(valid_key, VALIDATION_BATCHES)
    batches = jax.lax.map(lambda each: family.batch(each, data.valid, member), valid_keys)
    params = family.init(init_key, member)
    return Start(member, batch_key, batches, _validate(family, params, batches, member)), params


def _validate(family: TaskFamily, params: PyTree, batches: PyTree, member: PyTree) -> jax.Array:
    losses = jax.lax.map(lambda batch: family.loss(params, batch, member), batches)
    return losses.mean().astype(jnp.float32)


def _build(
    optimizer: Optimizer, family: TaskFamily, weights: PyTree, total: jax.Array, setting: Setting
) -> optax.GradientTransformationExtraArgs:
    more = {"geometry": geometry(family)} if optimizer.traced else {}
    return optax.with_extra_args_support(optimizer.build(weights, setting, total, **more))


def geometry(family: TaskFamily) -> PyTree:
    """What the program of a family does with its parameters."""

    def loss(params: PyTree, key: jax.Array, data: Split) -> jax.Array:
        member = family.sample(key)
        return family.loss(params, family.batch(key, data.train, member), member)

    return geometry_of(loss, family.card.shapes(), jax.random.key(0), family.data())


def _init(
    optimizer: Optimizer,
    family: TaskFamily,
    weights: PyTree,
    total: jax.Array,
    setting: Setting,
    params: PyTree,
) -> State:
    return State(params, _build(optimizer, family, weights, total, setting).init(params))


def _segment(
    optimizer: Optimizer,
    family: TaskFamily,
    length: int,
    weights: PyTree,
    data: Split,
    total: jax.Array,
    first: jax.Array,
    setting: Setting,
    start: Start,
    state: State,
) -> tuple[State, jax.Array, jax.Array, dict[str, jax.Array]]:
    """`length` steps of one run; the mean training loss on the way and the validation loss after them."""
    transformation = _build(optimizer, family, weights, total, setting)

    def step(state: State, t: jax.Array) -> tuple[State, jax.Array]:
        batch = family.batch(jax.random.fold_in(start.batch_key, t), data.train, start.member)
        loss, grads = jax.value_and_grad(family.loss)(state.params, batch, start.member)
        updates, inner = transformation.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), inner), loss.astype(jnp.float32)

    state, losses = jax.lax.scan(step, state, first + jnp.arange(length))
    evaluated = state.params
    if optimizer.eval_params is not None:
        evaluated = optimizer.eval_params(state.optimizer, evaluated)
    valid = _validate(family, evaluated, start.valid_batches, start.member)
    watched = optimizer.watch(state.optimizer) if optimizer.watch is not None else {}
    return state, losses.mean(), valid, watched
