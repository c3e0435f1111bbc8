"""Steps grow where they are clearly too short."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizer.controller import LARGEST_GROWTH, grown

from .common import trained, without


@pytest.mark.parametrize(
    ("growth", "lasting", "noise", "expected"),
    [
        (1.0, 0.5, 0.9, 1.03),  # clearly too short
        (1.0, 0.9, 0.5, 1.01),  # less clearly
        (1.0, 0.5, 0.2, 1.0),  # steady noise
        (1.0, 0.1, 0.9, 1.0),  # as gradients of good steps are
        (1.0, -0.5, 0.9, 0.95),  # too far
        (0.01, -0.5, 0.1, 0.0),
        (LARGEST_GROWTH, 0.9, 0.9, LARGEST_GROWTH),
    ],
)
def test_steps_grow_where_gradients_clearly_keep_their_direction(growth, lasting, noise, expected):
    np.testing.assert_allclose(grown(*map(jnp.float32, (growth, lasting, noise))), expected, rtol=1e-6)


def test_parameters_get_far_away():
    """Scalars that the laws alone would not bring to where they belong, in the time that they have."""
    goal = {"near": jnp.float32(0.5), "far": jnp.float32(-100.0)}

    def distances(weights):
        start = jax.tree.map(jnp.zeros_like, goal)
        p = trained(weights, start, lambda p, _: jax.tree.map(jnp.subtract, p, goal), 500)
        return {name: abs(float(p[name] - goal[name])) for name in goal}

    alone, now = distances(without("undershoot")), distances("flt-v1")
    assert alone["near"] < 0.01
    assert now["near"] < 0.01
    assert alone["far"] > 50
    assert now["far"] < 1
