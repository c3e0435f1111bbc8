"""What users may pass to the optimizer: checks at the boundary, each with an error that says what to do."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike


def decay_masks(weight_decay: ArrayLike, mask: Any | Callable[[Any], Any] | None, params: Any) -> list[bool]:
    """For each leaf whether it decays. A traced rate may be anything, a concrete zero leaves the term out."""
    if not isinstance(weight_decay, jax.Array) and not weight_decay:
        return [False] * len(jax.tree.leaves(params))
    if mask is None:
        return [True] * len(jax.tree.leaves(params))
    tree = mask(params) if callable(mask) else mask
    return jax.tree.leaves(jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), tree, params))


def check_params(params: Any) -> None:
    """Raises TypeError for parameters that are not real floating-point numbers."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"parameter {jax.tree_util.keystr(path)} has dtype {leaf.dtype}, expected a real "
                "floating-point dtype: leave it out with optax.partition, or split complex "
                "numbers into real and imaginary parts"
            )


def check_total_steps(total_steps: ArrayLike | None) -> ArrayLike:
    """The horizon, infinite for None; ValueError if it is not positive."""
    if total_steps is None:
        return np.inf
    if not isinstance(total_steps, jax.core.Tracer) and not np.all(np.asarray(total_steps) > 0):
        raise ValueError(
            f"total_steps={total_steps}: expected a positive number of updates, or None if it is not known"
        )
    return total_steps


def check_shrink(shrink: ArrayLike) -> None:
    """Raises ValueError for a multiplier below zero, with which parameters would grow."""
    if not isinstance(shrink, jax.core.Tracer) and not np.all(np.asarray(shrink) >= 0):
        raise ValueError(f"shrink={shrink}: expected a multiplier of at least 0; 1.0 is as learned")


def check_orthogonalize(every: int) -> int:
    """Every how many steps matrices are orthogonalised; ValueError if that is not a number of at least 0."""
    if not isinstance(every, bool | int | np.integer) or every < 0:
        raise ValueError(
            f"orthogonalize={every!r}: expected True (every step), False (never), or every how many steps"
        )
    return int(every)


def check_state_dtype(state_dtype: Any | None) -> jnp.dtype | None:
    """The dtype in which the memory is stored, None for that of the computation; ValueError for others."""
    if state_dtype is None or jnp.dtype(state_dtype) == jnp.float32:
        return None
    if jnp.dtype(state_dtype) != jnp.bfloat16:
        raise ValueError(f"state_dtype={state_dtype!r}: expected None, 'float32' or 'bfloat16'")
    return jnp.dtype(jnp.bfloat16)


def warn_about_rate(learning_rate: optax.ScalarOrSchedule) -> None:
    """Warns of a rate that was meant for Adam."""
    concrete = not callable(learning_rate) and not isinstance(learning_rate, jax.core.Tracer)
    if concrete and np.size(learning_rate) == 1 and 0 < float(np.asarray(learning_rate)) < 0.02:
        warnings.warn(
            f"learning_rate={learning_rate} multiplies the learned step (1.0 = as learned); it is not Adam's "
            "rate. Start from flt_optimizer() with no rate at all.",
            stacklevel=3,
        )
