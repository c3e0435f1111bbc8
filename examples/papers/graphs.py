"""Classification of graphs: attention under the random-walk kernel mask, and without a mask.

    python examples/papers/graphs.py                     # all 996 connected graphs of up to 7 nodes, 5 seeds

The paper (MASK: 'From block-Toeplitz matrices to differential equations on graphs: towards a general
theory for scalable masked Transformers', arXiv 2107.07999) masks linear attention over the nodes of a
graph with its random-walk graph-node kernel (GKAT). Here the graphs are those of networkx's atlas, no two
of which are the same. The label is whether four nodes can be chosen among which the edges are one cycle of
four: both networks see the degree of each node, which does not settle it. Compared are a mask with a learned
decay for each head and the same network without a mask.

All graphs are one disconnected graph, whose parts do not see each other: one program for all of them.
"""

import itertools
import time
from collections.abc import Callable
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

from learned_opt.masks import Graph, Mask, MaskedAttention, RandomWalk, Tree

WITHOUT, WALKS = "no mask", "random-walk mask"
HEADS, DEGREES = 2, 7


@dataclass(frozen=True)
class Options:
    """Trains and compares."""

    seeds: int = 5
    """Each with a split and a start of its own."""
    steps: int = 150
    """Updates, each on all graphs of the training set."""
    rate: float = 1e-2
    """Peak learning rate."""
    walk: int = 3
    """Steps of a random walk."""
    width: int = 16
    """Of the network."""
    layers: int = 2
    """Of attention."""
    graphs: int = 996
    """How many of the atlas, evenly spaced."""
    out: Path = Path("runs/papers")
    """Where the picture goes."""


class Graphs(NamedTuple):
    union: Graph  # of all graphs
    owner: np.ndarray  # [nodes], the graph of a node
    degrees: np.ndarray  # [nodes]
    labels: np.ndarray  # [graphs] booleans


def load(number: int) -> Graphs:
    """Connected graphs of the atlas and their labels."""
    import networkx as nx

    connected = [graph for graph in nx.graph_atlas_g() if len(graph) and nx.is_connected(graph)]
    kept = [connected[place] for place in np.linspace(0, len(connected) - 1, number).astype(int)]
    owner = np.repeat(np.arange(len(kept)), [len(graph) for graph in kept])
    degrees = np.concatenate([[degree for _, degree in graph.degree] for graph in kept])
    labels = np.array([four_cycle(graph) for graph in kept])
    return Graphs(Graph.from_networkx(nx.disjoint_union_all(kept)), owner, degrees, labels)


def four_cycle(graph: Any) -> bool:
    """Whether some four nodes induce a cycle: all have two neighbours among the others."""
    parts = (graph.subgraph(four) for four in itertools.combinations(graph, 4))
    return any(all(degree == 2 for _, degree in part.degree) for part in parts)


def whole(owner: np.ndarray) -> Tree:
    """All ones within a graph and zeros between graphs: what attention without a mask is on their union."""
    first = np.searchsorted(owner, owner)  # the first node of a graph is the root of a star
    return Tree.from_parents(np.where(first == np.arange(len(owner)), -1, first), rate=0.0)


def network(options: Options, graphs: Graphs, masks: Callable[[jax.Array], list[Mask] | Mask]) -> Any:
    """Of nothing: one logit for each graph."""

    def forward() -> jax.Array:
        def attend(layer: int, x: jax.Array) -> jax.Array:
            decays = hk.get_parameter(
                f"decays_{layer}", (HEADS,), init=hk.initializers.RandomUniform(-1.0, 1.0)
            )
            attention = MaskedAttention(HEADS, options.width // HEADS)
            return attention(x, masks(jax.nn.sigmoid(decays)))

        nodes = hk.Embed(DEGREES, options.width)(jnp.asarray(graphs.degrees))
        nodes = transformer(nodes, options.layers, attend)
        sums = jax.ops.segment_sum(nodes, graphs.owner, len(graphs.labels))
        mean = sums / np.bincount(graphs.owner)[:, None]
        return hk.nets.MLP([options.width, 1])(jnp.concatenate([mean, sums / DEGREES], axis=-1))[..., 0]

    return hk.without_apply_rng(hk.transform(forward))


def degrees_only(graphs: Graphs, test: np.ndarray) -> np.ndarray:
    """[seeds] accuracy of a random forest that sees how many nodes have which degree."""
    from sklearn.ensemble import RandomForestClassifier

    counts = np.zeros((len(graphs.labels), DEGREES))
    np.add.at(counts, (graphs.owner, graphs.degrees), 1)
    scores = []
    for seed, held in enumerate(test):
        forest = RandomForestClassifier(200, random_state=seed).fit(counts[~held], graphs.labels[~held])
        scores.append(100 * forest.score(counts[held], graphs.labels[held]))
    return np.array(scores)


def fit(options: Options, labels: jax.Array, test: np.ndarray, own: hk.Transformed) -> np.ndarray:
    """Trains; tells which graphs a seed has right, [seeds, graphs]."""

    def loss(params: Any, key: jax.Array, held: jax.Array) -> jax.Array:
        losses = optax.sigmoid_binary_cross_entropy(own.apply(params), labels)
        return jnp.sum(losses * ~held) / jnp.sum(~held)

    held = jnp.asarray(test)
    params = train(own.init, loss, options.seeds, held, steps=options.steps, rate=options.rate)
    return np.asarray((jax.jit(jax.vmap(own.apply))(params) > 0) == labels)


def main(options: Options) -> dict[str, np.ndarray]:
    """Prints the tables; returns accuracies [seeds] in % by variant."""
    graphs, began = load(options.graphs), time.perf_counter()
    test = held_out(options.seeds, len(graphs.labels), 0.25)
    everything = whole(graphs.owner)
    variants: dict[str, Callable[[jax.Array], list[Mask] | Mask]] = {
        WITHOUT: lambda decays: everything,
        WALKS: lambda decays: [
            RandomWalk.from_graph(graphs.union, steps=options.walk, decay=decay) for decay in decays
        ],
    }
    scores = {"random forest on degrees": degrees_only(graphs, test)}
    for name, masks in variants.items():
        right = fit(options, jnp.asarray(graphs.labels), test, network(options, graphs, masks))
        scores[name] = 100 * np.mean(right, axis=1, where=test)
        known = np.mean(right, where=~test)
        print(f"{name}: {known:.1%} right on what it was trained on, {time.perf_counter() - began:.0f} s")
    share = graphs.labels.mean()
    majority = 100 * max(share, 1 - share)
    print(f"\n{share:.1%} of {len(graphs.labels)} graphs have the cycle: majority class {majority:.1f}%")
    print(f"accuracy on {test[0].sum()} held-out graphs, {options.seeds} seeds\n")
    pairs = [(WALKS, WITHOUT), (WALKS, "random forest on degrees"), (WITHOUT, "random forest on degrees")]
    print(compare(scores, pairs, measure="accuracy, %", decimals=1, higher_is_better=True))
    draw(scores, "accuracy, %", options.out / "graphs.png", (majority, "majority class"))
    print(f"\n{time.perf_counter() - began:.0f} s")
    return scores


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
