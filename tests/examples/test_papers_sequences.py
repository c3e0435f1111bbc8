"""The language model and the images of the papers' experiments: tiny runs, and the masks that they share."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

KINDS = ("FLT, mixture", "softmax, local")
FOLDER = Path(__file__).parents[2] / "examples" / "papers"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def attention(blocks: ModuleType, mask: str, **changes):
    arguments = {"grid": (6,), "causal": True, "heads": 2, "head_size": 4, "unit": 4.0, **changes}
    return blocks.Attention(mask, arguments.pop("grid"), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "causal"), [("none", True), ("table", True), ("table", False)])
def test_attention_is_what_it_says(load, mask, causal):
    blocks = load("blocks")
    layer = attention(blocks, mask, causal=causal, features=4096)
    q, k, v = 0.5 * jax.random.normal(jax.random.key(1), (3, 1, 2, 6, 4))
    learned, draws = layer.start()[0], layer.draws(jax.random.key(0))
    if mask == "table":
        learned = {"values": jax.random.normal(jax.random.key(2), learned["values"].shape)}
        lags = jnp.arange(6)[:, None] - jnp.arange(6)
        f = jax.vmap(layer.log_table)(learned)[:, lags + 5]
    else:
        f = jnp.zeros((2, 6, 6))
    logits = q @ jnp.swapaxes(k, -1, -2) / 2 + f
    exact = jax.nn.softmax(jnp.where(jnp.tri(6) > 0, logits, -jnp.inf) if causal else logits) @ v

    np.testing.assert_allclose(layer(q, k, v, learned, draws), exact, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["mixture", "local"])
def test_estimated_masks_are_near_the_spectrum(load, mask):
    blocks = load("blocks")
    layer = attention(blocks, mask, frequencies=4096)
    learned, draws = layer.start()[0], layer.draws(jax.random.key(0))
    lags = jnp.arange(6.0)[:, None]
    estimate = jax.vmap(lambda learned, draws: layer.used(learned, draws, lags))(learned, draws)
    exact = jax.vmap(lambda learned: layer.spectrum(learned).mask(lags / layer.unit))(learned)

    np.testing.assert_allclose(estimate, exact, atol=0.1)


@pytest.mark.slow
def test_weights_do_not_depend_on_the_mask(load):
    blocks = load("blocks")
    one, other = (
        blocks.init_layers(jax.random.key(0), attention(blocks, m), 2, 8)[0] for m in ("none", "local")
    )
    assert all(bool(jnp.array_equal(one[name], other[name])) for name in one if name != "mask")


@pytest.mark.slow
def test_language_model(load, monkeypatch, tmp_path, capsys):
    module = load("language_model")
    sizes = module.Sizes(8, 2, 1, 16, 2, 2, 10, 4, 4, 4, text="topics")
    monkeypatch.setitem(module.FORMS, "gpu", sizes)
    out = tmp_path / "lm.json"
    options = module.Options(form="gpu", out=out, text="topics", lengths=(32,), threads=2, kinds=KINDS)
    module.main(options)
    printed = capsys.readouterr().out
    saved = json.loads(out.read_text())["results"]

    assert list(saved) == list(KINDS)
    assert all(1 < score < 1000 for result in saved.values() for score in result["score"])
    assert all(f"| {kind} |" in printed for kind in KINDS)
    module.main(options)  # finds everything done
    assert json.loads(out.read_text())["results"] == saved
    load("pictures").sequences(out, tmp_path / "lm.png")
    assert 0 < (tmp_path / "lm.png").stat().st_size <= 60_000
    with pytest.raises(ValueError, match="expected"):
        module.main(module.Options(form="gpu", out=out, steps=20))


@pytest.mark.slow
def test_language_model_leaves_out_what_takes_too_long(load, monkeypatch, capsys):
    module = load("language_model")
    monkeypatch.setitem(module.FORMS, "cpu", module.Sizes(8, 2, 1, 16, 2, 2, 10, 4, 4, 4, text="topics"))
    module.main(module.Options(text="topics", kinds=("no RPE",), minutes=0.0))
    assert "run again to finish" in capsys.readouterr().out


@pytest.mark.slow
def test_images(load, tmp_path, capsys):
    module = load("images")
    sizes = {"seeds": 2, "steps": 10, "batch": 2, "width": 8, "layers": 1, "features": 4, "valid": 50}
    picture, kinds = tmp_path / "images.png", ("no positions", "block-Toeplitz")
    module.main(module.Options(**sizes, kinds=kinds, picture=picture))

    assert "| block-Toeplitz − no positions |" in capsys.readouterr().out
    assert 0 < picture.stat().st_size <= 60_000
