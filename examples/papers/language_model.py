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
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import lm_common as lm
import numpy as np
import optax
import tyro

import tasks.data

BYTES, SNAPSHOTS = 128, 10
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


def attention_of(kind: str, sizes: Sizes, length: int | None = None) -> lm.Attention:
    settings = dict(KINDS[kind])
    features = sizes.features * settings.pop("wide", 1)
    grid, size = (length or sizes.length,), sizes.width // sizes.heads
    return lm.Attention(
        grid=grid,
        causal=True,
        heads=sizes.heads,
        head_size=size,
        features=features,
        frequencies=sizes.frequencies,
        **settings,
    )


@dataclass
class Experiment:
    """One kind, all seeds under vmap. `compile` makes `train` (a tenth of the steps), `valid`, `traces`."""

    kind: str
    sizes: Sizes

    def __post_init__(self) -> None:
        self.attention = attention_of(self.kind, self.sizes)
        self.optimizer = lm.optimizer(self.sizes.rate, self.sizes.steps)
        text = getattr(tasks.data, self.sizes.text)()
        self.text = jnp.asarray(text.train["text"])
        starts = np.linspace(0, len(text.valid["text"]) - self.sizes.length - 1, self.sizes.valid).astype(int)
        self.windows = jnp.asarray(text.valid["text"][starts[:, None] + np.arange(self.sizes.length + 1)])

    def compile(self) -> "Experiment":
        sizes = self.sizes
        # Not compiled as a whole: random numbers take long to compile, and kinds share these small programs.
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self._init, range(sizes.seeds)))
        chunk = jax.vmap(self._chunk, in_axes=(0, 0, None))
        shape = (sizes.seeds, max(1, sizes.steps // SNAPSHOTS), sizes.batch)
        starts = jax.ShapeDtypeStruct(shape, jnp.int32)
        self.state, self.starts_shape = state, (SNAPSHOTS, *shape)
        self.train = jax.jit(chunk, donate_argnums=0).lower(state, starts, self.text).compile()
        self.valid = jax.jit(jax.vmap(self._valid, in_axes=(0, None))).lower(state, self.windows).compile()
        self.traces = jax.jit(self._trace).lower(state).compile()
        return self

    def _init(self, seed: int) -> Any:
        keys = jax.random.split(jax.random.key(seed), 3)
        layers, draws = lm.init_layers(keys[0], self.attention, self.sizes.layers, self.sizes.width)
        params = {
            "bytes": jax.random.normal(keys[1], (BYTES, self.sizes.width)) / self.sizes.width**0.5,
            "places": jax.random.normal(keys[2], (self.sizes.length, self.sizes.width)) * 0.02,
            "layers": layers,
            "norm": jnp.ones(self.sizes.width),
        }
        return params, draws, self.optimizer.init(params)

    def _loss(self, params: Any, draws: Any, windows: jax.Array) -> jax.Array:
        x = params["bytes"][windows[:, :-1]] * self.sizes.width**0.5 + params["places"]
        x = lm.norm(lm.run_layers(x, params["layers"], draws, self.attention), params["norm"])
        logits = x @ params["bytes"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:].astype(int)).mean()

    def _chunk(self, state: Any, starts: jax.Array, text: jax.Array) -> tuple[Any, jax.Array]:
        def step(state: Any, starts: jax.Array) -> tuple[Any, jax.Array]:
            params, draws, optimizer = state
            windows = text[starts[:, None] + jnp.arange(self.sizes.length + 1)]
            loss, slopes = jax.value_and_grad(self._loss)(params, draws, windows)
            updates, optimizer = self.optimizer.update(slopes, optimizer, params)
            return (optax.apply_updates(params, updates), draws, optimizer), loss

        return jax.lax.scan(step, state, starts)

    def _valid(self, state: Any, windows: jax.Array) -> jax.Array:
        batches = windows.reshape(-1, min(len(windows), self.sizes.batch), windows.shape[-1])
        return jax.lax.map(lambda batch: self._loss(state[0], state[1], batch), batches).mean()

    def _trace(self, state: Any) -> dict[str, jax.Array]:
        """Masks f of all layers and heads of seed 0 at some distances, and densities of spectra."""
        masks, draws = jax.tree.map(lambda x: x[0], (state[0]["layers"]["mask"], state[1]))
        at, cycles = distances(self.sizes.length), frequencies(self.sizes.length)
        if not masks:
            return {}
        each = jax.vmap(jax.vmap(lambda m, d: self.attention.used(m, d, at[:, None])))
        trace = {"mask": each(masks, draws)}
        if self.attention.mask != "table":
            density = lambda m: self.attention.spectrum(m).density(cycles[:, None] * self.attention.unit)  # noqa: E731
            trace["density"] = jax.vmap(jax.vmap(density))(masks) / self.attention.unit
        return trace

    def run(self, left: float) -> dict[str, Any] | None:
        """Trains; None if it would take more than the seconds `left`."""
        random = np.random.default_rng(0)  # the same batches for all kinds, others for each seed
        starts = random.integers(
            len(self.text) - self.sizes.length - 1, size=self.starts_shape, dtype=np.int32
        )
        state, traces = self.state, [self.traces(self.state)]
        times, curve = [], []
        for chunk in starts:
            started = time.perf_counter()
            state, losses = self.train(state, chunk, self.text)
            curve.append(np.asarray(losses).mean(1).round(4).tolist())
            times.append(time.perf_counter() - started)
            if times[0] * SNAPSHOTS > left:
                return None
            traces.append(self.traces(state))
        memory = self.train.memory_analysis()
        keys = traces[0]
        return {
            "loss": np.asarray(self.valid(state, self.windows)).tolist(),
            "ms": 1e3 * min(times) / starts.shape[2],
            "train_loss": curve,
            "temporary_mb": memory.temp_size_in_bytes / 1e6 if memory else None,
            "layer_mb": {},
            "device": jax.devices()[0].device_kind,
            "traces": {key: np.stack([trace[key] for trace in traces]).round(4).tolist() for key in keys},
        }


def distances(length: int) -> jax.Array:
    """Some distances in bytes, log-spaced, each once."""
    return jnp.asarray(np.unique(np.geomspace(1, length, 64).astype(int)) - 1, jnp.float32)


def frequencies(length: int) -> jax.Array:
    """Cycles per byte."""
    return jnp.geomspace(0.25 / length, 1.0, 64)


def layer_memory(kind: str, sizes: Sizes, length: int) -> float | None:
    """MB of temporaries of a gradient through one layer's attention, one sequence."""
    attention = attention_of(kind, sizes, length)
    learned, draws = attention.start()[0], attention.draws(jax.random.key(0))
    x = jnp.zeros((1, sizes.heads, length, attention.head_size))
    slope = jax.grad(lambda q, k, v, learned: attention(q, k, v, learned, draws).sum(), argnums=(0, 1, 2, 3))
    analysis = jax.jit(slope).lower(x, x, x, learned).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 1e6 if analysis else None


def report(results: dict[str, Any], lengths: tuple[int, ...]) -> str:
    """Tables of what there is."""
    rows = [
        ["", "perplexity a byte", "ms a step", "training, MB", *(f"layer, {n:,} tokens, MB" for n in lengths)]
    ]
    for kind, result in results.items():
        values = np.exp(result["loss"])
        deviation = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
        memory = [result["temporary_mb"], *(result["layer_mb"].get(str(n)) for n in lengths)]
        cells = ["–" if x is None else f"{x:,.0f}" if x >= 10 else f"{x:.1f}" for x in memory]
        rows.append([kind, f"{values.mean():.3f}{deviation}", f"{result['ms']:.1f}", *cells])
    return lm.table(rows)


def comparisons(results: dict[str, Any]) -> str:
    """Paired differences of perplexity; a claim only where the interval excludes 0."""
    rows = [["", "difference", "95% interval", ""]]
    for one, other in PAIRS:
        if one in results and other in results and len(results[one]["loss"]) > 1:
            mean, low, high = lm.paired(np.exp(results[one]["loss"]) - np.exp(results[other]["loss"]))
            claim = "lower" if high < 0 else "higher" if low > 0 else ""
            rows.append([f"{one} − {other}", f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}", claim])
    return lm.table(rows)


def save(out: Path | None, settings: dict[str, Any], results: dict[str, Any]) -> None:
    """Writes what there is, whole or not at all."""
    if out:
        part = out.with_suffix(".part")
        part.write_text(json.dumps({"settings": settings, "results": results}))
        part.replace(out)


def main(options: Options) -> None:
    begun, sizes, results = time.perf_counter(), options.sizes(), {}
    settings = dataclasses.asdict(sizes)
    if options.out and options.out.exists():
        saved = json.loads(options.out.read_text())
        if saved["settings"] != settings:
            raise ValueError(f"{options.out} has results of {saved['settings']}: expected {settings}")
        results = saved["results"]
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {sizes}\n", flush=True)
    todo = [kind for kind in options.chosen() if kind not in results]
    with ThreadPoolExecutor(options.threads) as pool:
        compiled = {kind: pool.submit(lambda kind: Experiment(kind, sizes).compile(), kind) for kind in todo}
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
            results[kind] = result
            print(report({kind: result}, ()).splitlines()[-1], flush=True)
            save(options.out, settings, results)
        needed = [
            (kind, n) for kind in results for n in options.lengths if str(n) not in results[kind]["layer_mb"]
        ]
        measured = pool.map(lambda at: layer_memory(at[0], sizes, at[1]), needed)
        for (kind, n), memory in zip(needed, measured, strict=True):
            results[kind]["layer_mb"][str(n)] = memory
    save(options.out, settings, results)
    results = {kind: results[kind] for kind in KINDS if kind in results}
    print(f"\n{report(results, options.lengths)}\n\n{comparisons(results)}")
    print(f"\n{(time.perf_counter() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
