"""Attention in sections of tokens against attention all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.flt import FavorPlus, fourier_attention, sums
from learned_opt.flt.attention import _sums

from .common import setting, tokens

KERNEL = FavorPlus(16)


@pytest.fixture(autouse=True, scope="module")
def _short_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "CHUNK", 4)
        yield
    _sums.clear_cache()


@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "length", [7, *(pytest.param(length, marks=pytest.mark.slow) for length in (5, 6, 13))]
)
def test_sections_change_nothing(causal, length, monkeypatch):
    """Sections of 6 tokens, in chunks of 4, give the values and gradients of one section."""
    spectrum, draws = setting(KERNEL)
    keep = np.random.default_rng(length).random((2, length)) < 0.8
    options = {"kernel": KERNEL, "draws": draws, "causal": causal, "padding_mask": keep}

    def run(section):
        monkeypatch.setattr(sums, "SECTION", section)
        _sums.clear_cache()

        def loss(q, k, v, positions, spectrum):
            return jnp.sum(jnp.sin(fourier_attention(q, k, v, positions, spectrum, **options)))

        arrays = tokens(length, lead=(2,))
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4)))(*arrays, spectrum)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), run(6), run(100))


def test_sections_of_other_keys(monkeypatch):
    """More keys than queries, very short and very long, against the array of weights."""
    spectrum, draws = setting(KERNEL)
    q, _, _, positions = tokens(4)
    _, k, v, others = tokens(11, seed=1)
    k = k * jnp.linspace(30, 0, 11)[:, None]
    options = {"kernel": KERNEL, "draws": draws, "key_positions": others}
    expected = fourier_attention(q, k, v, positions, spectrum, dense=True, **options)
    monkeypatch.setattr(sums, "SECTION", 3)
    _sums.clear_cache()
    found = fourier_attention(q, k, v, positions, spectrum, **options)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_features_of_all_tokens():
    """With gradients too: features of one token are 32 times as many numbers as its query."""
    kernel = FavorPlus(64)
    spectrum, draws = setting(kernel, head_size=2)

    @jax.jit
    @jax.grad
    def gradient(q, positions):
        options = {"kernel": kernel, "draws": draws}
        both = (fourier_attention(q, q, q, positions, spectrum, causal=c, **options) for c in (False, True))
        return sum(jnp.sum(out) for out in both)

    def memory(length):
        shapes = (jax.ShapeDtypeStruct((length, size), float) for size in (2, 1))
        return gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    short, long = (memory(sums.SECTION * number) for number in (100, 200))
    assert (long - short) / (100 * sums.SECTION) < 8 * 64
