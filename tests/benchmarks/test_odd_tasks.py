"""The small tasks that no suite has are tasks."""

from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

from tasks.own import as_family

FILES = {
    "odd_tasks": (
        "Oscillation",
        "Factors",
        "RawTargets",
        "IllConditioned",
        "RandomFeatures",
        "Parts",
        "OneByOne",
        "Curve",
    ),
    "lookup_tasks": ("Ranking", "SkipGram", "Bins", "Graph"),
}


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in FILES.items() for name in names])
def test_losses_and_gradients_are_finite_at_the_start(
    script: Callable[[str], ModuleType], file: str, name: str
):
    family = as_family(getattr(script(file), name)(), name)
    task = family.task(family.sample(jax.random.key(0)))
    params = task.init(jax.random.key(1))
    loss, gradient = jax.value_and_grad(task.loss)(params, task.train_batch(jax.random.key(2)))
    assert jnp.isfinite(loss)
    assert loss > 0
    leaves = jax.tree.leaves(gradient)
    assert all(jnp.isfinite(leaf).all() for leaf in leaves)
    assert any(jnp.abs(leaf).max() > 0 for leaf in leaves)
    assert jnp.isfinite(task.loss(params, task.valid_batch(jax.random.key(3))))
