"""Fast forms of attention against the array of weights, in float64 to 1e-9 and in float32 to 1e-4."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify
from jax.test_util import check_grads

from learned_opt.flt import (
    Draws,
    Elu,
    FavorPlus,
    Frequencies,
    Relu,
    Softmax,
    attention_step,
    draw,
    fourier_attention,
    init_state,
    sums,
)

from .common import SPECTRUM, setting, spectra, tokens

KERNELS = [FavorPlus(16), Relu(12), Elu(10)]
attention = jax.jit(fourier_attention, static_argnames=("kernel", "causal", "dense"))

# Every kernel goes through the same sums; `make test-all` tests all of them.
one_kernel_often = pytest.mark.parametrize(
    "kernel", [KERNELS[0], *(pytest.param(kernel, marks=pytest.mark.slow) for kernel in KERNELS[1:])]
)


@pytest.fixture(autouse=True, scope="module")
def _short_chunks():
    """Chunks of 4 tokens: short sequences then have several, the last one cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "CHUNK", 4)
        yield


def streamed(q, k, v, positions, spectrum, kernel, draws):
    lead = v.shape[:-2]
    state = init_state(kernel, v.shape[-1], lead, jnp.result_type(v, jnp.float32))

    def step(state, token):
        return attention_step(state, *token, spectrum, kernel=kernel, draws=draws)

    by_time = [jnp.moveaxis(x, -2, 0) for x in (q, k, v)]
    _, out = jax.lax.scan(step, state, (*by_time, positions))
    return jnp.moveaxis(out, 0, -2)


@settings(max_examples=3)
@given(
    st.integers(0, 11),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([(), (2,), (1, 2)]),
    st.sampled_from([1, 2]),
    st.sampled_from(KERNELS),
    st.integers(0, 5),
)
def test_streaming_causal_bidirectional_and_dense_agree(length, size, values, lead, dimension, kernel, seed):
    spectrum, draws = setting(kernel, dimension, size)

    @jax.jit
    def forms(*arrays):
        causal, dense_causal, both, dense_both = (
            attention(*arrays, spectrum, kernel=kernel, draws=draws, causal=causal, dense=dense)
            for causal in (True, False)
            for dense in (False, True)
        )
        return causal, dense_causal, streamed(*arrays, spectrum, kernel, draws), both, dense_both

    arrays = tokens(length, size, values, lead, dimension, seed)
    for dtype, atol in ((jnp.float64, 1e-9), (jnp.float32, 1e-4)):
        causal, dense_causal, stream, both, dense_both = forms(*(x.astype(dtype) for x in arrays))
        assert causal.dtype == both.dtype == stream.dtype == dtype
        np.testing.assert_allclose(causal, dense_causal, atol=atol)
        np.testing.assert_allclose(stream, dense_causal, atol=atol)
        np.testing.assert_allclose(both, dense_both, atol=atol)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("estimated", [True, False])
def test_exact_attention_is_its_equation(causal, estimated):
    q, k, v, positions = tokens(7, dimension=2)
    spectrum, draws = setting(FavorPlus(16), 2)
    if estimated:
        ratio = np.asarray(spectrum.density(draws.frequencies.xi) / draws.frequencies.density)
        turn = 2 * np.pi * (positions[:, None] - positions) @ draws.frequencies.xi.T
        mask = np.cos(turn) @ ratio / len(ratio)
    else:
        mask = spectrum.mask(positions[:, None] - positions)
    weights = np.exp(q @ k.T / 3**0.5 + mask) * (np.tri(7) if causal else 1)
    expected = weights @ v / weights.sum(1, keepdims=True)
    options = {"kernel": Softmax(), "causal": causal, "draws": draws if estimated else None}
    np.testing.assert_allclose(attention(q, k, v, positions, spectrum, **options), expected, atol=1e-12)


