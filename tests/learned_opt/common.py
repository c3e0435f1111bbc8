"""What several tests of the optimizer need."""

import functools
from typing import Any

import jax
import numpy as np

import learned_opt
from learned_opt import FLTConfig


@functools.partial(jax.jit, static_argnums=0)
def _untrained(config: FLTConfig, key: jax.Array) -> Any:
    return learned_opt.untrained(config, key)[0]


def untrained(config: FLTConfig | None = None, key: jax.Array | None = None) -> tuple[Any, FLTConfig]:
    """`learned_opt.untrained`, compiled: much quicker than operation by operation, equal but for rounding."""
    config = config or FLTConfig()
    with jax.ensure_compile_time_eval():  # the first caller may be under a trace
        theta = _untrained(config, jax.random.key(0) if key is None else key)
    return jax.tree.map(np.asarray, theta), config


@functools.cache
def start(config: FLTConfig) -> Any:
    """The untrained meta-parameters."""
    return untrained(config)[0]


def moved(config: FLTConfig, spread: float) -> Any:
    """Meta-parameters away from where they start, so that every part of the network has an effect."""
    leaves, structure = jax.tree.flatten(start(config))
    generator = np.random.default_rng(5)
    noise = [generator.normal(size=x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(structure, [x + spread * z for x, z in zip(leaves, noise, strict=True)])
