"""What it costs to keep a transformer's layers stacked, under scan, or separate.

    python benchmarks/stacked_layers.py                      # 12 layers of width 256
    python benchmarks/stacked_layers.py --width 64 --repeats 20

Both are the same network, and both are trained the same way (tests/learned_opt/test_layouts.py). Timed is a
training step, gradient and update: its compilation, then the step itself. Layouts take turns; the fastest of
`repeats` counts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from rich.console import Console
from rich.table import Table

from learned_opt import flt_optimizer


@dataclass(frozen=True)
class Options:
    """Times one network in two layouts."""

    layers: int = 12
    """Number of layers."""
    width: int = 256
    """Of the residual stream; the hidden layers are four times as wide."""
    tokens: int = 128
    """Of the one sequence in a batch."""
    repeats: int = 10
    """Timed steps of each layout; the fastest counts."""


def new_layer(key: jax.Array, width: int) -> Any:
    shapes = dict.fromkeys(("query", "key", "value", "out"), (width, width))
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    keys = jax.random.split(key, len(shapes))
    return {
        "norm": {"scale": jnp.ones(width)},
        **{
            name: {
                "kernel": jax.random.normal(k, shape) * shape[0] ** -0.5,
                "bias": jnp.zeros(shape[1]),
            }
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        },
    }


def block(x: jax.Array, layer: Any) -> jax.Array:
    def dense(name: str, x: jax.Array) -> jax.Array:
        return x @ layer[name]["kernel"] + layer[name]["bias"]

    y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * layer["norm"]["scale"]
    q, k, v = (dense(name, y) for name in ("query", "key", "value"))
    x = x + dense("out", jax.nn.softmax(q @ k.T * q.shape[-1] ** -0.5) @ v)
    return x + dense("down", jax.nn.gelu(dense("up", x)))


def separate(params: Any, x: jax.Array) -> jax.Array:
    for layer in params["layers"]:
        x = block(x, layer)
    return x


def stacked(params: Any, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, layer: (block(x, layer), None), x, params["layers"])[0]


class Program:
    """The compiled training step of one layout, and the seconds that it took to compile."""

    def __init__(self, network: Callable[[Any, jax.Array], jax.Array], layers: Any, x: jax.Array):
        optimizer = flt_optimizer(total_steps=1000)

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            gradients = jax.grad(lambda params: jnp.mean((network(params, x) - 1.0) ** 2))(params)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        params = {"layers": layers}
        self.arguments = params, jax.jit(optimizer.init)(params), x
        started = time.perf_counter()
        self.step = jax.jit(step).lower(*self.arguments).compile()
        self.compiling = time.perf_counter() - started
        self.seconds: list[float] = []

    def run(self) -> None:
        """Times one step."""
        started = time.perf_counter()
        jax.block_until_ready(self.step(*self.arguments))
        self.seconds.append(time.perf_counter() - started)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    layers = [new_layer(key, options.width) for key in jax.random.split(jax.random.key(0), options.layers)]
    x = jax.random.normal(jax.random.key(1), (options.tokens, options.width))
    stack = jax.tree.map(lambda *parts: jnp.stack(parts), *layers)
    programs = {"separate": Program(separate, layers, x), "stacked": Program(stacked, stack, x)}
    for _ in range(1 + options.repeats):  # the first warms up
        for program in programs.values():
            program.run()

    device = jax.local_devices()[0].device_kind
    title = f"{options.layers} layers of width {options.width}; {device}, JAX {jax.__version__}"
    table = Table("layout", title=title, title_justify="left")
    for column in ("compile s", "step ms", "median ms"):
        table.add_column(column, justify="right")
    for layout, program in programs.items():
        times = sorted(1e3 * seconds for seconds in program.seconds[1:])
        fastest, median = times[0], times[len(times) // 2]
        table.add_row(layout, f"{program.compiling:.1f}", f"{fastest:.1f}", f"{median:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
