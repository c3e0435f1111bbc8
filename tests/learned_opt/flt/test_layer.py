"""The Haiku layer against one call of attention a head."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.flt import (
    FavorPlus,
    FourierAttention,
    LorentzianMixture,
    ShiftInvariant,
    Softmax,
    draw,
    fourier_attention,
)

from .common import arrays, spectra

HEADS, SIZE, LENGTH = 2, 3, 6
START = spectra(1)["lorentzian"]
KERNEL = FavorPlus(8, orthogonal=False)
X = np.random.default_rng(0).normal(size=(2, LENGTH, 5))
POSITIONS = np.arange(LENGTH)[:, None] / 2


def layer(kernel=KERNEL, spectrum=START, **options):
    def run(x, positions, padding_mask=None):
        module = FourierAttention(HEADS, SIZE, spectrum, kernel=kernel, frequencies=4, **options)
        return module(x, positions, padding_mask)

    return hk.without_apply_rng(hk.transform(run))


@pytest.fixture(scope="module")
def params():
    found = jax.jit(layer().init)(jax.random.key(0), X, POSITIONS)
    moved = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.1 * moved.normal(size=leaf.shape), found)


def by_hand(params, kernel, **options):
    own = params["fourier_attention"]

    def linear(name, x):
        weights = params[f"fourier_attention/{name}"]
        return x @ weights["w"] + weights["b"]

    q, k, v = (linear(name, X).reshape(*X.shape[:2], HEADS, SIZE) for name in "qkv")
    keys, outs = jax.random.split(jax.random.key(0), HEADS), []
    for head in range(HEADS):
        spectrum = LorentzianMixture(
            own["weight"][head], jnp.exp(own["log_rate"][head]), own["frequency"][head], own["phase"][head]
        )
        draws = None
        if kernel != Softmax():
            draws = draw(keys[head], START, kernel, head_size=SIZE, frequencies=4)
        out = fourier_attention(
            *(x[:, :, head] for x in (q, k, v)), POSITIONS, spectrum, kernel=kernel, draws=draws, **options
        )
        outs.append(out)
    return linear("out", jnp.concatenate(outs, axis=-1))


@pytest.mark.parametrize("kernel", [KERNEL, Softmax()])
@pytest.mark.parametrize("causal", [True, False])
def test_every_head_has_its_own_spectrum_and_draws(params, kernel, causal):
    keep = np.array([[1, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 0]], bool)
    run = jax.jit(layer(kernel, causal=causal).apply)
    expected = by_hand(params, kernel, causal=causal, padding_mask=keep)
    np.testing.assert_allclose(run(params, X, POSITIONS, keep), expected, atol=1e-9)


def test_parameters_start_where_the_spectrum_does():
    found = jax.eval_shape(layer().init, jax.random.key(0), X, POSITIONS)["fourier_attention"]
    assert set(found) == {"weight", "log_rate", "frequency", "phase"}
    assert {leaf.shape for leaf in found.values()} == {(HEADS, 2)}
    found = jax.jit(layer().init)(jax.random.key(0), X, POSITIONS)["fourier_attention"]
    for row in found["log_rate"]:
        np.testing.assert_allclose(jnp.exp(row), START.rate, rtol=1e-12)


def test_the_spectrum_is_learned_and_the_draws_are_not(params):
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(layer().apply(p, X, POSITIONS) ** 2)))(params)
    for leaf in gradient["fourier_attention"].values():
        assert jnp.all(jnp.isfinite(leaf))
        assert jnp.all(leaf != 0)


def test_the_seed_chooses_the_draws(params):
    one, same, other = (jax.jit(layer(seed=seed).apply)(params, X, POSITIONS) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_padding_and_empty_sequences(params):
    run = jax.jit(layer(causal=True).apply)
    keep = np.arange(LENGTH) < 4
    padded = run(params, X + np.where(keep[:, None], 0.0, 7.0), POSITIONS, keep)
    np.testing.assert_allclose(padded[:, :4], run(params, X[:, :4], POSITIONS[:4]), atol=1e-9)
    assert run(params, X[:, :0], POSITIONS[:0]).shape == (2, 0, 5)
    np.testing.assert_allclose(run(params, X[:, :1], POSITIONS[:1]), padded[:, :1], atol=1e-9)


def test_half_precision_in_half_precision_out(params):
    assert jax.eval_shape(layer().apply, params, X.astype(jnp.bfloat16), POSITIONS).dtype == jnp.bfloat16


def test_bad_arguments_are_named(params):
    with pytest.raises(ValueError, match=r"ShiftInvariant.length = .* positive"):
        layer(spectrum=ShiftInvariant(*arrays(1.0, [0.0]))).init(jax.random.key(0), X, POSITIONS)
    with pytest.raises(ValueError, match="positions holds values that are not finite"):
        layer().apply(params, X, POSITIONS * np.nan)
    with pytest.raises(ValueError, match=r"positions has shape \(6, 2\)"):
        layer().apply(params, X, np.zeros((6, 2)))
    with pytest.raises(ValueError, match="heads = 0, head_size = 3"):
        hk.transform(lambda: FourierAttention(0, 3, START)).init(jax.random.key(0))
