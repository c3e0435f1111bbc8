"""What a product with a mask costs, against its length and against the dense matrix.

    python benchmarks/mask_cost.py                       # lengths 1,024 to 65,536, 64 columns
    python benchmarks/mask_cost.py --picture docs/img/mask_cost.png

An exponent is the slope of log time over log length. The gain over the dense matrix is a ratio of medians,
both programs taking turns. MB are those of compiled temporaries. Graphs are rings with 4 neighbours; the tree
is uniformly random; the block-Toeplitz grid is a square.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import exponent, fastest, megabytes, times_quicker

from learned_opt.masks import (
    BlockToeplitz,
    Diffusion,
    Exponential,
    Graph,
    Mask,
    RandomWalk,
    Toeplitz,
    Tree,
    elu_features,
    masked_attention,
)

RANDOM = np.random.default_rng(0)
LENGTHS = (1024, 4096, 16384, 65536)
FITTED_FROM = 4096
DENSE = 16384  # the longest dense matrix
WEIGHED = (16384, 65536)  # lengths for which temporary memory is shown


@dataclass(frozen=True)
class Options:
    """Times the masks."""

    columns: int = 64
    """Columns of the matrix that is multiplied."""
    features: int = 16
    """Features of masked attention, whose values have `columns` components."""
    repeats: int = 5
    """Timed products; the fastest counts, in gains the median."""
    picture: Path | None = None
    """Where to draw time against length."""


def ring(length: int) -> Graph:
    nodes = np.arange(length)
    edges = [np.stack([nodes, (nodes + step) % length], 1) for step in (1, 7)]
    return Graph.from_edges(length, np.concatenate(edges))


def tree(length: int) -> Tree:
    """A tree drawn uniformly from all labelled ones, by its Pruefer sequence."""
    import networkx as nx

    return Tree.from_networkx(nx.random_labeled_tree(length, seed=0), rate=0.3)


def values(*lengths: int) -> jax.Array:
    return jnp.asarray(RANDOM.uniform(size=[2 * n - 1 for n in lengths]), jnp.float32)


MASKS: dict[str, Callable[[int], Mask]] = {
    "Exponential": lambda length: Exponential(0.1, length),
    "Toeplitz": lambda length: Toeplitz(values(length)),
    "BlockToeplitz": lambda length: BlockToeplitz(values(round(length**0.5), round(length**0.5))),
    "Tree": tree,
    "RandomWalk, 4 steps": lambda length: RandomWalk.from_graph(ring(length), steps=4, decay=0.5),
    "RandomWalk, 4 steps of 4 walks": lambda length: RandomWalk.from_graph(
        ring(length), steps=4, decay=0.5, walks=4, key=jax.random.key(0)
    ),
    "Diffusion, time 2": lambda length: Diffusion(2.0, ring(length)),
}


def random(length: int, columns: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=(length, columns)), jnp.float32)


@jax.jit
def dense_attention(q: jax.Array, k: jax.Array, v: jax.Array, matrix: jax.Array) -> jax.Array:
    weights = matrix * (elu_features(q) @ elu_features(k).T)
    return weights @ v / weights.sum(-1, keepdims=True)


class Measured(NamedTuple):
    """A program at every length."""

    seconds: dict[int, float]
    memory: dict[int, str]  # megabytes of temporaries
    gain: str  # how many times quicker than the dense program, at the length DENSE


def measure(
    function: Callable[..., Any],
    arguments: dict[int, tuple],
    repeats: int,
    dense: Callable[[], Any] | None = None,
) -> Measured:
    """Times the compiled function at every length, and in turns with the dense program."""
    programs = {length: jax.jit(function).lower(*own).compile() for length, own in arguments.items()}
    seconds = {n: fastest(lambda n=n: programs[n](*arguments[n]), repeats) for n in programs}
    memory = {length: megabytes(program) for length, program in programs.items()}
    if dense is None:
        return Measured(seconds, {}, "")
    gain = times_quicker(dense, lambda: programs[DENSE](*arguments[DENSE]), repeats)
    return Measured(seconds, memory, f"{gain:.1f}")


def report(name: str, measured: Measured) -> None:
    times, memory, gain = measured
    cells = [f"{1e3 * times[length]:.1f}" if length in times else "" for length in LENGTHS]
    slopes = exponent(times), exponent(times, FITTED_FROM)
    weights = (memory.get(length, "") for length in WEIGHED)
    print(f"| {' | '.join((name, *cells, *slopes, gain, *weights))} |", flush=True)


def draw(products: dict[str, dict[int, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, times in products.items():
        axes.loglog(
            list(times), [1e3 * t for t in times.values()], "k--" if name == "dense" else ".-", label=name
        )
    axes.set(xlabel="length L", ylabel="milliseconds a product")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def main(options: Options) -> None:
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}; milliseconds at {options.columns} columns")
    lengths = " | ".join(f"{length:,}" for length in LENGTHS)
    weighed = " | ".join(f"MB at {length:,}" for length in WEIGHED)
    print(f"| | {lengths} | exponent | from {FITTED_FROM:,} on | dense / it at {DENSE:,} | {weighed} |")
    print("|---" * (len(LENGTHS) + 6) + "|")
    short = [length for length in LENGTHS if length <= DENSE]
    matrices = {length: jnp.asarray(RANDOM.random((length, length), np.float32)) for length in short}

    repeats = options.repeats
    inputs = {length: random(length, options.columns) for length in LENGTHS}
    multiply = jax.jit(jnp.matmul)
    dense = measure(multiply, {n: (matrices[n], inputs[n]) for n in short}, repeats)
    report("dense", dense)
    products = {"dense": dense.seconds}
    for name, make in MASKS.items():
        arguments = {length: (make(length), inputs[length]) for length in LENGTHS}
        found = measure(
            lambda mask, x: mask.apply(x),
            arguments,
            repeats,
            dense=lambda: multiply(matrices[DENSE], inputs[DENSE]),
        )
        products[name] = found.seconds
        report(name, found)

    heads = {n: (random(n, options.features), random(n, options.features), inputs[n]) for n in LENGTHS}
    report("dense attention", measure(dense_attention, {n: (*heads[n], matrices[n]) for n in short}, repeats))
    arguments = {length: (*heads[length], MASKS["Toeplitz"](length)) for length in LENGTHS}
    attention = measure(
        masked_attention, arguments, repeats, dense=lambda: dense_attention(*heads[DENSE], matrices[DENSE])
    )
    report("masked attention, Toeplitz", attention)
    if options.picture:
        draw(products, options.picture)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
