"""What a step costs: time, memory and compilation beside AdamW's and Muon's.

    python benchmarks/step_cost.py                                 # four matrices of 512 by 512
    python benchmarks/step_cost.py --model transformer             # on a GPU about 100 million parameters
    python benchmarks/step_cost.py --model transformer --layers 12 --width 128 --beside flt

Programs take turns in one process, and medians count: their ratios hold on a busy machine too. A step is the
update and its application to the parameters, in donated buffers; a training step is the gradient before it as
well. Memory is what the compiler plans: temporaries, and at the peak also arguments and results. The floor
is the time in which this device reads and writes 36 bytes a parameter, without which no float32 step can do.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from optax.contrib import MuonDimensionNumbers
from timing import turns

from learned_opt import flt_optimizer

FLOOR_BYTES = 36  # gradient, parameter and three slots read, parameter and three slots written, in float32
HEAD = 64  # size of a head of attention


@dataclass(frozen=True)
class Options:
    """Times optimizers on one set of parameters. Sizes of the transformer default to the device's."""

    model: Literal["matrices", "transformer"] = "matrices"
    """Parameters alone, or a network that is trained."""
    matrices: int = 4
    """How many."""
    size: int = 512
    """Of both sides of each matrix."""
    layers: int | None = None
    """Of the transformer: 2, on a GPU 12."""
    width: int | None = None
    """Of its residual stream, a multiple of 64: 64, on a GPU 768."""
    vocabulary: int | None = None
    """Size of its vocabulary: 256, on a GPU 8,192."""
    tokens: int | None = None
    """In a batch: 512, on a GPU 16,384."""
    length: int | None = None
    """Of a sequence: 128, on a GPU 1,024."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Of the transformer's parameters and activations."""
    beside: tuple[
        Literal["muon, hidden layers", "flt", "flt, every 4th step orthogonalised", "flt, not orthogonal"],
        ...,
    ] = (
        "muon, hidden layers",
        "flt",
        "flt, every 4th step orthogonalised",
        "flt, not orthogonal",
    )
    """What is timed beside adamw and muon: on a GPU each takes a minute or two to compile."""
    repeats: int = 20
    """Turns of every program; the median counts."""
    calls: int | None = None
    """Steps in a turn, queued one after the other: 4, on a GPU 12."""

    def of(self, name: str) -> int:
        """A size, or the device's own."""
        small = {"layers": 2, "width": 64, "vocabulary": 256, "tokens": 512, "length": 128, "calls": 4}
        large = {
            "layers": 12,
            "width": 768,
            "vocabulary": 8192,
            "tokens": 16_384,
            "length": 1024,
            "calls": 12,
        }
        given = getattr(self, name)
        return (small if jax.default_backend() == "cpu" else large)[name] if given is None else given

    def names(self) -> list[str]:
        """Of the optimizers, in the order of the table."""
        return [name for name in OPTIMIZERS if name in ("adamw", "muon", *self.beside)]


def hidden_only(params: Any) -> Any:
    """Muon's own advice: AdamW for the embedding and the head."""
    chosen = jax.tree.map(lambda p: MuonDimensionNumbers() if p.ndim == 2 else None, params)
    return chosen | dict.fromkeys(("embed", "head"))


OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adamw": lambda: optax.adamw(1e-3),
    "muon": lambda: optax.contrib.muon(1e-3),
    "muon, hidden layers": lambda: optax.contrib.muon(1e-3, muon_weight_dimension_numbers=hidden_only),
    "flt": lambda: flt_optimizer(total_steps=1000),
    "flt, every 4th step orthogonalised": lambda: flt_optimizer(total_steps=1000, orthogonalize=4),
    "flt, not orthogonal": lambda: flt_optimizer(total_steps=1000, orthogonalize=False),
}


class Program:
    """A compiled step that gives its parameters and state away and goes on with what it returns."""

    def __init__(self, step: Callable[..., Any], carry: Any, inputs: Any, calls: int):
        self.carry, self.inputs, self.calls = carry, inputs, calls
        started = time.perf_counter()
        self.compiled = jax.jit(step, donate_argnums=(0,)).lower(carry, inputs).compile()
        self.compiling = time.perf_counter() - started

    def __call__(self) -> Any:
        for _ in range(self.calls):
            self.carry = self.compiled(self.carry, self.inputs)
        return self.carry

    def memory(self) -> tuple[int, int]:
        """(temporaries, all at the peak) in bytes."""
        found = self.compiled.memory_analysis()
        kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return found.temp_size_in_bytes, found.temp_size_in_bytes + kept


class Row(NamedTuple):
    """One optimizer on one set of parameters."""

    state: float  # bytes a parameter
    update: Program
    train: Program | None


def row(
    name: str,
    params: Any,
    calls: int,
    loss: Callable[[Any, jax.Array], jax.Array] | None = None,
    batch: jax.Array | None = None,
) -> Row:
    """Compiles an optimizer's step, and the training step where there is a loss."""
    optimizer = OPTIMIZERS[name]()

    def update(carry: Any, gradients: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def train(carry: Any, batch: jax.Array) -> Any:
        return update(carry, jax.grad(loss)(carry[0], batch))

    def start() -> Any:
        own = jax.tree.map(jnp.copy, params)
        return own, jax.jit(optimizer.init)(own)

    gradients = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(optimizer.init, params)))
    trained = None if loss is None else Program(train, start(), batch, calls)
    found = Row(size / parameters(params), Program(update, start(), gradients, calls), trained)
    print(f"{name}: compiled", flush=True)
    return found


def parameters(params: Any) -> int:
    return sum(p.size for p in jax.tree.leaves(params))


