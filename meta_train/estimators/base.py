"""What all estimators of the meta-gradient share: perturbations, random keys, the weighing of differences."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from meta_train.config import NETWORK_SIGMA, SIGMA, NoiseName
from meta_train.unroll import Score, objective

CLIP = 2.0  # of a pair's normalised difference
NO_STEP = 2**31 - 1  # an outer step that no run reaches
QUIET = 1e-3  # differences below this are not blown up by the normalisation


def perturbation_scale(theta: Any, laws: bool = True, networks: bool = True) -> Any:
    """Standard deviation of each meta-parameter's perturbation, a tree like theta; 0 for a part left out."""

    def scale(path: tuple, leaf: jax.Array) -> jax.Array:
        name = path[-1].key
        size = SIGMA[name] * laws if name in SIGMA else NETWORK_SIGMA * networks
        return jnp.full(leaf.shape, size, jnp.float32)

    return jax.tree_util.tree_map_with_path(scale, theta)


class Keys(NamedTuple):
    """Random keys of one family at one outer step."""

    noise: jax.Array
    members: jax.Array
    run: jax.Array  # the same at every outer step

    @classmethod
    def of(cls, seed: int, step: int, family: int) -> "Keys":
        """The keys, from the run's seed, the outer step and the family's place in the config."""
        root = jax.random.key(seed)
        own = jax.random.fold_in(jax.random.fold_in(root, step), family)
        noise, members = jax.random.split(own)
        return cls(noise, members, jax.random.fold_in(jax.random.fold_in(root, NO_STEP), family))


def noise(key: jax.Array, pair: jax.Array, size: int) -> jax.Array:
    """Perturbation of one pair in units of its scale, [size]."""
    return jax.random.normal(jax.random.fold_in(key, pair), (size,))


def perturbations(key: jax.Array, pairs: jax.Array, size: int, total: int, kind: NoiseName) -> jax.Array:
    """Perturbations of some pairs in units of their scale, float32 [pairs, size]; of each its own is normal.

    Orthogonal ones are those of a random rotation, with lengths of normal vectors (Choromanski et al.,
    "Structured Evolution with Compact Architectures", arXiv 1804.02395). Every device makes all of them.

    Args:
      key: random key, the same for all pairs.
      pairs: their numbers, int32 [pairs].
      size: number of meta-parameters.
      total: how many pairs there are in all.
      kind: "gaussian", or "orthogonal": at right angles within each block of `size` pairs.
    """
    if kind == "gaussian":
        return jax.vmap(noise, (None, 0, None))(key, pairs, size)
    block = min(size, total)

    def directions(number: jax.Array) -> jax.Array:
        turned, length = jax.random.split(jax.random.fold_in(key, number))
        q, r = jnp.linalg.qr(jax.random.normal(turned, (size, block)))
        lengths = jnp.linalg.norm(jax.random.normal(length, (size, block)), axis=0)
        return (q * jnp.sign(jnp.diagonal(r)) * lengths).T  # the signs make every rotation equally likely

    blocks = jnp.arange(-(-total // block))
    return jax.lax.map(directions, blocks).reshape(-1, size)[pairs]


def weighted(scores: Score, directions: jax.Array, weights: tuple[float, float, float]) -> jax.Array:
    """Antithetic estimate of a family's meta-gradient, in units of the perturbation, [size].

    Differences are divided by their own root mean square, so that no family dominates, and clipped.

    Args:
      scores: arrays [pairs, 2].
      directions: what the difference of a pair weighs, [pairs, size].
      weights: `TrainConfig.objective`.
    """
    difference = differences(scores, weights)
    scale = jnp.sqrt(jnp.mean(jnp.clip(difference, -1.0, 1.0) ** 2)) + QUIET
    weight = jnp.clip(difference / scale, -CLIP, CLIP)
    return weight @ directions / jnp.sqrt(len(weight))


def differences(scores: Score, weights: tuple[float, float, float]) -> jax.Array:
    """Objective with theta + sigma eps less that with theta - sigma eps, [pairs]."""
    values = objective(scores, weights)
    return values[:, 0] - values[:, 1]


class Estimator(Protocol):
    """How meta-gradients are made. `evaluate` runs on every device, on its share of the pairs.

    Workers are what a pair keeps from one outer step to the next, a tree of arrays [pairs, ...]; empty if it
    keeps nothing. Scores and workers of a pair do not depend on how pairs are shared by devices.
    """

    def workers(self, pairs: int, data: Any) -> Any:
        """Workers before the first outer step."""

    def evaluate(
        self, flat: jax.Array, members: tuple[jax.Array, Any], keys: Keys, steps: jax.Array, data: Any
    ) -> tuple[Score, Any]:
        """Scores [pairs, 2] and new workers.

        Args:
          flat: meta-parameters, [size].
          members: numbers of the pairs, int32 [pairs], and their workers.
          keys: of this family at this outer step.
          steps: horizon of this outer step, or its truncation if workers have horizons of their own; int32
            scalar, a multiple of CHUNK.
          data: the family's data.
        """

    def weighed(self, workers: Any) -> jax.Array | tuple[()]:
        """Of the workers, what `gradient` needs of all pairs: [pairs, size], or ()."""

    def gradient(self, scores: Score, weighed: Any, keys: Keys) -> jax.Array:
        """The family's meta-gradient from all pairs, in units of the perturbation, [size]."""
