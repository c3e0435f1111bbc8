"""Estimators that train on for a stretch of each run at every outer step, and keep the runs in between.

All of them estimate from the same truncations: a pair's worker trains one member, some steps at an outer
step, until the horizon that it drew, and then begins with another member. What differs is the noise, and
which trajectory goes on. Truncations may grow: a horizon is a multiple of the one at which it was drawn, and
steps beyond it, which only a longer one can take, do not count.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from meta_train.config import CHUNK, TrainConfig
from meta_train.estimators.base import Keys, perturbation_scale, perturbations, weighted
from meta_train.estimators.base import noise as gaussian
from meta_train.unroll import InnerLoop, Run, Score
from tasks import TaskFamily


class Worker(NamedTuple):
    """What a pair keeps."""

    runs: Run  # one or two, on a leading axis
    steps: jax.Array  # int32 []: horizon of the present member
    episode: jax.Array  # int32 []: members so far
    direction: jax.Array  # float32 [size]: what the last difference weighs


class Member(NamedTuple):
    """What a pair trains at present."""

    key: jax.Array
    told: jax.Array  # bool []: whether the optimizer knows the horizon


class TruncatedES:
    """Truncated evolution strategies: both halves go on from the run of unperturbed meta-parameters.

    Cheap and quiet, but biased: what a step does to losses after the truncation counts for nothing (Wu et
    al., "Understanding short-horizon bias", arXiv 1803.02021).
    """

    signs: tuple[float, ...] = (1.0, -1.0, 0.0)
    kept: slice = slice(2, 3)  # of the trajectories

    def __init__(
        self, family: TaskFamily, config: TrainConfig, theta: Any, scale: Any = None, inner: Any = None
    ):
        self._inner = inner or InnerLoop(family, config.optimizer)
        self._config, self._theta = config, theta
        self._unravel = ravel_pytree(theta)[1]
        self._sigma = ravel_pytree(perturbation_scale(theta) if scale is None else scale)[0]

    def direction(
        self, noise: jax.Array, keys: Keys, pair: jax.Array, worker: Worker, fresh: jax.Array
    ) -> tuple[Any, Any]:
        """Perturbation of this truncation, and what its difference weighs.

        Args:
          noise: of this outer step, [size].
          keys: of the family at this outer step.
          pair: its number.
          worker: of the pair.
          fresh: whether a run starts.
        """
        return noise, noise

    def workers(self, pairs: int, data: Any) -> Worker:
        """Workers that begin with a new member at the first outer step."""

        def one(key: jax.Array) -> Worker:
            kept = jnp.asarray(self.signs[self.kept])
            runs = jax.vmap(lambda _: self._inner.start(self._theta, key, data))(kept)
            none = jnp.zeros((), jnp.int32)
            return Worker(runs, none, none, jnp.zeros_like(self._sigma))

        shapes = jax.eval_shape(one, jax.random.key(0))
        return jax.tree.map(lambda x: jnp.zeros((pairs, *x.shape), x.dtype), shapes)

    def evaluate(
        self, flat: jax.Array, members: tuple[jax.Array, Worker], keys: Keys, steps: jax.Array, data: Any
    ) -> tuple[Score, Worker]:
        """See `Estimator`."""
        pairs, workers = members
        config, chunks = self._config, steps // CHUNK
        drawn = perturbations(keys.noise, pairs, flat.size, config.pairs, config.noise)
        one = jax.vmap(self._one, (None, 0, 0, 0, None, None, None))
        return one(flat, pairs, workers, drawn, keys, chunks, data)

    def weighed(self, workers: Worker) -> jax.Array:
        """See `Estimator`."""
        return workers.direction

    def gradient(self, scores: Score, weighed: jax.Array, keys: Keys) -> jax.Array:
        """See `Estimator`."""
        return weighted(scores, weighed, self._config.objective)

    def _one(
        self,
        flat: jax.Array,
        pair: jax.Array,
        worker: Worker,
        noise: jax.Array,
        keys: Keys,
        chunks: Any,
        data: Any,
    ) -> tuple[Score, Worker]:
        worker, member, fresh = self._begin(flat, pair, worker, keys, chunks, data)
        epsilon, direction = self.direction(noise, keys, pair, worker, fresh)

        def train(run: Run, sign: jax.Array) -> tuple[Run, Score]:
            return self._train(flat + sign * self._sigma * epsilon, run, worker.steps, member, chunks, data)

        several = len(self.signs[self.kept]) > 1
        runs = worker.runs if several else jax.tree.map(lambda x: x[0], worker.runs)
        # They stand at the same step, so that each batch is drawn once for all of them.
        runs, together = runs._replace(step=worker.runs.step[0]), Run._make((0, 0, None, 0))
        axes = together if several else None
        runs, scores = jax.vmap(train, (axes, 0), (together, 0))(runs, jnp.asarray(self.signs))
        runs = runs._replace(step=jnp.broadcast_to(runs.step, len(self.signs)))
        runs, scores = (
            jax.tree.map(lambda x, part=part: x[part], tree)
            for tree, part in ((runs, self.kept), (scores, slice(2)))
        )
        return scores, worker._replace(runs=runs, direction=direction)

    def _begin(
        self, flat: jax.Array, pair: jax.Array, worker: Worker, keys: Keys, chunks: Any, data: Any
    ) -> tuple[Worker, Member, jax.Array]:
        """The worker, with another member if its run has ended; the member; and whether it is another."""
        fresh = worker.runs.step[0] >= worker.steps
        episode = worker.episode + fresh
        key = jax.random.fold_in(jax.random.fold_in(keys.run, pair), episode)
        key_member, key_told, key_horizon = jax.random.split(key, 3)
        member = Member(key_member, jax.random.uniform(key_told) >= self._config.anytime)
        start = self._inner.start(self._unravel(flat), key_member, data)
        runs = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), start, worker.runs)
        steps = jnp.where(fresh, self._horizon(key_horizon, episode, CHUNK * chunks), worker.steps)
        return worker._replace(runs=runs, steps=steps, episode=episode), member, fresh

    def _train(
        self, flat: jax.Array, run: Run, steps: jax.Array, member: Member, chunks: Any, data: Any
    ) -> tuple[Run, Score]:
        """One truncation, and what it adds to the score of its run."""
        theta = self._unravel(flat)
        run, score = self._inner.train(theta, run, member.key, steps, member.told, data, chunks)
        valid = jnp.where(run.step >= steps, self._inner.valid(run, member.key, data), 0.0)
        return run, score._replace(valid=valid)

    def _horizon(self, key: jax.Array, episode: jax.Array, truncation: Any) -> jax.Array:
        """Log-uniform, a multiple of the truncation. The first is cut at random, so that workers differ."""
        low, high = (math.log(steps) for steps in self._config.horizons)
        key_length, key_cut = jax.random.split(key)
        length = jnp.exp(jax.random.uniform(key_length, (), jnp.float32, low, high))
        cut = jnp.where(episode == 1, jax.random.uniform(key_cut), 1.0)
        return truncation * jnp.maximum(1, jnp.round(cut * length / truncation).astype(jnp.int32))


class PersistentES(TruncatedES):
    """Persistent evolution strategies (Vicol et al., arXiv 2112.13835): unbiased.

    Each half keeps its own trajectory, and a difference weighs the sum of all noise since its start.
    """

    signs = (1.0, -1.0)
    kept = slice(0, 2)

    def direction(
        self, noise: jax.Array, keys: Keys, pair: jax.Array, worker: Worker, fresh: jax.Array
    ) -> tuple[Any, Any]:
        """Fresh noise, and the sum of that of this run."""
        return noise, noise + jnp.where(fresh, 0.0, worker.direction)


class NoiseReuseES(PersistentES):
    """Noise-reuse evolution strategies (Li et al., arXiv 2304.12180): unbiased, less noisy than PES.

    A pair keeps its noise for the whole run.
    """

    def direction(
        self, noise: jax.Array, keys: Keys, pair: jax.Array, worker: Worker, fresh: jax.Array
    ) -> tuple[Any, Any]:
        """The noise of this run."""
        of_run = jax.random.fold_in(jax.random.fold_in(keys.run, worker.episode), 1)
        own = gaussian(of_run, pair, self._sigma.size)
        return own, own
