"""A byte-level language model whose causal attention has one of several relative positional encodings.

    python examples/papers/language_model.py                               # tiny, on a CPU
    python examples/papers/language_model.py --form gpu --out lm.json      # rerun it to finish what is left
    python examples/papers/pictures.py lm.json lm.png                      # what was learned, over training

No RPE, a learned value for each log-spaced distance as a Toeplitz mask, and learned spectra: a mixture of
Gaussians and a local window (FLT, 'Learning a Fourier Transform for Linear Relative Positional Encodings in
Transformers', arXiv 2302.01925; masks: 'From block-Toeplitz matrices to differential equations on graphs:
towards a general theory for scalable masked Transformers', arXiv 2107.07999). The GPU form adds exact
softmax, where features have no noise. All have learned absolute positions, and the same weights and batches
for a seed; differences are paired by seed.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
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
from trainer import Training, distances, frequencies, layer_memory

import tasks.data

BYTES = 128
KINDS: dict[str, dict[str, Any]] = {
    "no RPE": {"mask": "none"},
    "table": {"mask": "table"},
    "FLT, mixture": {"mask": "mixture"},
    "FLT, local": {"mask": "local"},
    "softmax, no RPE": {"mask": "none", "exact": True},
    "softmax, mixture": {"mask": "mixture", "exact": True},
    "softmax, local": {"mask": "local", "exact": True},
    "FLT, mixture, 4 x features": {"mask": "mixture", "wide": 4},
}
PAIRS = [
    ("table", "no RPE"),
    ("FLT, mixture", "no RPE"),
    ("FLT, local", "no RPE"),
    ("FLT, mixture", "table"),
    ("FLT, local", "table"),
    ("FLT, mixture, 4 x features", "FLT, mixture"),
    ("FLT, mixture, 4 x features", "table"),
    ("softmax, mixture", "softmax, no RPE"),
    ("softmax, local", "softmax, no RPE"),
    ("FLT, mixture", "softmax, mixture"),
    ("FLT, local", "softmax, local"),
]


@dataclass(frozen=True)
class Sizes:
    """What makes two results comparable."""

    width: int
    heads: int
    layers: int
    length: int
    batch: int
    seeds: int
    steps: int
    features: int
    frequencies: int
    valid: int  # windows
    rate: float = 2e-3
    text: str = "bible"


FORMS = {
    "cpu": Sizes(64, 2, 2, 128, 4, 3, 150, 32, 16, 64),
    "gpu": Sizes(128, 4, 4, 512, 16, 5, 1000, 64, 32, 128),
}


@dataclass(frozen=True)
class Options:
    """Trains each kind of attention, and reports."""

    form: Literal["cpu", "gpu"] = "cpu"
    """Sizes of the model and of training."""
    out: Path | None = None
    """JSON file of results, written after every kind; kinds in it are not run again."""
    minutes: float = 8.0
    """No kind starts that would not end within them."""
    kinds: tuple[str, ...] = ()
    """Kinds to run; all of the form if left out."""
    lengths: tuple[int, ...] = (1024, 8192)
    """Of sequences for which memory of a layer is reported."""
    threads: int = 8
    """That compile."""
    text: Literal["bible", "topics"] = "bible"
    """`tasks.data` loader."""
    steps: int | None = None
    seeds: int | None = None
    batch: int | None = None
    features: int | None = None

    def sizes(self) -> Sizes:
        changes = {name: getattr(self, name) for name in ("text", "steps", "seeds", "batch", "features")}
        return dataclasses.replace(FORMS[self.form], **{n: x for n, x in changes.items() if x is not None})

    def chosen(self) -> list[str]:
        return list(self.kinds or (list(KINDS) if self.form == "gpu" else list(KINDS)[:4]))


def attention_of(kind: str, sizes: Sizes, length: int) -> blocks.Attention:
    settings = {"wide": 1, **KINDS[kind]}
    features, size = sizes.features * settings.pop("wide"), sizes.width // sizes.heads
    return blocks.Attention(
        settings.pop("mask"), (length,), True, sizes.heads, size, features, sizes.frequencies, **settings
    )


def training(kind: str, sizes: Sizes) -> Training:
    """One kind of attention in the language model."""
    length = sizes.length
    attention = attention_of(kind, sizes, length)
    text = getattr(tasks.data, sizes.text)()
    starts = np.linspace(0, len(text.valid["text"]) - length - 1, sizes.valid).astype(int)
    windows = jnp.asarray(text.valid["text"][starts[:, None] + np.arange(length + 1)])

    def init(key: jax.Array) -> tuple[Any, Any]:
        keys = jax.random.split(key, 3)
        layers, draws = blocks.init_layers(keys[0], attention, sizes.layers, sizes.width)
        return {
            "bytes": jax.random.normal(keys[1], (BYTES, sizes.width)) / sizes.width**0.5,
            "places": jax.random.normal(keys[2], (length, sizes.width)) * 0.02,
            "layers": layers,
            "norm": jnp.ones(sizes.width),
        }, draws

    def loss(params: Any, draws: Any, windows: jax.Array) -> jax.Array:
        x = params["bytes"][windows[:, :-1]] * sizes.width**0.5 + params["places"]
        x = blocks.norm(blocks.run_layers(x, params["layers"], draws, attention), params["norm"])
        logits = x @ params["bytes"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:].astype(int)).mean()

    def score(params: Any, draws: Any, windows: jax.Array) -> jax.Array:
        batches = windows.reshape(-1, min(len(windows), sizes.batch), length + 1)
        return jnp.exp(jax.lax.map(lambda batch: loss(params, draws, batch), batches).mean())

    return Training(
        attention,
        init,
        loss,
        lambda text, starts: text[starts[:, None] + jnp.arange(length + 1)],
        score,
        data=jnp.asarray(text.train["text"]),
        valid=windows,
        choices=len(text.train["text"]) - length - 1,
        items=sizes.batch,
        seeds=sizes.seeds,
        steps=sizes.steps,
        rate=sizes.rate,
        lags=distances(length)[:, None],
        cycles=frequencies(length)[:, None],
    )


def report(results: dict[str, Any], lengths: tuple[int, ...]) -> str:
    """Tables of what there is."""
    rows = [
        ["", "perplexity a byte", "ms a step", "training, MB", *(f"layer, {n:,} tokens, MB" for n in lengths)]
    ]
    for kind, result in results.items():
        values = np.asarray(result["score"])
        deviation = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
        memory = [result["temporary_mb"], *(result["layer_mb"].get(str(n)) for n in lengths)]
        cells = ["–" if x is None else f"{x:,.0f}" if x >= 10 else f"{x:.1f}" for x in memory]
        rows.append([kind, f"{values.mean():.3f}{deviation}", f"{result['ms']:.1f}", *cells])
    return table(rows)


def comparisons(results: dict[str, Any]) -> str:
    """Paired differences of perplexity."""
    scores = {kind: result["score"] for kind, result in results.items() if len(result["score"]) > 1}
    return differences(scores, PAIRS, decimals=3, higher_is_better=False)


def run_all(options: Options, results: dict[str, Any], keep: Callable[[], None]) -> None:
    """Trains what has no result yet, and calls `keep` after each."""
    begun, sizes = time.perf_counter(), options.sizes()
    todo = [kind for kind in options.chosen() if kind not in results]
    with ThreadPoolExecutor(options.threads) as pool:
        compiled = {kind: pool.submit(lambda kind: training(kind, sizes).compile(), kind) for kind in todo}
        wait(compiled.values())  # or steps would be timed beside compilations
        print(f"compiled after {time.perf_counter() - begun:.0f} s", flush=True)
        for kind in todo:
            left = 60 * options.minutes - (time.perf_counter() - begun)
            try:
                result = compiled.pop(kind).result().run(left)
            except Exception as error:  # out of memory, say: the other kinds still count
                print(f"{kind}: {type(error).__name__}: {error}", flush=True)
                continue
            if result is None:
                print(f"{kind}: would not end in the {left:.0f} s left; run again to finish", flush=True)
                continue
            results[kind] = {**result, "layer_mb": {}}
            print(report({kind: results[kind]}, ()).splitlines()[-1], flush=True)
            keep()
        print(f"\n{comparisons(results)}\n", flush=True)
        needed = [(k, n) for n in options.lengths for k in results if str(n) not in results[k]["layer_mb"]]
        measured = pool.map(lambda at: layer_memory(attention_of(at[0], sizes, at[1])), needed)
        for (kind, n), memory in zip(needed, measured, strict=True):
            results[kind]["layer_mb"][str(n)] = memory
            keep()


def main(options: Options) -> None:
    begun, settings = time.perf_counter(), dataclasses.asdict(options.sizes())
    results: dict[str, Any] = {}
    if options.out and options.out.exists():
        saved = json.loads(options.out.read_text())
        if saved["settings"] != settings:
            raise ValueError(f"{options.out} has results of {saved['settings']}: expected {settings}")
        results = saved["results"]

    def keep() -> None:
        if options.out:
            part = options.out.with_suffix(".part")
            part.write_text(json.dumps({"settings": settings, "results": results}))
            part.replace(options.out)

    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {options.sizes()}\n", flush=True)
    run_all(options, results, keep)
    print(report({kind: results[kind] for kind in KINDS if kind in results}, options.lengths))
    print(f"\n{(time.perf_counter() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
