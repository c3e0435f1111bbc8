"""The policy gradient, and the pole that a policy balances."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from tasks import get
from tasks.losses import FLOOR, policy_cost
from tasks.models.control import cart_pole


def test_a_pole_on_a_cart_obeys_the_equations_of_motion():
    states = np.asarray(random.normal(random.key(0), (20, 4)), np.float64)
    forces = np.asarray(random.normal(random.key(1), (20,)), np.float64)
    after = np.asarray(cart_pole(jnp.asarray(states, jnp.float32), jnp.asarray(forces, jnp.float32)))
    for (_, speed, angle, turn), force, rates in zip(states, forces, (after - states) / 0.02, strict=True):
        sin, cos = np.sin(angle), np.cos(angle)
        # Lagrange's equations of a rod of 1 m and 0.1 kg, hinged on a cart of 1 kg.
        inertia = [[1.1, 0.05 * cos], [cos, 2 / 3]]
        pull, twist = np.linalg.solve(inertia, [10 * force + 0.05 * turn**2 * sin, 9.8 * sin])
        np.testing.assert_allclose(rates, [speed, pull, turn, twist], rtol=1e-3, atol=1e-3)


def test_the_gradient_is_that_of_the_expected_cost():
    """Two actions, where the cost of the second depends on the first."""

    def costs(first, second):
        return jnp.stack([0.5 * first, 0.2 + first * second + 0.3 * (1 - second)], axis=-1)

    def expected(w):
        p = jax.nn.sigmoid(w)
        return sum(
            (p[0] if a else 1 - p[0]) * (p[1] if b else 1 - p[1]) * costs(a, b).sum()
            for a, b in product((0.0, 1.0), repeat=2)
        )

    def sampled(w, draws):
        actions = (draws < jax.nn.sigmoid(w)).astype(jnp.float32)
        return policy_cost(costs(actions[:, 0], actions[:, 1]), jax.nn.log_sigmoid((2 * actions - 1) * w))

    w = jnp.array([0.4, -0.3])
    value, gradient = jax.value_and_grad(expected)(w)
    found, estimate = jax.value_and_grad(sampled)(w, random.uniform(random.key(0), (200_000, 2)))
    assert found == pytest.approx(float(value) + FLOOR, abs=5e-3)
    np.testing.assert_allclose(estimate, gradient, atol=5e-3)
    few = jax.vmap(jax.grad(sampled), (None, 0))(w, random.uniform(random.key(1), (40_000, 3, 2)))
    np.testing.assert_allclose(few.mean(0), gradient, atol=5e-3)  # the baseline adds no bias


def test_costs_begin_with_the_fall_and_the_loss_is_their_mean():
    family = get("cart_pole")
    config = family.sample(random.key(0))
    batch = family.batch(random.key(1), family.data().valid, config)
    params = family.init(random.key(2), config)
    starts, draws = batch["x"]
    assert float(jnp.abs(starts).max()) <= 0.1
    # Always to the right: all fall, and all at about the same time.
    params["head"]["bias"] += 100.0
    loss, slopes = jax.jit(jax.value_and_grad(family.loss))(params, batch, config)
    states, steps, step = starts, [], jax.jit(cart_pole)
    for _ in range(draws.shape[1]):
        states = step(states, jnp.ones(len(starts)))
        steps.append(np.abs(states[:, 2]) < 0.2095)
    upright = np.logical_and.accumulate(steps)
    assert 5 < upright.sum(0).min() <= upright.sum(0).max() < 20
    assert float(loss) == pytest.approx(1 - upright.mean() + FLOOR, rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_the_same_batch_is_the_same_luck():
    family = get("cart_pole")
    config = family.sample(random.key(0))
    params = family.init(random.key(2), config)
    one, two, other = (family.batch(random.key(k), family.data().train, config) for k in (1, 1, 3))
    first, same, different = (float(jax.jit(family.loss)(params, each, config)) for each in (one, two, other))
    assert first == same != different
