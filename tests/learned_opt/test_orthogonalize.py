"""Polar factors against singular value decompositions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import flt_optimizer
from learned_opt.optimizer.orthogonalize import (
    LARGE,
    LONG,
    LOWEST,
    POLYNOMIALS,
    SAFETY,
    orthogonalize,
    polar_factor,
)

FARTHEST = 0.22  # as documented: from 1, of what LOWEST to 1 becomes


def matrix(shape: tuple[int, int], condition: float, seed: int = 0) -> np.ndarray:
    """A matrix with singular values from 1 down to 1 / condition, evenly in the logarithm."""
    generator = np.random.default_rng(seed)
    small = min(shape)
    left, right = (np.linalg.qr(generator.normal(size=(side, small)))[0] for side in shape)
    return (left * np.geomspace(1.0, 1.0 / condition, small)) @ right.T


def singular_values(x: jax.Array) -> np.ndarray:
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def bound(values: np.ndarray) -> float:
    """The unit in which the singular values of a matrix are measured."""
    return (values**8).sum() ** (1 / 8)


def polynomial(values: np.ndarray) -> np.ndarray:
    """What the composed polynomials make of singular values in units of the bound."""
    for a, b, c in POLYNOMIALS:
        values = a * values + b * values**3 + c * values**5
    return values


def minimax(low: float, high: float) -> tuple[np.ndarray, float]:
    """The odd polynomial of degree 5 nearest to 1 on [low, high], and its distance, by Remez's exchange.

    The error of the best one takes its largest size at both ends and two points between, in alternating
    directions (Chebyshev). Given four points, the equations are linear; the next points are where the
    derivative is zero.
    """
    inner = np.asarray([(3 * low + high) / 4, (low + 3 * high) / 4])
    for _ in range(30):
        x = np.asarray([low, *inner, high])
        *coefficients, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], -1), np.ones(4))
        a, b, c = coefficients
        inner = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
    return np.asarray(coefficients), error


def test_each_polynomial_is_the_best_on_what_the_one_before_leaves():
    low, high = LOWEST, 1.0
    for found in POLYNOMIALS:
        best, error = minimax(low, SAFETY * high)
        np.testing.assert_allclose(found, best, rtol=1e-8)
        low, high = 1 - error, 1 + error


def test_the_polynomials_go_to_one():
    values = polynomial(np.geomspace(LOWEST, 1.0, 10_001))
    distance = np.abs(values - 1).max()
    assert FARTHEST - 0.02 < distance < FARTHEST
    small = polynomial(np.geomspace(1e-9, LOWEST, 1001))
    assert np.all(np.diff(small) > 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (8, 8), (5, 40), (40, 5), (30, 33)])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_random_matrices_become_nearly_orthogonal(shape, size):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, *shape)) * size, jnp.float32)
    (factor,) = orthogonalize([x])
    assert factor.shape == x.shape
    assert factor.dtype == x.dtype
    assert np.abs(singular_values(factor) - 1).max() < FARTHEST


@pytest.mark.parametrize("condition", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9), (12, 48), (48, 12)])
def test_singular_vectors_stay_and_singular_values_follow_the_polynomials(shape, condition):
    x = matrix(shape, condition)
    (factor,) = orthogonalize([jnp.asarray(x[None], jnp.float32)])
    left, values, right = np.linalg.svd(x, full_matrices=False)
    expected = (left * polynomial(values / bound(values))) @ right
    np.testing.assert_allclose(factor[0], expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(9, 12), (9, 9 * LONG)])
@jax.enable_x64(True)
def test_in_double_precision_they_follow_to_the_last_digits(shape):
    x = matrix(shape, 100.0)
    factor = polar_factor(jnp.asarray(x))
    left, values, right = np.linalg.svd(x, full_matrices=False)
    expected = (left * polynomial(values / bound(values))) @ right
    assert factor.dtype == jnp.float64
    np.testing.assert_allclose(factor, expected, atol=1e-12)


@jax.enable_x64(True)
def test_a_matrix_of_rank_one():
    """The bound is the only singular value there."""
    left, right = np.linspace(0.1, 1.0, 6), np.linspace(-1.0, 1.0, 9)
    found = polar_factor(jnp.asarray(np.outer(left, right)))
    expected = np.outer(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
    np.testing.assert_allclose(found, polynomial(np.ones(())) * expected, atol=1e-12)


def test_zero_gives_zero_and_its_neighbours_are_not_touched():
    x = jnp.stack([jnp.zeros((3, 4)), jnp.ones((3, 4)), jnp.full((3, 4), jnp.nan)])
    factor = polar_factor(x)
    np.testing.assert_array_equal(factor[0], np.zeros((3, 4)))
    np.testing.assert_allclose(factor[1], polar_factor(x[1:2])[0], rtol=1e-6)
    assert np.isnan(factor[2]).all()


@jax.enable_x64(True)  # which kernel multiplies a batch, and so its rounding, depends on the machine
def test_groups_of_equal_shape_equal_single_matrices():
    shapes = [
        (2, 3, 5),
        (1, 5, 3),
        (1, 4, 4),
        (3, 3, 5),
        (1, 2, 9),
        (1, 20, LARGE // 20 + 1),
        (1, LARGE // 20 + 1, 20),
    ]
    generator = np.random.default_rng(2)
    stacks = [jnp.asarray(generator.normal(size=shape)) for shape in shapes]
    together = orthogonalize(stacks)
    for stack, found in zip(stacks, together, strict=True):
        assert found.shape == stack.shape
        for x, factor in zip(stack, found, strict=True):
            np.testing.assert_allclose(factor, orthogonalize([x[None]])[0][0], rtol=1e-9, atol=1e-12)


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(jnp.bfloat16).astype(np.float64)


def rounded_factor(x: np.ndarray) -> np.ndarray:
    """What `polar_factor` computes with operands of bfloat16, all else in double precision."""
    x = x / np.linalg.norm(x)
    for step, (a, b, c) in enumerate(POLYNOMIALS):
        gram = rounded(x) @ rounded(x).T
        square = rounded(gram) @ rounded(gram)
        scale = 1.0 if step else np.linalg.norm(square) ** -0.25
        gram, square, x = scale**2 * gram, scale**4 * square, scale * x
        x = rounded(a * np.eye(len(x)) + b * gram + c * square) @ rounded(x)
    return x


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (64, 96)])
@jax.enable_x64(True)
def test_operands_are_rounded_and_nothing_else(shape):
    x = np.random.default_rng(4).normal(size=shape)
    found = polar_factor(jnp.asarray(x), jnp.dtype(jnp.bfloat16))
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, rounded_factor(x), atol=1e-10)
    assert np.abs(singular_values(found) - 1).max() < FARTHEST + 0.02
    exact = polar_factor(jnp.asarray(x))
    assert np.linalg.norm(found - exact) < 0.06 * np.linalg.norm(exact)  # as documented


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0, 1e3, 1e6])
@jax.enable_x64(True)
def test_two_polynomials_at_once_bear_the_rounding_of_a_gpu(condition):
    """Factors of float16 have as many bits as TF32, in which a GPU multiplies float32."""
    x = jnp.asarray(matrix((64, 64 * LONG), condition))
    found, exact = polar_factor(x, jnp.dtype(jnp.float16)), polar_factor(x)
    assert np.linalg.norm(found - exact) < 0.02 * np.linalg.norm(exact)
    assert singular_values(found).max() < 1 + FARTHEST + 0.01


def test_long_matrices_take_fewer_operations():
    """In products of square matrices, r columns a row: 4 (2 r + 1), or for each of two pairs 2 r + 5.

    Not with factors of bfloat16, with which two at once lose too much.
    """

    def products_of_squares(ratio: int, operands: jnp.dtype | None = None) -> float:
        lowered = jax.jit(partial(polar_factor, operands=operands)).lower(jnp.ones((64, 64 * ratio)))
        return lowered.cost_analysis()["flops"] / (2 * 64**3)

    assert products_of_squares(1) == pytest.approx(12, rel=0.1)
    assert products_of_squares(4) == pytest.approx(26, rel=0.1)
    assert products_of_squares(4, jnp.bfloat16) == pytest.approx(36, rel=0.1)


def products(function, *arguments, platform: str) -> set[str]:
    """What a program for a platform multiplies matrices of, such as "bf16"."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line]
    return {line.split(" : ")[-1].split(">")[0].split("x")[-1] for line in lines}


