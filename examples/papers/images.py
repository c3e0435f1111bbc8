"""Classification of digits, cut into patches, by attention that learns where patches lie to each other.

    python examples/papers/images.py --picture images.png

Tokens are the 7 x 7 patches of MNIST digits (4,000 to train on, 1,000 to validate). The network knows of
positions by the mask of its attention alone: none at all, a two-level block-Toeplitz mask with a free value
for every offset (MASK: 'From block-Toeplitz matrices to differential equations on graphs: towards a general
theory for scalable masked Transformers', arXiv 2107.07999), or a learned spectrum in two dimensions, a
mixture of Gaussians or a local window (FLT: 'Learning a Fourier Transform for Linear Relative Positional
Encodings in Transformers', arXiv 2302.01925). Weights and batches are the same for a seed; differences are
paired by seed.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blocks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from common import differences, table
from trainer import Training

import tasks.data

SIDE, PATCH, CLASSES = 28, 4, 10
GRID = (SIDE // PATCH, SIDE // PATCH)
KINDS: dict[str, Literal["none", "table", "mixture", "local"]] = {
    "no positions": "none",
    "block-Toeplitz": "table",
    "FLT, mixture": "mixture",
    "FLT, local": "local",
}
EXACT = {f"softmax, {kind}": kind for kind in ("no positions", "FLT, local")}  # no features, so no noise
PAIRS = [(kind, "no positions") for kind in list(KINDS)[1:]]
PAIRS += [(kind, "block-Toeplitz") for kind in list(KINDS)[2:]]
PAIRS += [("softmax, FLT, local", "softmax, no positions")]


@dataclass(frozen=True)
class Options:
    """Trains each kind of attention, and reports."""

    seeds: int = 4
    """Each with weights, draws and batches of its own."""
    steps: int = 250
    """Updates."""
    batch: int = 32
    """Images of an update."""
    width: int = 32
    """Of the network."""
    heads: int = 2
    """Of its attention."""
    head_size: int = 8
    """Of queries, keys and values."""
    layers: int = 2
    """Of attention and perceptron."""
    features: int = 16
    """Of queries and keys."""
    frequencies: int = 16
    """Of a spectrum."""
    rate: float = 3e-3
    """Peak learning rate."""
    valid: int = 1000
    """Images to validate on."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Kinds to run; also "softmax, no positions" and "softmax, FLT, local"."""
    picture: Path | None = None
    """Where masks and spectra over training are drawn."""


def patches(part: dict[str, Any]) -> jax.Array:
    """Images [n, 49, 16], standardised."""
    x = ((part["x"] - part["mean"]) / part["std"]).reshape(-1, GRID[0], PATCH, GRID[1], PATCH)
    return jnp.asarray(x.swapaxes(2, 3).reshape(len(x), GRID[0] * GRID[1], PATCH**2), jnp.float32)


def offsets() -> jax.Array:
    """All differences of two patches, [169, 2]."""
    axes = [np.arange(1 - n, n) for n in GRID]
    return jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2), jnp.float32)


def training(kind: str, options: Options) -> Training:
    """One kind of attention in the classifier."""
    attention = blocks.Attention(
        KINDS[EXACT.get(kind, kind)],
        GRID,
        causal=False,
        heads=options.heads,
        head_size=options.head_size,
        features=options.features,
        frequencies=options.frequencies,
        unit=2.0,
        starts=(1.0, 2.0),
        exact=kind in EXACT,
    )
    train, valid = tasks.data.mnist()

    def init(key: jax.Array) -> tuple[Any, Any]:
        keys = jax.random.split(key, 3)
        layers, draws = blocks.init_layers(keys[0], attention, options.layers, options.width)
        return {
            "patch": jax.random.normal(keys[1], (PATCH**2, options.width)) / PATCH,
            "layers": layers,
            "norm": jnp.ones(options.width),
            "class": jax.random.normal(keys[2], (options.width, CLASSES)) / options.width**0.5,
        }, draws

    def logits(params: Any, draws: Any, images: jax.Array) -> jax.Array:
        x = blocks.run_layers(images @ params["patch"], params["layers"], draws, attention)
        return blocks.norm(x.mean(1), params["norm"]) @ params["class"]

    def loss(params: Any, draws: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        found = logits(params, draws, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(found, batch[1]).mean()

    def score(params: Any, draws: Any, valid: tuple[jax.Array, jax.Array]) -> jax.Array:
        found = jax.lax.map(lambda image: logits(params, draws, image[None])[0], valid[0], batch_size=50)
        return 100 * jnp.mean(found.argmax(-1) == valid[1])

    return Training(
        attention,
        init,
        loss,
        lambda data, rows: (data[0][rows], data[1][rows]),
        score,
        data=(patches(train), jnp.asarray(train["y"], jnp.int32)),
        valid=(patches(valid)[: options.valid], jnp.asarray(valid["y"], jnp.int32)[: options.valid]),
        choices=len(train["x"]),
        items=options.batch,
        seeds=options.seeds,
        steps=options.steps,
        rate=options.rate,
        lags=offsets(),
        cycles=offsets() / (2 * GRID[0]),
    )


def report(results: dict[str, Any]) -> str:
    """Two tables: each kind, and pairs of kinds."""
    rows = [["", "accuracy, %", "ms a step"]]
    for kind, result in results.items():
        values = np.asarray(result["score"])
        rows.append([kind, f"{values.mean():.1f} ± {values.std(ddof=1):.1f}", f"{result['ms']:.0f}"])
    scores = {kind: result["score"] for kind, result in results.items()}
    return f"{table(rows)}\n\n{differences(scores, PAIRS, decimals=1, higher_is_better=True)}"


def main(options: Options) -> None:
    begun, results = time.perf_counter(), {}
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {options}\n", flush=True)
    for kind in options.kinds:
        result = training(kind, options).compile().run()
        assert result is not None
        results[kind] = result
        print(f"{kind}: {np.mean(result['score']):.1f}%", flush=True)
    print(f"\n{report(results)}\n\n{(time.perf_counter() - begun) / 60:.1f} minutes")
    if options.picture:
        from pictures import grids

        grids(results, options.steps, options.picture)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
