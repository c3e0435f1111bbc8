"""Masked nodes of Python syntax trees: attention under a tree mask, under sequence masks, and without a mask.

    python examples/papers/trees.py                      # trees of the standard library's functions, 4 seeds

The paper (MASK: 'From block-Toeplitz matrices to differential equations on graphs: towards a general
theory for scalable masked Transformers', arXiv 2107.07999) masks linear attention by the exponential of an
affine function of the distance in a tree. Here the trees are the first nodes, in preorder, of functions in
the modules of the standard library that runs this program, one function a module. Of each tree 15% of the
nodes lose their type, which is to be predicted from the others; no network sees positions but through its
mask. Compared are

- no mask: the tree is a bag of types;
- a decay with the distance in the sequence, and one with the distance in the tree: a learned rate for each
  head;
- a Toeplitz mask: any positive function of the signed difference in the sequence, learned.
"""

import ast
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from common import compare, draw, held_out, train, transformer

from learned_opt.masks import Mask, MaskedAttention, Toeplitz, Tree

WITHOUT, SEQUENCE, TOEPLITZ, TREE = "no mask", "sequence decay", "Toeplitz", "tree decay"
HEADS = 2


@dataclass(frozen=True)
class Options:
    """Trains and compares."""

    seeds: int = 4
    """Each with a split, a start and masked nodes of its own."""
    steps: int = 120
    """Updates, each on all trees of the training set."""
    rate: float = 1e-2
    """Peak learning rate."""
    trees: int = 96
    """How many, of different modules."""
    nodes: int = 32
    """Of a tree."""
    width: int = 16
    """Of the network."""
    layers: int = 2
    """Of attention."""
    out: Path = Path("runs/papers")
    """Where the picture goes."""


class Trees(NamedTuple):
    types: jax.Array  # [T, L], numbered
    parents: np.ndarray  # [T, L], -1 for a root
    names: list[str]  # of the types


def preorder(node: ast.AST, parent: int, found: list[tuple[str, int]]) -> None:
    """Appends the types and parents of a tree's nodes; whether a name is read or written is left out."""
    own = len(found)
    found.append((type(node).__name__, parent))
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr_context):
            preorder(child, own, found)


