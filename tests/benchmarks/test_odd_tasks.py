"""The odd tasks are tasks."""

from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

from tasks.own import as_family

NAMES = (
    "Oscillation",
    "Factors",
    "RawTargets",
    "IllConditioned",
    "RandomFeatures",
    "Parts",
    "OneByOne",
    "Curve",
)


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_finite_at_the_start(script: Callable[[str], ModuleType], name: str):
    family = as_family(getattr(script("odd_tasks"), name)(), name)
    task = family.task(family.sample(jax.random.key(0)))
    params = task.init(jax.random.key(1))
    loss, gradient = jax.value_and_grad(task.loss)(params, task.train_batch(jax.random.key(2)))
    assert jnp.isfinite(loss)
    assert loss > 0
    assert all(jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert jnp.isfinite(task.loss(params, task.valid_batch(jax.random.key(3))))
