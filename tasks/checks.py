"""Is a task family what its interface says? Asked before anything is compiled."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from tasks.base import Split, TaskFamily

ARGUMENTS = {
    "sample": ("key",),
    "init": ("key", "config"),
    "batch": ("key", "part", "config"),
    "loss": ("params", "batch", "config"),
}


def check(family: TaskFamily) -> None:
    """Trace every function of a family on shapes alone.

    Raises:
      TypeError: a function cannot be called as it should be, or a parameter is not a floating-point array.
      ValueError: the loss is not a scalar, or there is nothing to train.
    """
    for name, arguments in ARGUMENTS.items():
        _check_signature(f"{family.name}.{name}", getattr(family, name), arguments)

    def one(key: jax.Array, data: Split) -> tuple[Any, Any]:
        config = family.sample(key)
        params = family.init(key, config)
        return params, [
            family.loss(params, family.batch(key, part, config), config) for part in (data.train, data.valid)
        ]

    params, losses = jax.eval_shape(one, jax.random.key(0), family.data())
    if not jax.tree.leaves(params):
        raise ValueError(
            f"{family.name}.init returns no parameters: expected a tree of floating-point arrays"
        )
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{family.name}.init: parameter {jax.tree_util.keystr(path)} has dtype {leaf.dtype}, "
                "expected a real floating-point dtype; keep what is not trained in the data"
            )
    for loss in losses:
        if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
            raise ValueError(
                f"{family.name}.loss returns {jax.tree.map(_describe, loss)}, expected one floating-point "
                "number, shape (): take the mean over the batch"
            )


def _check_signature(name: str, function: Any, arguments: tuple[str, ...]) -> None:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name} is called as {name}({', '.join(arguments)}): {error}") from error
    except ValueError:  # a function of C, which has no signature to look at
        return


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
