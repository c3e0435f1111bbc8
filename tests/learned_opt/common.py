"""What several tests of the optimizer need."""

import functools
from typing import Any

import jax
import numpy as np

from learned_opt import FLTConfig, untrained


@functools.cache
def start(config: FLTConfig) -> Any:
    """The untrained meta-parameters, compiled: much quicker than operation by operation."""
    return jax.tree.map(np.asarray, jax.jit(lambda: untrained(config)[0])())


def moved(config: FLTConfig, spread: float) -> Any:
    """Meta-parameters away from where they start, so that every part of the network has an effect."""
    leaves, structure = jax.tree.flatten(start(config))
    generator = np.random.default_rng(5)
    noise = [generator.normal(size=x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(structure, [x + spread * z for x, z in zip(leaves, noise, strict=True)])