def test_many_features_and_frequencies_come_close_to_exact_attention():
    """And stay away from attention without the mask, or with its negative."""
    q, k, v, positions = tokens(10)
    q, k = 0.4 * q, 0.4 * k
    spectrum, kernel = spectra(1)[SPECTRUM], FavorPlus(2048, orthogonal=False)
    generator = np.random.default_rng(0)
    xi = jnp.asarray(generator.standard_t(3, size=(128, 1)))
    density = 2 / (np.pi * 3**0.5 * (1 + xi[:, 0] ** 2 / 3) ** 2)
    draws = Draws(Frequencies(xi, density), jnp.asarray(generator.normal(size=(kernel.rows, 3 + 256))))
    found = attention(q, k, v, positions, spectrum, kernel=kernel, draws=draws)

    def distance(sign):
        other = dataclasses.replace(spectrum, weight=sign * spectrum.weight)
        exact = attention(q, k, v, positions, other, kernel=Softmax())
        return float(jnp.sqrt(jnp.mean((found - exact) ** 2)))

    assert 2 * distance(1) < distance(0) < distance(-1)


@pytest.mark.parametrize(
    ("kernel", "causal"), [(KERNELS[0], False), (KERNELS[0], True), (KERNELS[1], False), (KERNELS[2], True)]
)
def test_gradients(kernel, causal):
    arrays = tokens(6)
    spectrum, draws = setting(kernel)

    @jax.jit
    def attend(q, k, v, positions, spectrum):
        return attention(q, k, v, positions, spectrum, kernel=kernel, causal=causal, draws=draws)

    check_grads(attend, (*arrays, spectrum), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_the_gradient_of_streaming_is_that_of_the_dense_form():
    kernel = KERNELS[0]
    arrays = tokens(6)
    spectrum, draws = setting(kernel)

    def loss(form, *arguments):
        return jnp.sum(jnp.sin(form(*arguments)))

    def dense(*arguments):
        return attention(*arguments, kernel=kernel, draws=draws, causal=True, dense=True)

    def fast(*arguments):
        return streamed(*arguments, kernel, draws)

    expected, found = (
        jax.jit(jax.grad(lambda *a, form=form: loss(form, *a), argnums=(0, 1, 2, 3, 4)))(*arrays, spectrum)
        for form in (dense, fast)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, expected)


@pytest.mark.parametrize("kernel", [*KERNELS, Softmax()])
def test_the_future_changes_nothing(kernel):
    q, k, v, positions = tokens(10)
    spectrum, draws = setting(KERNELS[0] if kernel == Softmax() else kernel)
    later = jnp.arange(10)[:, None] > 5

    def attend(*arrays):
        return attention(*arrays, spectrum, kernel=kernel, causal=True, draws=draws)

    before = attend(q, k, v, positions)[:6]
    changed = [jnp.where(later, 1e3 * x + 1, x) for x in (q, k, v, positions)]
    np.testing.assert_array_equal(attend(*changed)[:6], before)


@one_kernel_often
@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing_whatever_it_holds(kernel, causal):
    q, k, v, positions = tokens(9, lead=(2,))
    spectrum, draws = setting(kernel)
    keep = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0], bool)
    bad = jnp.where(keep[:, None], 0, jnp.nan)
    options = {"kernel": kernel, "causal": causal, "draws": draws}
    padded = attention(q, k + bad, v + bad, positions, spectrum, padding_mask=keep, **options)
    short = attention(q[:, keep], k[:, keep], v[:, keep], positions[keep], spectrum, **options)
    np.testing.assert_allclose(padded[:, keep], short, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_a_query_that_sees_no_key_reads_zero():
    q, k, v, positions = tokens(6)
    keep = np.array([0, 0, 1, 1, 1, 1], bool)
    for kernel in (FavorPlus(16), Softmax()):
        spectrum, draws = setting(FavorPlus(16))
        options = {"kernel": kernel, "draws": draws}
        nothing = attention(q, k, v, positions, spectrum, padding_mask=np.zeros(6, bool), **options)
        np.testing.assert_array_equal(nothing, np.zeros_like(v))
        out = attention(q, k, v, positions, spectrum, padding_mask=keep, causal=True, **options)
        np.testing.assert_array_equal(out[:2], np.zeros((2, 2)))
        np.testing.assert_allclose(out[2], v[2])


def test_nan_in_the_inputs_stays_nan():
    q, k, v, positions = tokens(5, 3, 2)
    spectrum, draws = setting(KERNELS[0])
    out = attention(q.at[2].set(jnp.nan), k, v, positions, spectrum, kernel=KERNELS[0], draws=draws)
    assert np.array_equal(np.isnan(out).all(axis=-1), np.arange(5) == 2)


def test_normalisers_that_are_not_positive_are_reported():
    """One rectified feature sees one side only: queries on the other have weight 0 for every key."""
    kernel = Relu(1, orthogonal=False)
    spectrum, draws = setting(kernel)
    draws = draws._replace(projection=jnp.eye(1, 15))
    q = jnp.array([[1.0, 0, 0], [-1.0, 0, 0], [-2.0, 0, 0]])
    k = v = jnp.abs(q)
    positions = jnp.zeros((3, 1))

    def attend(q, causal=False):
        return fourier_attention(q, k, v, positions, spectrum, kernel=kernel, draws=draws, causal=causal)

    for causal in (False, True):
        with pytest.warns(RuntimeWarning, match="2 of 3 queries have a normaliser that is not positive"):
            out = attend(q, causal)
        np.testing.assert_array_equal(out[1:], np.zeros((2, 3)))
        assert out[0, 0] > 0
    error, out = checkify.checkify(jax.jit(attend))(q)
    assert "2 of 3 queries" in error.get()
    np.testing.assert_array_equal(out[1:], np.zeros((2, 3)))
    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(lambda q: jnp.sum(attend(q))))(q)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_half_precision_is_summed_in_single_and_does_not_overflow(dtype, causal):
    """|k|^2 / 2 is about 1e6 here: its exponential has no float at all, and in float16 not even itself."""
    kernel = FavorPlus(16)
    spectrum, draws = setting(kernel)
    q, k, v, positions = tokens(40)
    q, k, v = (
        (0.01 * q).astype(dtype),
        (1e3 * k / jnp.linalg.norm(k, axis=-1, keepdims=True)).astype(dtype),
        v.astype(dtype),
    )
    out = attention(q, k, v, positions, spectrum, kernel=kernel, draws=draws, causal=causal)
    assert out.dtype == dtype
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    expected = attention(
        *wide, positions.astype(jnp.float32), spectrum, kernel=kernel, draws=draws, causal=causal
    )
    assert jnp.all(jnp.isfinite(out))
    np.testing.assert_allclose(out.astype(float), expected, atol=0.02)


