"""Masks of positions: exponential, Toeplitz, block-Toeplitz, Kronecker."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.masks import BlockToeplitz, Diffusion, Exponential, Graph, Kronecker, Toeplitz, toeplitz

from .common import make, rows, values


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_toeplitz_with_exponential_values_is_exponential():
    lags = np.arange(-9, 10)
    toeplitz = Toeplitz(np.where(lags >= 0, np.exp(-0.3 * np.abs(lags)), 0))
    exponential = Exponential(0.3, 10)
    np.testing.assert_allclose(toeplitz.dense(), exponential.dense(), atol=1e-12)
    x = rows(exponential)
    np.testing.assert_allclose(toeplitz.apply(x), exponential.apply(x), atol=1e-12)


def test_exponential_one_step_at_a_time():
    mask = Exponential(0.2, 7)
    x, state = rows(mask), jnp.zeros(2)
    for row, expected in zip(x, mask.apply(x), strict=True):
        state = mask.step(state, row)
        np.testing.assert_allclose(state, expected, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_block_toeplitz_against_a_double_loop(causal):
    grid = (3, 4)
    table = values(np.random.default_rng(0), *grid)
    positions = list(itertools.product(*map(range, grid)))
    expected = np.zeros((12, 12))
    for (i, a), (j, b) in itertools.product(enumerate(positions), repeat=2):
        if not causal or a[0] >= b[0]:
            expected[i, j] = table[a[0] - b[0] + 2, a[1] - b[1] + 3]
    np.testing.assert_array_equal(BlockToeplitz(table, causal).dense(), expected)


@pytest.mark.parametrize("shape", [(15,), (3, 5), (5, 1, 3)])
def test_blocks_of_columns(shape, monkeypatch):
    """Eleven columns in blocks of 4, the last one cut, are those that are multiplied all at once."""
    monkeypatch.setattr(toeplitz, "_CACHED", 1)
    mask = BlockToeplitz(values(np.random.default_rng(0), *shape))
    x = rows(mask, columns=11)

    def loss(product, values, x):
        return jnp.sum(jnp.sin(product(BlockToeplitz(values), x)))

    found, expected = (
        jax.value_and_grad(loss, argnums=(1, 2))(product, mask.values, x)
        for product in (BlockToeplitz.apply, lambda mask, x: mask.dense() @ x)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, expected)


def test_kronecker_is_the_product_of_numpy():
    factors = tuple(make(name, 3, seed) for seed, name in enumerate(["tree", "toeplitz", "diffusion"]))
    expected = np.kron(np.kron(*(factor.dense() for factor in factors[:2])), factors[2].dense())
    np.testing.assert_allclose(Kronecker(factors).dense(), expected, atol=1e-12)


def test_a_grid_is_a_product_where_its_values_are():
    first, second = (values(np.random.default_rng(seed), n) for seed, n in enumerate((4, 3)))
    product = Kronecker((Toeplitz(first), Toeplitz(second)))
    block = BlockToeplitz(first[:, None] * second)
    x = rows(block)
    np.testing.assert_allclose(block.apply(x), product.apply(x), atol=1e-12)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"values has shape \(4,\): expected odd lengths"):
        Toeplitz(jnp.ones(4)).apply(jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"values has shape \(3, 5\): expected \[2L - 1\]"):
        Toeplitz(jnp.ones((3, 5))).apply(jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"values has shape \(3, 4\)"):
        BlockToeplitz(jnp.ones((3, 4))).dense()
    with pytest.raises(ValueError, match="length=-1"):
        Exponential(0.1, -1).apply(jnp.ones((1, 1)))


def test_factors_check_their_values():
    bad = Diffusion(-1.0, Graph.from_edges(2, [(0, 1)]))
    with pytest.raises(ValueError, match="time=-1"):
        Kronecker((Exponential(0.1, 2), bad)).apply(jnp.ones((4, 1)))