@pytest.mark.parametrize("count", [1, 3])
def test_only_a_gpu_rounds_operands(count):
    x = jnp.ones((count, 256, 256))
    for operands in (None, jnp.dtype(jnp.bfloat16)):
        assert products(lambda x, d=operands: orthogonalize([x], [d]), x, platform="cpu") == {"f32"}
    assert products(lambda x: orthogonalize([x]), x, platform="cuda") == {"f32"}
    assert products(lambda x: orthogonalize([x], [jnp.dtype(jnp.bfloat16)]), x, platform="cuda") == {"bf16"}


def test_operands_of_one_matrix_are_not_those_of_its_equals():
    x = jnp.ones((1, 4, 6))
    some = [None, jnp.dtype(jnp.bfloat16), None]
    assert products(lambda x: orthogonalize([x, x, x], some), x, platform="cuda") == {"f32", "bf16"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_half_precision_parameters_have_products_of_bfloat16_on_a_gpu(dtype):
    params = {"w": jnp.ones((8, 6), dtype)}
    optimizer = flt_optimizer(total_steps=10)
    found = products(optimizer.update, params, optimizer.init(params), params, platform="cuda")
    assert ("bf16" in found) == (dtype != "float32")


def test_no_matrices():
    assert orthogonalize([]) == []


def test_it_does_not_see_the_size_and_turns_with_its_argument():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 4, 6)), jnp.float32)
    (factor,) = orthogonalize([x])
    np.testing.assert_array_equal(orthogonalize([4.0 * x])[0], factor)
    np.testing.assert_array_equal(orthogonalize([-x])[0], -factor)
    np.testing.assert_allclose(orthogonalize([jnp.swapaxes(x, 1, 2)])[0][0], factor[0].T, atol=1e-6)
