"""The inner loop: one member of a family trained by one optimizer, as a function of data, not of shapes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import scale_by_flt
from learned_opt.config import FLTConfig
from meta_train.config import CHUNK
from tasks import TaskFamily

DIVERGED = 4.0  # a loss counts as at most this many times the initial one
VALIDATION_BATCHES = 16  # drawn at the end of a run: two runs should differ by their optimizers, not by luck
FLOOR = 0.005  # of the initial loss, added under the logarithm: interpolating further earns little


class Score(NamedTuple):
    """Summary of a run, float32 scalars."""

    valid: jax.Array  # log validation loss at the end
    final: jax.Array  # mean log training loss over the last tenth
    mean: jax.Array  # mean log training loss over the run


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

    The horizon is data: a loop of dynamic length around a fixed chunk of `CHUNK` steps, one program for all.

    Args:
      family: whose member is trained; the member, its parameters and its batches follow from `key`.
      config: structure of the optimizer.
      theta: its meta-parameters.
      key: random key of this member.
      steps: int32 scalar, a multiple of CHUNK.
      told: bool scalar: whether the optimizer knows the horizon.
      data: the family's data.
    """
    key_config, key_init, key_run, key_valid = jax.random.split(key, 4)
    member = family.sample(key_config)
    params = family.init(key_init, member)
    horizon = jnp.where(told, steps.astype(jnp.float32), jnp.inf)
    optimizer = optax.chain(scale_by_flt((theta, config), total_steps=horizon), optax.scale(-1.0))
    initial = family.loss(params, family.batch(key_run, data.train, member), member)
    tail = steps - steps // 10

    def log(loss: jax.Array) -> jax.Array:
        capped = jnp.minimum(jnp.where(jnp.isfinite(loss), loss, jnp.inf), DIVERGED * initial)
        return jnp.log(capped + FLOOR * initial)

    def step(carry: tuple, _: Any) -> tuple[tuple, Any]:
        params, state, t, score = carry
        batch = family.batch(jax.random.fold_in(key_run, t), data.train, member)
        loss, gradient = jax.value_and_grad(family.loss)(params, batch, member)
        updates, state = optimizer.update(gradient, state, params)
        final = score.final + jnp.where(t >= tail, log(loss), 0.0)
        score = score._replace(final=final, mean=score.mean + log(loss))
        return (optax.apply_updates(params, updates), state, t + 1, score), None

    def chunk(_: jax.Array, carry: tuple) -> tuple:
        return jax.lax.scan(step, carry, length=CHUNK)[0]

    def valid(params: Any) -> jax.Array:
        def loss(key: jax.Array) -> jax.Array:
            return family.loss(params, family.batch(key, data.valid, member), member)

        return log(jnp.mean(jax.lax.map(loss, jax.random.split(key_valid, VALIDATION_BATCHES))))

    zero = jnp.zeros((), jnp.float32)
    carry = params, optimizer.init(params), jnp.zeros((), jnp.int32), Score(zero, zero, zero)
    params, _, _, total = jax.lax.fori_loop(0, steps // CHUNK, chunk, carry)
    return Score(valid(params), total.final / (steps - tail), total.mean / steps)


def objective(score: Score, weights: tuple[float, float, float]) -> jax.Array:
    """What meta-training lowers: where a run ends, on validation and training data, and how it got there."""
    return jnp.tensordot(jnp.asarray(weights), jnp.stack(score), axes=1)
