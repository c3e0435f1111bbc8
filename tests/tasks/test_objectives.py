"""Losses and targets with a meaning of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from tasks import batches, get, losses
from tasks.families import band_limited, band_limited_slopes
from tasks.models import language_transformer, mlp, with_slopes

RANDOM = np.random.default_rng(0)


def settings(**changed):
    plain = {"scale": 1.0, "head": 1.0, "embed": 1.0, "activation": 0.5, "condition": 0.0}
    return {name: jnp.float32(value) for name, value in (plain | changed).items()}


def test_poisson_is_lowest_where_rates_are_the_counts():
    counts = jnp.asarray([[0.0, 1.0, 7.0], [2.0, 16.0, 3.0]])
    at_counts = losses.poisson(jnp.log(counts + 1e-12), counts)
    slope = jax.grad(losses.poisson)(jnp.zeros_like(counts), counts)

    assert float(at_counts) == pytest.approx(losses.FLOOR, abs=1e-6)
    np.testing.assert_allclose(slope, (1.0 - counts) / counts.size, rtol=1e-6)
    assert np.isfinite(losses.poisson(jnp.full_like(counts, 1e4), counts))


def test_contrastive_loss_knows_which_rows_belong_together():
    codes = jnp.asarray(np.linalg.qr(RANDOM.normal(size=(8, 8)))[0], jnp.float32)

    right, wrong = losses.contrastive(codes, 3.0 * codes), losses.contrastive(codes, codes[::-1])

    others = np.exp(-1 / 0.2)  # of each of seven orthogonal rows, beside 1 for its own
    assert float(right) == pytest.approx(np.log1p(7 * others), abs=1e-4)
    assert float(wrong) == pytest.approx(np.log1p(7 * others) + 1 / 0.2, abs=1e-3)
    assert np.isfinite(jax.grad(losses.contrastive)(jnp.zeros((8, 8)), codes)).all()


def differences(value, x, step=1e-2):
    shifts = step * np.eye(2, dtype=np.float32)
    return np.stack([(value(x + shift) - value(x - shift))[:, 0] / (2 * step) for shift in shifts], -1)


def test_slopes_are_derivatives_of_target_and_network():
    x = jnp.asarray(RANDOM.uniform(-1, 1, (16, 2)), jnp.float32)
    config = settings() | {"key": random.key(0)}

    _, found = band_limited_slopes(x, None, config)
    expected = differences(lambda x: band_limited(x, None, config)[1], x)
    np.testing.assert_allclose(found[:, :1], band_limited(x, None, config)[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 1:], 0.2 * expected, atol=2e-3)

    network = mlp(2, 16, 1, bias=0.5)
    params = network.init(random.key(1), config)
    outputs = with_slopes(network).apply(params, x, config)
    expected = differences(lambda x: network.apply(params, x, config), x)
    np.testing.assert_allclose(outputs[:, :1], network.apply(params, x, config), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs[:, 1:], 0.2 * expected, atol=1e-3)


def test_views_are_two_noisy_copies_of_the_same_rows():
    train = get("digits_contrastive").data().train
    left, right = batches.views(512, {})(random.key(0), train, settings())["x"]

    assert float(jnp.mean(left == 0)) == pytest.approx(0.25, abs=0.01)
    kept = np.asarray((left != 0) & (right != 0))
    noise = np.asarray(left - right)[kept]
    assert noise.std() == pytest.approx(0.5 * 2**0.5, rel=0.02)


def test_counts_are_pixels_as_they_are():
    family = get("digits_poisson")
    batch = family.batch(random.key(0), family.data().valid, family.sample(random.key(1)))

    assert batch["y"].shape == (48, 32)
    assert set(np.unique(batch["y"])) <= set(range(17))


def test_a_tied_head_is_the_embedding():
    config = settings()
    tied, free = (language_transformer(16, 1, 8, tied=each) for each in (True, False))
    params = tied.init(random.key(0), config)
    text = jnp.asarray(RANDOM.integers(0, 128, (2, 8)))

    untied = {**params, "head": {"kernel": params["embed"].T}}
    np.testing.assert_array_equal(tied.apply(params, text, config), free.apply(untied, text, config))
    assert "head" not in params
