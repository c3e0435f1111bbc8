"""Full-unroll antithetic evolution strategies (Salimans et al., arXiv 1703.03864)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from meta_train.config import NoiseName, TrainConfig
from meta_train.estimators.base import Keys, perturbation_scale, perturbations, weighted
from meta_train.unroll import Score, unroll
from tasks import TaskFamily


def pair_scores(
    family: TaskFamily, config: TrainConfig, theta: Any, scale: Any = None
) -> Callable[..., Score]:
    """The function that a device runs: (flat theta, pairs, keys, steps, data) -> Score of arrays [pairs, 2].

    Both halves of a pair train the same member on the same batches, with theta + sigma eps and with
    theta - sigma eps; sigma is `scale`, a tree like theta, by default that of `perturbation_scale`.
    """
    _, unravel = ravel_pytree(theta)
    sigma, _ = ravel_pytree(perturbation_scale(theta) if scale is None else scale)

    def one(perturbed: jax.Array, pair: jax.Array, keys: Keys, steps: jax.Array, data: Any) -> Score:
        key_member, key_told = jax.random.split(jax.random.fold_in(keys.members, pair))
        told = jax.random.uniform(key_told) >= config.anytime
        return unroll(family, config.optimizer, unravel(perturbed), key_member, steps, told, data)

    def many(flat: jax.Array, pairs: jax.Array, keys: Keys, steps: jax.Array, data: Any) -> Score:
        epsilon = perturbations(keys.noise, pairs, flat.size, config.pairs, config.noise)
        perturbed = jnp.stack([flat + sigma * epsilon, flat - sigma * epsilon], axis=1).reshape(-1, flat.size)
        scores = jax.vmap(one, (0, 0, None, None, None))(perturbed, jnp.repeat(pairs, 2), keys, steps, data)
        return jax.tree.map(lambda x: x.reshape(len(pairs), 2), scores)

    return many


def meta_gradient(
    scores: Score, keys: Keys, size: int, weights: tuple[float, float, float], kind: NoiseName = "gaussian"
) -> jax.Array:
    """The meta-gradient from scores [pairs, 2]; the noise is made again from the keys. See `weighted`."""
    pairs = len(scores.mean)
    return weighted(scores, perturbations(keys.noise, jnp.arange(pairs), size, pairs, kind), weights)


class FullES:
    """Every outer step trains every pair from its start to its horizon. Unbiased; long runs are noisy."""

    def __init__(self, family: TaskFamily, config: TrainConfig, theta: Any, scale: Any = None):
        self._scores = pair_scores(family, config, theta, scale)
        self._weights, self._size = config.objective, ravel_pytree(theta)[0].size
        self._noise = config.noise

    def workers(self, pairs: int, data: Any) -> Any:
        """None are needed."""
        return ()

    def evaluate(
        self, flat: jax.Array, members: tuple[jax.Array, Any], keys: Keys, steps: jax.Array, data: Any
    ) -> tuple[Score, Any]:
        """See `Estimator`."""
        return self._scores(flat, members[0], keys, steps, data), ()

    def weighed(self, workers: Any) -> tuple[()]:
        """Nothing: the noise is made again."""
        return ()

    def gradient(self, scores: Score, weighed: Any, keys: Keys) -> jax.Array:
        """See `Estimator`."""
        return meta_gradient(scores, keys, self._size, self._weights, self._noise)
