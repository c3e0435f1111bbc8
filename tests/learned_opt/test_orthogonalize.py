"""Polar factors against singular value decompositions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.optimizer.orthogonalize import POLAR_EXPRESS, SAFETY, orthogonalize, polar_factor


def matrix(shape: tuple[int, int], condition: float, seed: int = 0) -> np.ndarray:
    """A matrix with singular values from 1 down to 1 / condition, evenly in the logarithm."""
    generator = np.random.default_rng(seed)
    small = min(shape)
    left, right = (np.linalg.qr(generator.normal(size=(side, small)))[0] for side in shape)
    return (left * np.geomspace(1.0, 1.0 / condition, small)) @ right.T


def singular_values(x: jax.Array) -> np.ndarray:
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def polynomial(values: np.ndarray) -> np.ndarray:
    """What the composed polynomials make of singular values in units of the Frobenius norm."""
    x = values / SAFETY
    for i, (a, b, c) in enumerate(POLAR_EXPRESS):
        x = x if i == len(POLAR_EXPRESS) - 1 else x / SAFETY
        x = a * x + b * x**3 + c * x**5
    return x


def test_the_polynomials_go_to_one():
    values = polynomial(np.geomspace(1e-3, 1.0, 10_001))
    assert 0.84 < values.min() < values.max() < 1.13


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (8, 8), (5, 40), (40, 5), (30, 33)])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_random_matrices_become_nearly_orthogonal(shape, size):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, *shape)) * size, jnp.float32)
    (factor,) = orthogonalize([x])
    assert factor.shape == x.shape
    assert factor.dtype == x.dtype
    values = singular_values(factor)
    assert np.all((values > 0.84) & (values < 1.13))


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
def test_singular_vectors_stay_and_singular_values_follow_the_polynomials(shape, condition):
    x = matrix(shape, condition)
    (factor,) = orthogonalize([jnp.asarray(x[None], jnp.float32)])
    left, values, right = np.linalg.svd(x, full_matrices=False)
    expected = (left * polynomial(values / np.linalg.norm(x))) @ right
    np.testing.assert_allclose(factor[0], expected, atol=1e-3)


def test_zero_gives_zero_and_its_neighbours_are_not_touched():
    x = jnp.stack([jnp.zeros((3, 4)), jnp.ones((3, 4))])
    factor = polar_factor(x)
    np.testing.assert_array_equal(factor[0], np.zeros((3, 4)))
    np.testing.assert_allclose(factor[1], polar_factor(x[1:])[0], rtol=1e-6)


def test_groups_of_equal_shape_equal_single_matrices():
    shapes = [(2, 3, 5), (1, 5, 3), (1, 4, 4), (3, 3, 5), (1, 2, 9)]
    generator = np.random.default_rng(2)
    stacks = [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes]
    together = orthogonalize(stacks)
    for stack, found in zip(stacks, together, strict=True):
        assert found.shape == stack.shape
        for x, factor in zip(stack, found, strict=True):
            np.testing.assert_allclose(factor, orthogonalize([x[None]])[0][0], rtol=1e-5, atol=1e-6)


def test_no_matrices():
    assert orthogonalize([]) == []


def test_it_does_not_see_the_size_and_turns_with_its_argument():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 4, 6)), jnp.float32)
    (factor,) = orthogonalize([x])
    np.testing.assert_array_equal(orthogonalize([4.0 * x])[0], factor)
    np.testing.assert_array_equal(orthogonalize([-x])[0], -factor)
    np.testing.assert_allclose(orthogonalize([jnp.swapaxes(x, 1, 2)])[0][0], factor[0].T, atol=1e-6)
