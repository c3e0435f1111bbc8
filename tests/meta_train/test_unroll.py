"""The inner loop, against a plain Python loop around the public optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import flt_optimizer, untrained
from meta_train.unroll import FLOOR, VALIDATION_BATCHES, InnerLoop, Score, objective, unroll
from tasks import TaskFamily
from tasks.suites import META_TRAIN

from .fakes import family as bowl
from .tiny import OPTIMIZER

THETA, _ = untrained(OPTIMIZER, jax.random.key(3))
KEY = jax.random.key(5)


class Program:
    """The compiled unroll of a family; counts how often it was traced."""

    def __init__(self, family: TaskFamily):
        self.family = family
        self.traces = 0
        self._jitted = jax.jit(self._traced)

    def _traced(self, theta: Any, key: jax.Array, steps: jax.Array, told: jax.Array, data: Any) -> Score:
        self.traces += 1
        return unroll(self.family, OPTIMIZER, theta, key, steps, told, data)

    def __call__(self, steps: int, told: bool = True, theta: Any = THETA, key: jax.Array = KEY) -> Score:
        data = jax.device_put(self.family.data())
        return jax.device_get(self._jitted(theta, key, jnp.int32(steps), jnp.asarray(told), data))


@pytest.fixture(scope="module")
def noisy_bowl() -> Program:
    return Program(bowl(noise=0.3))


@pytest.fixture(scope="module")
def linear_map() -> Program:
    return Program(META_TRAIN["linear_map"])


@pytest.fixture(scope="module")
def cliff() -> Program:
    """A bowl whose loss is not a number before it is four times the initial one."""

    def loss(params: Any, batch: jax.Array, config: Any) -> jax.Array:
        distance = jnp.sum((params["w"] - config["target"] - batch) ** 2)
        return jnp.where(distance < 30.0, 0.1 + distance, jnp.nan)

    return Program(bowl(loss=loss))


def log_loss(loss: float, initial: float) -> float:
    capped = min(loss, 4 * initial) if np.isfinite(loss) else 4 * initial
    return float(np.log(capped + 0.005 * initial))


def initial_loss(family: TaskFamily, key: jax.Array) -> float:
    key_config, key_init, key_run, _ = jax.random.split(key, 4)
    task = family.task(family.sample(key_config))
    return float(task.loss(task.init(key_init), task.train_batch(key_run)))


def python_loop(family: TaskFamily, key: jax.Array, steps: int, total_steps: int | None) -> Score:
    """What a user would write for the member that `key` describes."""
    key_config, key_init, key_run, key_valid = jax.random.split(key, 4)
    task = family.task(family.sample(key_config))
    optimizer = flt_optimizer(weights=(THETA, OPTIMIZER), total_steps=total_steps)

    @jax.jit
    def update(params: Any, state: Any, batch: Any) -> tuple[jax.Array, Any, Any]:
        loss, gradient = jax.value_and_grad(task.loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return loss, optax.apply_updates(params, updates), state

    initial = initial_loss(family, key)
    params = task.init(key_init)
    state = optimizer.init(params)
    train = []
    for t in range(steps):
        loss, params, state = update(params, state, task.train_batch(jax.random.fold_in(key_run, t)))
        train.append(log_loss(float(loss), initial))
    batches = [task.valid_batch(key) for key in jax.random.split(key_valid, VALIDATION_BATCHES)]
    valid = log_loss(float(np.mean([task.loss(params, batch) for batch in batches])), initial)
    return Score(valid, np.mean(train[steps - steps // 10 :]), np.mean(train))


@pytest.mark.parametrize(
    ("name", "steps", "told"),
    [
        ("noisy_bowl", 75, False),
        ("noisy_bowl", 75, True),
        pytest.param("linear_map", 50, True, marks=pytest.mark.slow),
    ],
)
def test_equals_a_python_loop_with_the_public_optimizer(
    request: pytest.FixtureRequest, name: str, steps: int, told: bool
) -> None:
    """Not to be told the horizon is the same as `total_steps=None`."""
    program = request.getfixturevalue(name)

    expected = python_loop(program.family, KEY, steps, total_steps=steps if told else None)

    np.testing.assert_allclose(program(steps, told), expected, rtol=1e-5, atol=1e-5)


def test_horizon_and_being_told_it_are_data(noisy_bowl: Program) -> None:
    scores = [noisy_bowl(steps, told) for steps in (25, 100) for told in (True, False)]

    assert len({float(score.mean) for score in scores}) == 4
    assert noisy_bowl.traces == 1


def test_the_key_decides_everything(noisy_bowl: Program) -> None:
    assert noisy_bowl(25) == noisy_bowl(25)
    assert noisy_bowl(25, key=jax.random.key(6)) != noisy_bowl(25)


@pytest.mark.parametrize("name", ["noisy_bowl", "cliff"])
def test_divergence_counts_as_four_times_the_initial_loss(request: pytest.FixtureRequest, name: str) -> None:
    program = request.getfixturevalue(name)
    uphill = jax.tree.map(jnp.array, THETA)
    uphill["flt/~/rule"]["read_out"] *= -1.0
    uphill["flt/~/controller"]["step_law"] = uphill["flt/~/controller"]["step_law"].at[0].add(3.0)
    initial = initial_loss(program.family, KEY)
    worst = np.log((4.0 + FLOOR) * initial)

    score = program(100, theta=uphill)

    np.testing.assert_allclose([score.valid, score.final], worst, rtol=1e-6)
    assert np.log(initial) < score.mean < worst  # the first losses were better


@pytest.mark.slow
def test_a_learned_step_lowers_the_loss(linear_map: Program) -> None:
    score = linear_map(100)

    assert score.final < score.mean < np.log(initial_loss(linear_map.family, KEY))


def test_objective_is_the_weighted_sum_of_the_parts() -> None:
    score = Score(jnp.asarray([1.0, 2.0]), jnp.asarray([10.0, 20.0]), jnp.asarray([100.0, 200.0]))

    np.testing.assert_allclose(objective(score, (0.5, 0.3, 0.2)), [23.5, 47.0], rtol=1e-6)


def test_weights_of_the_parts_sum_to_one_in_every_preset() -> None:
    from meta_train.config import PRESETS

    for name, preset in PRESETS.items():
        assert sum(preset.objective) == pytest.approx(1.0), name


def test_steps_beyond_the_horizon_do_not_count() -> None:
    family = bowl(noise=0.3)
    inner, data = InnerLoop(family, OPTIMIZER), family.data()

    def scored(chunks: jax.Array) -> tuple[jax.Array, Score]:
        start = inner.start(THETA, KEY, data)
        run, score = inner.train(THETA, start, KEY, jnp.int32(50), jnp.asarray(True), data, chunks)
        return run.step, score

    (steps, until), (more, beyond) = (jax.jit(scored)(jnp.int32(chunks)) for chunks in (2, 3))

    assert (int(steps), int(more)) == (50, 75)
    jax.tree.map(np.testing.assert_array_equal, until, beyond)
    assert float(until.mean) != 0.0