def test_leading_axes_broadcast():
    q, k, v, positions = tokens(5, lead=(2, 3))
    kernel = KERNELS[0]
    spectrum, draws = setting(kernel)
    per_batch = jnp.stack([positions, 2 * positions])[:, None]
    keep = jnp.asarray(np.random.default_rng(0).random((3, 5)) < 0.7)
    options = {"kernel": kernel, "draws": draws, "causal": True}
    out = attention(q[:, :1], k, v[0], per_batch, spectrum, padding_mask=keep, **options)
    assert out.shape == (2, 3, 5, 2)
    for i, j in np.ndindex(2, 3):
        alone = attention(
            q[i, 0], k[i, j], v[0, j], per_batch[i, 0], spectrum, padding_mask=keep[j], **options
        )
        np.testing.assert_allclose(out[i, j], alone, atol=1e-12)


def test_other_keys_and_directed_encodings():
    q, _, _, positions = tokens(4)
    _, k, v, others = tokens(6, seed=1)
    spectrum = spectra(1)[SPECTRUM]
    out = attention(q, k, v, positions, spectrum, kernel=Softmax(), key_positions=others + 0.5)
    weights = np.exp(q @ k.T / 3**0.5 + spectrum.mask(positions[:, None] - others - 0.5))
    np.testing.assert_allclose(out, weights @ v / weights.sum(1, keepdims=True), atol=1e-12)


def test_positions_are_scaled_and_may_be_integers():
    q, k, v, _ = tokens(5)
    spectrum, draws = setting(KERNELS[0])
    steps = jnp.arange(5)[:, None]
    options = {"kernel": KERNELS[0], "draws": draws}
    scaled = attention(q, k, v, steps, spectrum, position_scale=0.2, **options)
    np.testing.assert_allclose(scaled, attention(q, k, v, steps / 5, spectrum, **options), atol=1e-12)


def test_left_out_draws_are_those_of_key_zero():
    q, k, v, positions = tokens(5)
    spectrum, kernel = spectra(1)[SPECTRUM], FavorPlus(8, orthogonal=False)
    draws = draw(jax.random.key(0), spectrum, kernel, head_size=3)
    given, left_out = (attention(q, k, v, positions, spectrum, kernel=kernel, draws=d) for d in (draws, None))
    np.testing.assert_allclose(given, left_out, atol=1e-9)
