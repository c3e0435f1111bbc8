"""Losses: float32 scalars, means over all axes, never below a small floor, so that logarithms are finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

FLOOR = 1e-5
"""Added to every loss: far below what a user would notice, and log(loss) stays above -11.6."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy in nats; logits [..., classes], integer labels [...]."""
    # A product with one-hot rows: its derivative needs no scatter, which is slow and unordered on a GPU.
    hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return FLOOR - jnp.mean(jnp.sum(hot * jax.nn.log_softmax(logits), axis=-1))


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Sigmoid cross-entropy in nats; logits [..., 1], labels [...] in {0, 1}."""
    signs = 1.0 - 2.0 * labels.astype(logits.dtype)
    return FLOOR + jnp.mean(jax.nn.softplus(signs * logits[..., 0]))


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error; both of one shape."""
    return FLOOR + jnp.mean(jnp.square(outputs - targets))


def huber(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Huber's loss with threshold 1 (Huber 1964): quadratic for small errors, linear for large ones."""
    error = jnp.abs(outputs - targets)
    near = jnp.minimum(error, 1.0)
    return FLOOR + jnp.mean(near * (error - 0.5 * near))


def poisson(log_rates: jax.Array, counts: jax.Array) -> jax.Array:
    """Half the deviance of counts under Poisson's law: the loss less that of rates equal to the counts."""
    surprise = jax.scipy.special.xlogy(counts, counts) - counts
    rates = jnp.exp(jnp.minimum(log_rates, 20.0))  # far above any count, and finite
    return FLOOR + jnp.mean(rates - counts * log_rates + surprise)


def contrastive(left: jax.Array, right: jax.Array) -> jax.Array:
    """Which row of `right` belongs to each of `left`, by cosine (van den Oord et al. 2018), in nats.

    Both are [batch, features]; the temperature is 0.2.
    """
    left, right = (x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6) for x in (left, right))
    return cross_entropy(left @ right.T / 0.2, jnp.arange(len(left)))


def policy_cost(costs: jax.Array, chosen: jax.Array) -> jax.Array:
    """The mean cost of a policy's episodes, with the gradient of REINFORCE (Williams 1992).

    Args:
      costs: [episodes, steps], what each step cost.
      chosen: [episodes, steps], log-probabilities of the actions that were taken.

    Each action is judged by all that it and later steps cost, less the mean of that over the other episodes.
    """
    later = jnp.cumsum(costs[:, ::-1], axis=1)[:, ::-1]
    others = (later.sum(0) - later) / (costs.shape[0] - 1)
    score = jnp.mean(jnp.sum(chosen * lax.stop_gradient(later - others), axis=1))
    return FLOOR + jnp.mean(costs.sum(1)) + score - lax.stop_gradient(score)
