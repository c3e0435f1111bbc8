"""The inner loop: one member of a family trained by one optimizer, as a function of data, not of shapes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import scale_by_flt
from learned_opt.config import FLTConfig
from meta_train.config import CHUNK
from tasks import TaskFamily

DIVERGED = 4.0  # a loss counts as at most this many times the initial one
LOG_FLOOR = 1e-6  # added to losses under the logarithm


class Score(NamedTuple):
    """Summary of a run, float32 scalars."""

    final: jax.Array  # mean log loss over the last tenth
    mean: jax.Array  # mean log loss over the run
    initial: jax.Array  # log loss before the first step


def unroll(
    family: TaskFamily,
    config: FLTConfig,
    theta: Any,
    key: jax.Array,
    steps: jax.Array,
    told: jax.Array,
    data: Any,
) -> Score:
    """Trains one member for `steps` steps.

    The horizon is data: a loop of dynamic length around a fixed chunk of `CHUNK` steps, so one program serves all.

    Args:
      family: whose member is trained; the member, its parameters and its batches follow from `key`.
      config: structure of the optimizer.
      theta: its meta-parameters.
      key: random key of this member.
      steps: int32 scalar, a multiple of CHUNK.
      told: bool scalar: whether the optimizer knows the horizon.
      data: the training part of the family's data.
    """
    key_config, key_init, key_run = jax.random.split(key, 3)
    member = family.sample(key_config)
    params = family.init(key_init, member)
    horizon = jnp.where(told, steps.astype(jnp.float32), jnp.inf)
    optimizer = optax.chain(scale_by_flt((theta, config), total_steps=horizon), optax.scale(-1.0))
    initial = family.loss(params, family.batch(key_run, data, member), member)
    ceiling = DIVERGED * initial + LOG_FLOOR
    tail = steps - steps // 10

    def step(carry: tuple, offset: jax.Array) -> tuple[tuple, None]:
        params, state, t, final, total = carry
        batch = family.batch(jax.random.fold_in(key_run, t), data, member)
        loss, gradient = jax.value_and_grad(family.loss)(params, batch, member)
        log_loss = jnp.log(jnp.minimum(jnp.where(jnp.isfinite(loss), loss, jnp.inf), ceiling) + LOG_FLOOR)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state, t + 1, final + jnp.where(t >= tail, log_loss, 0.0), total + log_loss), None

    def chunk(_: jax.Array, carry: tuple) -> tuple:
        return jax.lax.scan(step, carry, jnp.arange(CHUNK))[0]

    zero = jnp.zeros((), jnp.float32)
    carry = params, optimizer.init(params), jnp.zeros((), jnp.int32), zero, zero
    *_, final, total = jax.lax.fori_loop(0, steps // CHUNK, chunk, carry)
    return Score(final / (steps // 10), total / steps, jnp.log(initial + LOG_FLOOR))


def objective(score: Score, final_weight: float) -> jax.Array:
    """What meta-training lowers: a mix of where a run ends and how it got there."""
    return final_weight * score.final + (1 - final_weight) * score.mean


Unroll = Callable[..., Score]