def functions(nodes: int) -> Iterator[list[tuple[str, int]]]:
    """The first `nodes` nodes of the first function of each module that has as many."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if {"site-packages", "test", "tests", "idle_test", "lib2to3"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef):
                found: list[tuple[str, int]] = []
                preorder(node, -1, found)
                if len(found) >= nodes:
                    yield found[:nodes]
                    break


def load(number: int, nodes: int) -> Trees:
    """Trees of modules that are evenly spaced in the order of their paths."""
    all_of_them = list(functions(nodes))
    kept = [all_of_them[place] for place in np.linspace(0, len(all_of_them) - 1, number).astype(int)]
    names = sorted({name for tree in kept for name, _ in tree})
    types = [[names.index(name) for name, _ in tree] for tree in kept]
    return Trees(jnp.asarray(types), np.array([[parent for _, parent in tree] for tree in kept]), names)


def flat(parents: np.ndarray) -> np.ndarray:
    """Parents in the forest of all trees."""
    offsets = np.arange(len(parents))[:, None] * parents.shape[1]
    return np.where(parents < 0, -1, parents + offsets).ravel()


def masks_of(name: str, trees: Trees, layer: int) -> Mask | list[Mask]:
    """The masks of a layer, one for all heads or one for each; within `hk.transform`."""
    length = trees.types.shape[1]
    lags = jnp.abs(jnp.arange(1 - length, length))
    if name == WITHOUT:
        return Toeplitz(jnp.ones(2 * length - 1))
    first = jnp.geomspace(0.1, 1.0, HEADS)  # heads that see far and near
    if name == TOEPLITZ:
        logs = hk.get_parameter(
            f"logs_{layer}", (HEADS, len(lags)), init=hk.initializers.Constant(-first[:, None] * lags)
        )
        return [Toeplitz(jnp.exp(own)) for own in logs]
    rates = jnp.exp(
        hk.get_parameter(f"log_rates_{layer}", (HEADS,), init=hk.initializers.Constant(jnp.log(first)))
    )
    if name == SEQUENCE:
        return [Toeplitz(jnp.exp(-rate * lags)) for rate in rates]
    parents = flat(trees.parents)
    return [Tree.from_parents(parents, rate=rate) for rate in rates]


def network(options: Options, name: str, trees: Trees) -> Any:
    """Of types [T, L], with one more number for those that are hidden: logits [T, L, types]."""

    def forward(types: jax.Array) -> jax.Array:
        def attend(layer: int, x: jax.Array) -> jax.Array:
            own = masks_of(name, trees, layer)
            rows = x.reshape(-1, x.shape[-1]) if name == TREE else x  # all trees are one forest
            return MaskedAttention(HEADS, options.width // HEADS)(rows, own).reshape(x.shape)

        x = hk.Embed(len(trees.names) + 1, options.width)(types)
        return hk.Linear(len(trees.names))(transformer(x, options.layers, attend))

    return hk.without_apply_rng(hk.transform(forward))


def fit(options: Options, trees: Trees, test: np.ndarray, own: hk.Transformed) -> tuple[np.ndarray, Any]:
    """Trains; gives accuracies [seeds] in % on trees that were held out, and parameters."""
    types, held = trees.types, jnp.asarray(test)

    def hide(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = jax.random.bernoulli(key, 0.15, types.shape)
        return jnp.where(hidden, len(trees.names), types), hidden

    def loss(params: Any, key: jax.Array, held: jax.Array) -> jax.Array:
        seen, hidden = hide(key)
        losses = optax.softmax_cross_entropy_with_integer_labels(own.apply(params, seen), types)
        counted = hidden & ~held[:, None]
        return jnp.sum(losses * counted) / jnp.sum(counted)

    def accuracy(params: Any, key: jax.Array, held: jax.Array) -> jax.Array:
        def once(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            seen, hidden = hide(key)
            counted = hidden & held[:, None]
            return jnp.sum(counted & (own.apply(params, seen).argmax(-1) == types)), jnp.sum(counted)

        right, counted = jax.lax.map(once, jax.random.split(key, 8))
        return 100 * jnp.sum(right) / jnp.sum(counted)

    def init(key: jax.Array) -> Any:
        return own.init(key, types)

    params = train(init, loss, options.seeds, held, steps=options.steps, rate=options.rate)
    keys = jax.vmap(jax.random.key)(1000 + jnp.arange(options.seeds))
    return np.asarray(jax.jit(jax.vmap(accuracy))(params, keys, held)), params


def main(options: Options) -> dict[str, np.ndarray]:
    """Prints the tables; returns accuracies [seeds] in % by variant."""
    trees, began, scores = load(options.trees, options.nodes), time.perf_counter(), {}
    test = held_out(options.seeds, options.trees, 0.25)
    for name in (WITHOUT, SEQUENCE, TOEPLITZ, TREE):
        scores[name], params = fit(options, trees, test, network(options, name, trees))
        leaves = [leaf for key, leaf in params.get("~", {}).items() if key.startswith("log_rates")]
        rates = np.round([np.exp(np.asarray(leaf, float)).mean(0) for leaf in leaves], 2).tolist()
        print(f"{name}: {time.perf_counter() - began:.0f} s; rates of layers and heads {rates}", flush=True)

    counts = np.bincount(np.asarray(trees.types).ravel())
    majority, common = 100 * counts.max() / counts.sum(), trees.names[int(counts.argmax())]
    print(f"\n{len(trees.names)} types; {common} are {majority:.1f}% of {counts.sum():,} nodes")
    print(f"accuracy on hidden nodes of {test[0].sum()} held-out trees, {options.seeds} seeds\n")
    pairs = [(TREE, WITHOUT), (TREE, SEQUENCE), (TREE, TOEPLITZ), (TOEPLITZ, SEQUENCE), (SEQUENCE, WITHOUT)]
    print(compare(scores, pairs, measure="accuracy, %", decimals=1, higher_is_better=True))
    draw(scores, "accuracy, %", options.out / "trees.png", (majority, "most common type"))
    print(f"\n{time.perf_counter() - began:.0f} s")
    return scores


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
