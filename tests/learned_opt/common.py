"""What several tests of the optimizer need."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt
from learned_opt import FLTConfig
from learned_opt.optimizer.controller import LAWS, feature_names


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


def without(feature: str) -> tuple[Any, FLTConfig]:
    """`flt-v1` whose laws do not know a feature."""
    theta, config = learned_opt.load_weights("flt-v1")
    laws = {law: np.array(theta["flt/~/controller"][law]) for law in LAWS}
    for law in laws.values():
        law[feature_names(config).index(feature)] = 0.0
    return theta | {"flt/~/controller": theta["flt/~/controller"] | laws}, config


def trained(weights: Any, params: Any, gradient: Callable[[Any, jax.Array], Any], steps: int) -> Any:
    """Parameters after a run of the exported optimizer; `gradient` is of the parameters and the step."""
    optimizer = learned_opt.flt_optimizer(weights=weights, total_steps=steps)

    def step(carry: Any, t: jax.Array) -> tuple[Any, None]:
        p, state = carry
        updates, state = optimizer.update(gradient(p, t), state, p)
        return (optax.apply_updates(p, updates), state), None

    def run(params: Any) -> Any:
        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[0][0]

    return jax.jit(run)(params)
