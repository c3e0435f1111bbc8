"""The same tasks in other coordinates and units, with noisier gradients, in lower precision.

What a task looks like to an optimizer then differs more than families do; what it is does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import random

from tasks.base import Batch, Config, Key, Params, Part, TaskFamily

BRANCH = 7  # of a member's key


@dataclass(frozen=True)
class Augmentation:
    """How much an augmented member may differ, each setting drawn uniformly up to this.

    Attributes:
      decades: standard deviation of the log10 of the factors that parameters are divided by, in sum over
        three levels: one factor of the whole network, one of each tensor, one of each scalar.
      unit: decades up or down by which the loss is multiplied.
      noise: root mean square of normal noise that is added to each tensor's gradient, over that of the
        gradient.
      rounded: share of augmented members whose network sees its parameters in bfloat16.
    """

    decades: float = 0.3
    unit: float = 3.0
    noise: float = 1.0
    rounded: float = 0.25


def augmented(family: TaskFamily, share: float, how: Augmentation | None = None) -> TaskFamily:
    """The family with a `share` of its members augmented; the others, and all data, are as before.

    Raises:
      ValueError: a share that is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: expected a number from 0 to 1")
    how = how or Augmentation()

    def sample(key: Key) -> Config:
        config = family.sample(key)
        chosen, unit, noise, rounded = random.uniform(random.fold_in(key, BRANCH), (4,), jnp.float32)
        applies = (chosen < share).astype(jnp.float32)
        return config | {
            "augmented": applies,
            "unit": 10.0 ** (applies * how.unit * (2 * unit - 1)),
            "gradient_noise": applies * how.noise * noise,
            "rounded": applies * (rounded < how.rounded),
        }

    def init(key: Key, config: Config) -> Params:
        params = family.init(key, config)
        return jax.tree.map(jnp.divide, params, _factors(params, config, how.decades))

    def batch(key: Key, part: Part, config: Config) -> Batch:
        return {**family.batch(key, part, config), "noise": random.fold_in(key, BRANCH)}

    def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
        own = {name: value for name, value in batch.items() if name != "noise"}
        seen = jax.tree.map(jnp.multiply, params, _factors(params, config, how.decades))
        seen = jax.tree.map(
            lambda x: jnp.where(config["rounded"] > 0, x.astype(jnp.bfloat16).astype(x.dtype), x), seen
        )
        seen = _noisy(seen, batch["noise"], config["gradient_noise"])
        return config["unit"] * family.loss(seen, own, config)

    return replace(family, sample=sample, init=init, batch=batch, loss=loss)


def _factors(params: Params, config: Config, decades: float) -> Params:
    """What each parameter is divided by at the start and multiplied by in the network."""
    leaves, structure = jax.tree.flatten(params)
    key_spread, key_levels, key_draws = random.split(random.fold_in(config["key"], BRANCH), 3)
    spread = decades * config["augmented"] * random.uniform(key_spread)
    whole, tensor, scalar = spread * jnp.sqrt(random.dirichlet(key_levels, jnp.ones(3)))
    draws = random.normal(key_draws, (1 + len(leaves),), jnp.float32)
    factors = []
    for place, leaf in enumerate(leaves):
        own = random.normal(random.fold_in(key_draws, place), leaf.shape, leaf.dtype)
        factors.append(10.0 ** (whole * draws[0] + tensor * draws[1 + place] + scalar * own))
    return jax.tree.unflatten(structure, factors)


@jax.custom_vjp
def _noisy(params: Params, key: Key, level: jax.Array) -> Params:
    """The parameters as they are; noise of `level` times each gradient's root mean square is added to it."""
    return params


def _forward(params: Params, key: Key, level: jax.Array) -> tuple[Params, Any]:
    return params, (key, level)


def _backward(kept: Any, gradients: Params) -> tuple[Params, None, None]:
    key, level = kept
    leaves, structure = jax.tree.flatten(gradients)
    noisy = [
        leaf
        + level
        * jnp.sqrt(jnp.mean(jnp.square(leaf)))
        * random.normal(random.fold_in(key, place), leaf.shape, leaf.dtype)
        for place, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, noisy), None, None


_noisy.defvjp(_forward, _backward)
