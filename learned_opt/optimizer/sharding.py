"""Explicit sharding: the compiler decides inside a step, and what comes out lies as what went in."""

from typing import Any

import jax
import optax
from jax.sharding import AxisType


def automatic(update: optax.TransformUpdateExtraArgsFn) -> optax.TransformUpdateExtraArgsFn:
    """An `update` whose inner shardings are the compiler's under a mesh with explicit axes too.

    Updates come out sharded as the gradients are, and every array of the state as it was.
    """

    def run(updates: Any, state: Any, params: Any | None = None, **extra_args: Any) -> Any:
        if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
            return update(updates, state, params, **extra_args)
        shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, (updates, state))
        return jax.sharding.auto_axes(update, out_sharding=shardings)(updates, state, params)

    return run
