"""Arguments that do not fit are rejected with their names, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.flt import (
    FavorPlus,
    Softmax,
    attention_step,
    draw,
    encode,
    fourier_attention,
    init_state,
)

from .common import spectra, tokens

Q, K, V, R = tokens(4)
SPECTRUM = spectra(1)["laplace"]
KERNEL = FavorPlus(8, orthogonal=False)


def attend(q=Q, k=K, v=V, positions=R, spectrum=SPECTRUM, kernel=KERNEL, **options):
    return fourier_attention(q, k, v, positions, spectrum, kernel=kernel, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"q": Q[0]}, ValueError, r"q has shape \(3,\): expected \[..., tokens, size\]"),
        ({"k": K[:, :2]}, ValueError, r"k has shape \(4, 2\): expected \[..., tokens, 3\]"),
        ({"v": V[:3]}, ValueError, r"v has shape \(3, 2\): expected \[..., 4, size\]"),
        ({"positions": R[:3]}, ValueError, r"positions has shape \(3, 1\): expected \[..., 4, 1\]"),
        ({"positions": R[:, 0]}, ValueError, r"positions has shape \(4,\)"),
        ({"spectrum": spectra(2)["laplace"]}, ValueError, r"positions .* expected \[..., 4, 2\]"),
        ({"key_positions": R[:3]}, ValueError, "key_positions has shape"),
        ({"padding_mask": np.ones(3, bool)}, ValueError, "padding_mask has shape"),
        ({"padding_mask": np.ones(4)}, TypeError, "padding_mask has dtype float64: expected bool"),
        ({"q": Q.astype(jnp.int32)}, TypeError, "q has dtype int32: expected a floating-point"),
        ({"v": V + 1j}, TypeError, "v has dtype complex64"),
        ({"positions": R + 1j}, TypeError, "positions has dtype complex64: expected real"),
        ({"positions": R * np.nan}, ValueError, "positions holds values that are not finite"),
        ({"key_positions": R + np.inf}, ValueError, "key_positions holds values that are not finite"),
        (
            {"k": K[:3], "v": V[:3], "key_positions": R[:3], "causal": True},
            ValueError,
            "4 queries and 3 keys",
        ),
        ({"q": Q[None].repeat(2, 0), "k": K[None].repeat(3, 0)}, ValueError, r"q \(2,\), k \(3,\), v \(\)"),
        ({"spectrum": None}, TypeError, "spectrum = None: expected a Spectrum"),
        ({"kernel": "favor"}, TypeError, "kernel = 'favor': expected a Kernel or Softmax"),
    ],
)
def test_arguments_of_attention(arguments, error, message):
    with pytest.raises(error, match=message):
        attend(**arguments)


def test_draws_for_something_else():
    draws = draw(jax.random.key(0), SPECTRUM, KERNEL, head_size=2, frequencies=5)
    with pytest.raises(
        ValueError, match=r"projection has shape \(4, 12\): expected \(4, 13\) .*; draw again"
    ):
        attend(draws=draws)
    with pytest.raises(ValueError, match=r"projection has shape \(4, 12\): expected \(3, 12\)"):
        attend(q=Q[:, :2], k=K[:, :2], kernel=FavorPlus(6), draws=draws)
    with pytest.raises(ValueError, match=r"draws.frequencies.xi has shape \(5, 1\): expected \(5, 2\)"):
        attend(q=Q[:, :2], k=K[:, :2], positions=R.repeat(2, 1), spectrum=spectra(2)["laplace"], draws=draws)


def test_streams():
    draws = draw(jax.random.key(0), SPECTRUM, KERNEL, head_size=3, frequencies=5)
    with pytest.raises(TypeError, match="no finite features"):
        init_state(Softmax(), 2)
    with pytest.raises(ValueError, match=r"state.sums has shape \(8, 4\): expected \(8, 3\)"):
        attention_step(init_state(KERNEL, 3), Q[0], K[0], V[0], R[0], SPECTRUM, kernel=KERNEL, draws=draws)


def test_encodings():
    frequencies = SPECTRUM.sample(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"positions has shape \(4, 2\)"):
        encode(jnp.zeros((4, 2)), SPECTRUM, frequencies)
