"""Truncated backpropagation through time."""

from typing import Any

import jax
import jax.numpy as jnp

from meta_train.config import CHUNK
from meta_train.estimators.base import Keys
from meta_train.estimators.truncated import TruncatedES, Worker
from meta_train.unroll import Run, Score, objective


class Backprop(TruncatedES):
    """The gradient of each truncation's objective, through its steps. Quiet, but biased as `TruncatedES` is.

    Pairs are single runs here: both halves of their scores are the same.
    """

    signs = (0.0,)
    kept = slice(0, 1)

    def gradient(self, scores: Score, weighed: jax.Array, keys: Keys) -> jax.Array:
        """The mean gradient. One that is longer than the median of the pairs counts as if it were as long."""
        del scores, keys
        lengths = jnp.linalg.norm(weighed, axis=1, keepdims=True)
        pairs, size = weighed.shape
        shortened = weighed / jnp.maximum(lengths, jnp.nanmedian(lengths))
        return jnp.where(jnp.isfinite(lengths), shortened, 0.0).sum(0) * (size / pairs) ** 0.5

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
        del noise, chunks
        chunks = self._config.truncation // CHUNK  # a loop of dynamic length has no gradient
        worker, member, _ = self._begin(flat, pair, worker, keys, chunks, data)

        def loss(flat: jax.Array) -> tuple[jax.Array, tuple[Run, Score]]:
            before = jax.tree.map(lambda x: x[0], worker.runs)
            run, score = self._train(flat, before, worker.steps, member, chunks, data)
            return objective(score, self._config.objective), (run, score)

        gradient, (run, score) = jax.grad(loss, has_aux=True)(flat)
        runs = jax.tree.map(lambda x: x[None], run)
        return jax.tree.map(lambda x: jnp.stack([x, x]), score), worker._replace(
            runs=runs, direction=gradient * self._sigma
        )
