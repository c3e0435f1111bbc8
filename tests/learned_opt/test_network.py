"""What the whole network does beyond its parts: shrinking parameters, and following the gradients' size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import FLTConfig, diagnostics, scale_by_flt
from learned_opt.optimizer.controller import LAWS
from learned_opt.optimizer.measure import RECENT
from learned_opt.optimizer.transform import FLTState

from .common import moved

CONFIG = FLTConfig(rule_width=2, controller_width=2)
PARAMS = {"b": jnp.linspace(-1.0, 1.0, 5), "w": jnp.cos(jnp.arange(20.0)).reshape(4, 5)}
STEPS = 6


def theta_with_shrink(log_shrink: float):
    theta = moved(CONFIG, 0.1)
    controller = theta["flt/~/controller"]
    only_one = np.zeros_like(controller["shrink_law"])
    only_one[0] = log_shrink
    w2 = np.array(controller["w2"])
    w2[:, list(LAWS).index("shrink_law")] = 0
    return theta | {"flt/~/controller": controller | {"shrink_law": only_one, "w2": w2}}


def run(log_shrink: float, sizes=(1.0,) * STEPS) -> list[tuple[dict[str, jax.Array], FLTState]]:
    """Updates and states of a few steps at PARAMS, on gradients of the given sizes."""
    optimizer = scale_by_flt((theta_with_shrink(log_shrink), CONFIG), total_steps=10)

    def step(state, inputs):
        t, size = inputs
        gradients = jax.tree.map(lambda p: size * jnp.sin(3 * p + t), PARAMS)
        updates, state = optimizer.update(gradients, state, PARAMS)
        return state, (updates, state)

    inputs = jnp.arange(float(len(sizes))), jnp.asarray(sizes)
    history = jax.jit(lambda: jax.lax.scan(step, optimizer.init(PARAMS), inputs)[1])()
    return [jax.tree.map(lambda x, i=i: x[i], history) for i in range(len(sizes))]


def mean_log_root(state: FLTState) -> np.ndarray:
    """In the gradients' unit."""
    return np.asarray(state.tensors.mean_log_root + np.log(2.0) * state.tensors.exponent)


@pytest.mark.slow
def test_parameters_shrink_by_their_weight_where_that_goes_with_the_step_and_nowhere_else():
    log_shrink = -4.0
    agreeing = {"b": [], "w": []}
    for (with_it, state), (without, _) in zip(run(log_shrink), run(-30.0), strict=True):
        found = diagnostics(state)
        np.testing.assert_allclose(found["shrink"], np.exp(log_shrink), rtol=1e-5)
        for leaf, step in zip(("b", "w"), np.asarray(found["step"]), strict=True):
            param = np.asarray(PARAMS[leaf])
            agrees = np.asarray(without[leaf]) * param > 0
            agreeing[leaf].append(agrees.mean())
            expected = np.asarray(without[leaf]) + agrees * step * np.exp(log_shrink) * param
            np.testing.assert_allclose(with_it[leaf], expected, rtol=1e-5, atol=1e-6)
    assert all(0 < np.mean(shares) < 1 for shares in agreeing.values())


def test_the_mean_log_size_of_the_gradients_is_a_mean_over_all_steps():
    sizes = (1.0, 30.0, 1e-3, 5.0, 5.0, 1e-8)
    roots = []
    for _, state in run(-5.0, sizes):
        roots.append(np.asarray(state.tensors.root_rms))
        np.testing.assert_allclose(mean_log_root(state), np.mean(np.log(roots), axis=0), rtol=1e-4, atol=1e-4)


def test_the_spread_of_the_log_sizes_is_that_of_recent_gradients():
    sizes = (1.0, 30.0, 0.0, 1e-3, 5.0, 5.0, 1e-8)
    states = [state for _, state in run(-5.0, sizes)]
    gradients = [size * np.sin(3 * np.asarray(PARAMS["w"]) + t) for t, size in enumerate(sizes)]
    mean = np.log(np.sqrt(np.mean(gradients[0] ** 2)))
    variance = 0.0
    for t, (state, gradient) in enumerate(zip(states, gradients, strict=True)):
        log_size = np.log(np.sqrt(np.mean(gradient**2))) if gradient.any() else mean
        weight = max(RECENT, 1 / (t + 1))
        surprise, mean = log_size - mean, (1 - weight) * mean + weight * log_size
        variance = (1 - weight) * (variance + weight * surprise**2)
        np.testing.assert_allclose(state.tensors.log_size_variance[1], variance, rtol=1e-3, atol=1e-6)


def test_the_spread_does_not_depend_on_the_unit_of_the_loss():
    sizes = np.array([1.0, 30.0, 1e-3, 5.0])
    (_, small), (_, large) = run(-5.0, 1e-20 * sizes)[-1], run(-5.0, 1e20 * sizes)[-1]
    np.testing.assert_allclose(small.tensors.log_size_variance, large.tensors.log_size_variance, rtol=1e-4)
    assert np.all(np.asarray(small.tensors.log_size_variance) > 1)


def test_a_tensor_without_gradients_so_far_has_no_past():
    states = [state for _, state in run(-5.0, (0.0, 0.0, 0.0, 1e-6, 1e-6))]
    for state in states[:3]:
        np.testing.assert_array_equal(state.tensors.mean_log_root, 0)
        np.testing.assert_array_equal(state.tensors.mean_log_size, 0)
    first, second = states[3:]
    np.testing.assert_allclose(mean_log_root(first), np.log(first.tensors.root_rms), rtol=1e-5)
    np.testing.assert_array_equal(first.tensors.log_size_variance, 0)
    assert np.all(mean_log_root(second) > np.log(first.tensors.root_rms))
