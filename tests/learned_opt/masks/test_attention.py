"""Masked attention against the dense formula."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from learned_opt.masks import (
    Exponential,
    MaskedAttention,
    Toeplitz,
    elu_features,
    masked_attention,
    relu_features,
)

from .common import make


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def inputs(size: int, *batch: int, features: int = 5, width: int = 3) -> list[jax.Array]:
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=(*batch, size, n))) for n in (features, features, width)]


def dense(q, k, v, matrix, kernel):
    weights = matrix * (kernel(q) @ jnp.swapaxes(kernel(k), -1, -2))
    return weights @ v / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["block_toeplitz_causal", "tree", "diffusion", "random_walk_sampled"])
def test_against_the_dense_formula(name):
    mask = make(name, 4)
    mask = jax.tree.map(jnp.abs, mask)  # Toeplitz values of any sign make no averages
    q, k, v = inputs(mask.size, 2)
    found = masked_attention(q, k, v, mask)
    np.testing.assert_allclose(found.values, dense(q, k, v, mask.dense(), elu_features), atol=1e-9)
    assert (found.normalizer > 0).all()


@pytest.mark.parametrize(("features", "width"), [(1, 1), (7, 1), (8, 3)])
def test_blocks_of_any_shape(features, width):
    q, k, v = inputs(9, features=features, width=width)
    mask = Exponential(0.2, 9)
    found = masked_attention(q, k, v, mask, relu_features).values
    np.testing.assert_allclose(found, dense(q, k, v, mask.dense(), relu_features), atol=1e-9)


def test_gradients():
    mask = Exponential(jnp.asarray(0.2), 4)
    attend = jax.jit(lambda *args: masked_attention(*args).values)
    check_grads(attend, (*inputs(4), mask), order=1, modes=["rev"])


def test_bfloat16_values():
    q, k, v = (x.astype(jnp.bfloat16) for x in inputs(9))
    mask = Exponential(0.2, 9)
    found = masked_attention(q, k, v, mask)
    assert (found.values.dtype, found.normalizer.dtype) == (jnp.bfloat16, jnp.float32)
    expected = dense(*(x.astype(float) for x in (q, k, v)), mask.dense(), elu_features)
    np.testing.assert_allclose(found.values.astype(float), expected, atol=0.03)


def test_a_causal_mask_sees_no_future():
    mask = Exponential(0.1, 8)
    q, k, v = inputs(8)
    before = masked_attention(q, k, v, mask).values
    after = masked_attention(q, k.at[5:].set(9.0), v.at[5:].set(-100.0), mask).values
    np.testing.assert_allclose(before[:5], after[:5], atol=1e-12)
    assert np.abs(before[5:] - after[5:]).max() > 1


def test_normalisers_that_are_not_positive():
    q, k, v = inputs(3)
    negative = Toeplitz(jnp.array([0.0, 0.0, -1.0, 0.0, 0.0]))
    found = jax.jit(masked_attention)(q, k, v, negative)
    assert (found.normalizer < 0).all()
    np.testing.assert_array_equal(found.values, 0)
    gradients = jax.jit(
        jax.grad(lambda v, mask: masked_attention(q, k, v, mask).values.sum(), argnums=(0, 1))
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients(v, negative)))
    with pytest.warns(UserWarning, match="3 of 3 normalisers are not positive"):
        masked_attention(q, k, v, negative)
    assert np.isnan(masked_attention(q, k, v.at[0].set(np.nan), Exponential(0.1, 3)).values).all()


def test_no_token_and_one():
    for size in (0, 1):
        q, k, v = inputs(size)
        np.testing.assert_allclose(masked_attention(q, k, v, Exponential(0.1, size)).values, v, atol=1e-12)


def test_bad_shapes():
    q, k, v = inputs(4)
    for args in ((q, k[:3], v), (q, k, v[:3]), (q[None], k, v), (q[:3], k[:3], v[:3])):
        with pytest.raises(ValueError, match=r"expected q and k \[..., L, d_k\].* L = 4"):
            masked_attention(*args, Exponential(0.1, 4))
    with pytest.raises(TypeError, match="v has dtype int64: expected real floating point"):
        masked_attention(q, k, v.astype(int), Exponential(0.1, 4))
    with pytest.raises(ValueError, match=r"kernel made \(4,\) of \(4, 5\)"):
        masked_attention(q, k, v, Exponential(0.1, 4), lambda x: x[:, 0])


def test_memory_is_linear():
    """Neither an L x L matrix nor all m (d + 1) columns are there at once, forwards and backwards."""

    def temporary(length: int, features: int, width: int) -> int:
        q, k, v = inputs(length, features=features, width=width)
        mask = Toeplitz(jnp.ones(2 * length - 1))
        run = jax.jit(jax.grad(lambda v: masked_attention(q, k, v, mask).values.sum()))
        return run.lower(v).compile().memory_analysis().temp_size_in_bytes

    small, long, wide = temporary(512, 32, 31), temporary(2048, 32, 31), temporary(512, 128, 127)
    assert long < 4.5 * small
    assert wide < 4.5 * small
    assert wide < 512 * 128 * 128 * 8 / 2  # of all columns


def test_layer():
    mask = Exponential(jnp.asarray(0.3, jnp.float32), 6)
    x = jax.random.normal(jax.random.key(0), (2, 6, 4), jnp.float32)

    def build(masks):
        return lambda x: MaskedAttention(num_heads=2, key_size=3, model_size=5)(x, masks)

    one, each = (hk.without_apply_rng(hk.transform(build(masks))) for masks in (mask, [mask, mask]))
    theta = one.init(jax.random.key(1), x)
    assert {name: x["w"].shape for name, x in theta.items()} == {
        "masked_attention/query": (4, 6),
        "masked_attention/key": (4, 6),
        "masked_attention/value": (4, 6),
        "masked_attention/output": (6, 5),
    }
    out = jax.jit(one.apply)(theta, x)
    assert out.shape == (2, 6, 5)
    np.testing.assert_allclose(out, jax.jit(each.apply)(theta, x), atol=1e-5)
    q, k, v = (x @ theta[f"masked_attention/{name}"]["w"] for name in ("query", "key", "value"))
    heads = [
        dense(*(y[..., 3 * h : 3 * h + 3] for y in (q, k, v)), mask.dense(), elu_features) for h in (0, 1)
    ]
    expected = jnp.concatenate(heads, -1) @ theta["masked_attention/output"]["w"]
    np.testing.assert_allclose(out, expected, atol=1e-5)
    with pytest.raises(ValueError, match="1 masks for 2 heads"):
        hk.transform(build([mask])).init(jax.random.key(0), x)
