"""Meta-gradient estimators. Today one: full-unroll antithetic evolution strategies.

Each device evaluates its share of the pairs and returns scores only; noise is regenerated from seeds wherever
it is needed, so the meta-gradient does not depend on how many devices there were.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from meta_train.config import NETWORK_SIGMA, SIGMA, TrainConfig
from meta_train.unroll import Score, objective, unroll
from tasks import TaskFamily

CLIP = 2.0  # of a pair's normalised difference
QUIET = 1e-3  # differences below this are not blown up by the normalisation


def perturbation_scale(theta: Any) -> Any:
    """Standard deviation of each meta-parameter's perturbation, a tree like theta."""

    def scale(path: tuple, leaf: jax.Array) -> jax.Array:
        return jnp.full(leaf.shape, SIGMA.get(path[-1].key, NETWORK_SIGMA), jnp.float32)

    return jax.tree_util.tree_map_with_path(scale, theta)


class Keys(NamedTuple):
    """Random keys of one family at one outer step."""

    noise: jax.Array
    members: jax.Array

    @classmethod
    def of(cls, seed: int, step: int, family: int) -> "Keys":
        """The keys, from the run's seed, the outer step and the family's place in the config."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), family)
        return cls(*jax.random.split(key))


def noise(key: jax.Array, pair: jax.Array, size: int) -> jax.Array:
    """Perturbation of one pair in units of its scale, [size]."""
    return jax.random.normal(jax.random.fold_in(key, pair), (size,))


def pair_scores(family: TaskFamily, config: TrainConfig, theta: Any) -> Callable[..., Score]:
    """The function that a device runs: (flat theta, pairs, keys, steps, data) -> Score of arrays [pairs, 2].

    Both halves of a pair train the same member on the same batches, with theta + sigma eps and with
    theta - sigma eps.
    """
    _, unravel = ravel_pytree(theta)
    sigma, _ = ravel_pytree(perturbation_scale(theta))

    def one(
        flat: jax.Array, pair: jax.Array, sign: jax.Array, keys: Keys, steps: jax.Array, data: Any
    ) -> Score:
        perturbed = unravel(flat + sign * sigma * noise(keys.noise, pair, flat.size))
        key_member, key_told = jax.random.split(jax.random.fold_in(keys.members, pair))
        told = jax.random.uniform(key_told) >= config.anytime
        return unroll(family, config.optimizer, perturbed, key_member, steps, told, data)

    def many(flat: jax.Array, pairs: jax.Array, keys: Keys, steps: jax.Array, data: Any) -> Score:
        repeated, signs = jnp.repeat(pairs, 2), jnp.tile(jnp.asarray([1.0, -1.0]), len(pairs))
        scores = jax.vmap(one, (None, 0, 0, None, None, None))(flat, repeated, signs, keys, steps, data)
        return jax.tree.map(lambda x: x.reshape(len(pairs), 2), scores)

    return many


def meta_gradient(scores: Score, keys: Keys, size: int, weights: tuple[float, float, float]) -> jax.Array:
    """Antithetic estimate of a family's meta-gradient, in units of the perturbation, [size].

    Differences are divided by their own root mean square, so that no family dominates, and clipped.

    Args:
      scores: arrays [pairs, 2].
      keys: those of the evaluation.
      size: number of meta-parameters.
      weights: `TrainConfig.objective`.
    """
    values = objective(scores, weights)
    difference = values[:, 0] - values[:, 1]
    scale = jnp.sqrt(jnp.mean(jnp.clip(difference, -1.0, 1.0) ** 2)) + QUIET
    weight = jnp.clip(difference / scale, -CLIP, CLIP)
    epsilon = jax.vmap(lambda pair: noise(keys.noise, pair, size))(jnp.arange(len(weight)))
    return weight @ epsilon / jnp.sqrt(len(weight))
