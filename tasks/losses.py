"""Losses: float32 scalars, means over all axes, never below a small floor, so that logarithms are finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp

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
