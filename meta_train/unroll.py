"""The inner loop: one member of a family trained by one optimizer, as a function of data, not of shapes."""

from dataclasses import dataclass
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


class Run(NamedTuple):
    """A run that may be interrupted."""

    params: Any
    state: Any  # of the optimizer
    step: jax.Array  # int32 []: steps taken
    initial: jax.Array  # float32 []: loss before the first step


@dataclass(frozen=True)
class InnerLoop:
    """One member of a family trained by one optimizer. Member, start and batches follow from a key.

    Attributes:
      family: whose member is trained.
      optimizer: structure of the optimizer.
    """

    family: TaskFamily
    optimizer: FLTConfig

    def start(self, theta: Any, key: jax.Array, data: Any) -> Run:
        """The run before its first step."""
        key_config, key_init, key_run, _ = jax.random.split(key, 4)
        member = self.family.sample(key_config)
        params = self.family.init(key_init, member)
        initial = self.family.loss(params, self.family.batch(key_run, data.train, member), member)
        state = scale_by_flt((theta, self.optimizer)).init(params)
        return Run(params, state, jnp.zeros((), jnp.int32), initial)

    def train(
        self,
        theta: Any,
        run: Run,
        key: jax.Array,
        steps: jax.Array,
        told: jax.Array,
        data: Any,
        chunks: int | jax.Array,
    ) -> tuple[Run, Score]:
        """Goes on for `chunks` chunks of CHUNK steps.

        Args:
          theta: meta-parameters.
          run: where to go on.
          key: of the member.
          steps: horizon of the whole run, int32 scalar, a multiple of CHUNK. Steps beyond it do not count.
          told: bool scalar: whether the optimizer knows the horizon.
          data: the family's data.
          chunks: a traced number makes a loop of dynamic length, an int one that can be differentiated.

        Returns:
          The run after them, and what they add to the run's score; its `valid` is 0.
        """
        key_config, _, key_run, _ = jax.random.split(key, 4)
        member = self.family.sample(key_config)
        horizon = jnp.where(told, steps.astype(jnp.float32), jnp.inf)
        optimizer = optax.chain(scale_by_flt((theta, self.optimizer), total_steps=horizon), optax.scale(-1.0))
        tail = steps - steps // 10

        def step(carry: tuple[Run, Score], _: Any) -> tuple[tuple[Run, Score], None]:
            (params, state, t, initial), score = carry
            batch = self.family.batch(jax.random.fold_in(key_run, t), data.train, member)
            loss, gradient = jax.value_and_grad(self.family.loss)(params, batch, member)
            updates, (state, _) = optimizer.update(gradient, (state, optax.ScaleState()), params)
            log = jnp.where(t < steps, _log(loss, initial), 0.0)
            final = score.final + jnp.where(t >= tail, log, 0.0)
            score = score._replace(final=final, mean=score.mean + log)
            return (Run(optax.apply_updates(params, updates), state, t + 1, initial), score), None

        def chunk(_: Any, carry: tuple[Run, Score]) -> tuple[Run, Score]:
            return jax.lax.scan(step, carry, length=CHUNK)[0]

        zero = jnp.zeros((), jnp.float32)
        run, total = jax.lax.fori_loop(0, chunks, chunk, (run, Score(zero, zero, zero)))
        return run, Score(zero, total.final / (steps - tail), total.mean / steps)

    def valid(self, run: Run, key: jax.Array, data: Any) -> jax.Array:
        """Log validation loss of a run."""
        key_config, _, _, key_valid = jax.random.split(key, 4)
        member = self.family.sample(key_config)

        def loss(key: jax.Array) -> jax.Array:
            return self.family.loss(run.params, self.family.batch(key, data.valid, member), member)

        return _log(jnp.mean(jax.lax.map(loss, jax.random.split(key_valid, VALIDATION_BATCHES))), run.initial)


def _log(loss: jax.Array, initial: jax.Array) -> jax.Array:
    capped = jnp.minimum(jnp.where(jnp.isfinite(loss), loss, jnp.inf), DIVERGED * initial)
    return jnp.log(capped + FLOOR * initial)


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
    inner = InnerLoop(family, config)
    start = inner.start(theta, key, data)
    run, score = inner.train(theta, start, key, steps, told, data, steps // CHUNK)
    return score._replace(valid=inner.valid(run, key, data))


def objective(score: Score, weights: tuple[float, float, float]) -> jax.Array:
    """What meta-training lowers: where a run ends, on validation and training data, and how it got there."""
    return jnp.tensordot(jnp.asarray(weights), jnp.stack(score), axes=1)