def transformer(options: Options, dtype: Any) -> tuple[Any, Callable[[Any, jax.Array], jax.Array], jax.Array]:
    """Parameters, loss and batch of a causal transformer whose layers are separate."""
    width, vocabulary, length = options.of("width"), options.of("vocabulary"), options.of("length")
    shapes = {"query": (width, width), "key": (width, width), "value": (width, width), "out": (width, width)}
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(draw.normal(size=shape) * shape[0] ** -0.5, dtype)

    def dense(layer: Any, name: str, x: jax.Array) -> jax.Array:
        return x @ layer[name] + layer[f"{name}_bias"]

    def norm(scale: jax.Array, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        return (x * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype) * scale

    def block(layer: Any, x: jax.Array) -> jax.Array:
        y = norm(layer["norm"], x)
        heads = (*x.shape[:-1], width // HEAD, HEAD)
        q, k, v = (dense(layer, name, y).reshape(heads) for name in ("query", "key", "value"))
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        x = x + dense(layer, "out", mixed)
        return x + dense(layer, "down", jax.nn.gelu(dense(layer, "up", norm(layer["norm_up"], x))))

    def loss(params: Any, words: jax.Array) -> jax.Array:
        x = params["embed"][words]
        for layer in params["layers"]:
            x = block(layer, x)
        logits = (norm(params["norm"], x) @ params["head"]).astype(jnp.float32)
        targets = jnp.roll(words, -1, -1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def layer() -> Any:
        kernels = {name: normal(*shape) for name, shape in shapes.items()}
        biases = {f"{name}_bias": jnp.zeros(shape[1], dtype) for name, shape in shapes.items()}
        return kernels | biases | {"norm": jnp.ones(width, dtype), "norm_up": jnp.ones(width, dtype)}

    params = {
        "embed": normal(vocabulary, width),
        "layers": [layer() for _ in range(options.of("layers"))],
        "norm": jnp.ones(width, dtype),
        "head": normal(width, vocabulary),
    }
    words = draw.integers(vocabulary, size=(max(options.of("tokens") // length, 1), length))
    return params, loss, jnp.asarray(words, jnp.int32)


def copy_bandwidth(repeats: int) -> float:
    """Bytes that this device reads and writes in a second."""
    x = jnp.ones(1 << (24 if jax.default_backend() == "cpu" else 28), jnp.float32)
    copy = Program(lambda x, _: -x, x, None, 1)
    return 2 * x.nbytes / turns({"copy": copy}, repeats)["copy"]


def table(header: list[str], rows: dict[str, list[str]]) -> str:
    lines = ["| " + " | ".join(["", *header]) + " |", "| --- |" + " ---: |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items())])


def compare(rows: dict[str, Row], params: Any, bandwidth: float, repeats: int) -> str:
    """Times the programs; the table of them."""
    count = parameters(params)
    calls = next(iter(rows.values())).update.calls
    floor = FLOOR_BYTES * count / bandwidth
    header = ["step, ms", "/ adamw", "/ muon", "/ floor", "state", "temporaries", "compile, s", "/ muon"]
    update = {name: each.update for name, each in rows.items()}
    cells = {
        name: [
            *_times(name, seconds, calls),
            f"{seconds[name] / calls / floor:.1f}",
            f"{rows[name].state:.1f}",
            f"{program.memory()[0] / count:.1f}",
            *_compiling(name, update),
        ]
        for seconds in [turns(update, repeats)]
        for name, program in update.items()
    }
    train = {name: each.train for name, each in rows.items() if each.train is not None}
    if train:
        header += ["training step, ms", "/ adamw", "/ muon", "peak, MB", "compile, s", "/ muon"]
        seconds = turns(train, repeats)
        for name, program in train.items():
            peak = f"{program.memory()[1] / 1e6:,.0f}"
            cells[name] += [*_times(name, seconds, calls), peak, *_compiling(name, train)]
    return table(header, cells)


def _times(name: str, seconds: dict[str, float], calls: int) -> list[str]:
    ratios = [f"{seconds[name] / seconds[rival]:.2f}" for rival in ("adamw", "muon")]
    return [f"{1e3 * seconds[name] / calls:.2f}", *ratios]


def _compiling(name: str, programs: dict[str, Program]) -> list[str]:
    own = programs[name].compiling
    return [f"{own:.1f}", f"{own / programs['muon'].compiling:.2f}"]


def main(options: Options) -> None:
    device = jax.devices()[0]
    bandwidth = copy_bandwidth(options.repeats)
    print(f"{device.device_kind}, JAX {jax.__version__}; copies {bandwidth / 1e9:,.1f} GB/s")
    print("state and temporaries: bytes a parameter")
    calls = options.of("calls")
    if options.model == "matrices":
        draw = np.random.default_rng(0).normal(size=(options.matrices, options.size, options.size))
        params = {f"w{i}": jnp.asarray(x, jnp.float32) for i, x in enumerate(draw / options.size**0.5)}
        names = [name for name in options.names() if name != "muon, hidden layers"]
        rows = {name: row(name, params, calls) for name in names}
        print(f"\n{options.matrices} matrices of {options.size} by {options.size}, float32\n")
        print(compare(rows, params, bandwidth, options.repeats))
        return
    for dtype in options.dtypes:
        params, loss, batch = transformer(options, jnp.dtype(dtype))
        rows = {name: row(name, params, calls, loss, batch) for name in options.names()}
        millions = f"{parameters(params) / 1e6:,.1f} million parameters"
        print(f"\ntransformer of {millions}, {batch.size:,} tokens a batch, {dtype}\n")
        print(compare(rows, params, bandwidth, options.repeats), flush=True)
    statistics = device.memory_stats()
    if statistics:
        print(f"\nmost memory of the whole process: {statistics['peak_bytes_in_use'] / 1e6:,.0f} MB")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
