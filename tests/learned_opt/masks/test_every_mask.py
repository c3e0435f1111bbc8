"""What holds for every mask: the fast product is the dense one, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from learned_opt.masks import Mask

from .common import MASKS, make, rows

every = pytest.mark.parametrize("name", MASKS)
# Those that differ from another only in what is around it are tested in full by `make test-all`.
compiled_often = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] * (name in ("pytree", "kronecker", "block_toeplitz", "fourier"))
        )
        for name in MASKS
    ],
)


@pytest.fixture(autouse=True)
def _float64(request):
    with jax.enable_x64("float32" not in request.function.__name__):
        yield


def close(found: jax.Array, expected: jax.Array, tolerance: float = 1e-9) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(
        found, expected, rtol=tolerance, atol=tolerance * max(1, np.abs(expected).max(initial=0))
    )


@compiled_often
@settings(max_examples=3)
@given(n=st.integers(2, 12), batch=st.lists(st.integers(1, 2), max_size=2), seed=st.integers(0, 99))
def test_apply_is_the_dense_product(name, n, batch, seed):
    mask = make(name, n, seed)
    x = rows(mask, *batch)
    close(mask.apply(x), mask.dense() @ x)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [*((name, jnp.float32, 1e-4) for name in MASKS), ("toeplitz", jnp.bfloat16, 1e-2)],
)
def test_apply_in_float32_and_below(name, dtype, tolerance):
    mask = make(name, 12)
    x = rows(mask, dtype=dtype)
    out = mask.apply(x)
    assert out.dtype == dtype
    close(out.astype(float), mask.dense() @ x.astype(float), tolerance)


@every
@pytest.mark.parametrize("n", [0, 1])
def test_no_token_and_one(name, n):
    mask = make(name, n)
    x = rows(mask, 2)
    assert mask.dense().shape == (mask.size, mask.size)
    close(mask.apply(x), mask.dense() @ x)
    gradient = jax.grad(lambda mask: jnp.sum(mask.apply(x)))(mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@compiled_often
def test_gradients_against_finite_differences(name):
    mask = make(name, 5)
    assert jax.tree.leaves(mask)
    apply = jax.jit(lambda mask, x: jnp.sin(mask.apply(x)))
    check_grads(apply, (mask, rows(mask)), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


@every
def test_jit_and_vmap_over_mask_and_rows(name):
    traces = []

    @jax.jit
    @jax.vmap
    def apply(mask: Mask, x: jax.Array) -> jax.Array:
        traces.append(name)
        return mask.apply(x)

    masks = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, 0.1 * leaf]), make(name, 6))
    x = rows(make(name, 6), 3)
    apply(masks, x)
    found = apply(jax.tree.map(lambda leaf: 0.9 * leaf, masks), x)
    for index in range(3):
        one = jax.tree.map(lambda leaf, index=index: 0.9 * leaf[index], masks)
        close(found[index], one.dense() @ x[index])
    assert len(traces) == 1


@every
def test_rows_must_fit(name):
    mask = make(name, 4)
    with pytest.raises(ValueError, match=rf"x has shape \({mask.size + 1}, 2\): expected .* L = {mask.size}"):
        mask.apply(jnp.ones((mask.size + 1, 2)))
    with pytest.raises(ValueError, match="expected"):
        mask.apply(jnp.ones(mask.size))
    with pytest.raises(TypeError, match="int64: expected real floating point"):
        mask.apply(jnp.ones((mask.size, 2), int))
