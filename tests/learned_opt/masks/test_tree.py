"""The tree mask against networkx."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from learned_opt.masks import Tree
from learned_opt.masks.forest import heavy_paths

from .common import rows


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def weighted(tree: nx.Graph) -> nx.Graph:
    random = np.random.default_rng(0)
    for _, _, data in tree.edges(data=True):
        data["weight"] = random.uniform(0.1, 3.0)
    return tree


FORESTS = {
    "random": weighted(nx.random_labeled_tree(40, seed=1)),
    "chain": nx.path_graph(33),
    "star": nx.star_graph(20),
    "binary": nx.balanced_tree(2, 4),
    "caterpillar": nx.Graph([(i, i + 1) for i in range(12)] + [(i, f"leaf {i}") for i in range(12)]),
    "forest": nx.disjoint_union(weighted(nx.random_labeled_tree(15, seed=2)), nx.path_graph(4)),
    "isolated": nx.empty_graph(3),
}


@pytest.mark.parametrize("name", FORESTS)
def test_shortest_paths_of_networkx(name):
    forest = FORESTS[name]
    mask = Tree.from_networkx(forest, rate=0.4, bias=-0.3)
    expected = np.zeros((mask.size, mask.size))
    place = {node: index for index, node in enumerate(forest.nodes)}
    for a, lengths in nx.all_pairs_dijkstra_path_length(forest):
        for b, length in lengths.items():
            expected[place[a], place[b]] = np.exp(-0.4 * length + 0.3)
    np.testing.assert_allclose(mask.dense(), expected, atol=1e-12)
    x = rows(mask)
    np.testing.assert_allclose(mask.apply(x), expected @ x, atol=1e-10)


def test_rates_of_zero_and_below():
    tree = Tree.from_networkx(FORESTS["forest"], rate=jnp.asarray(0.0))
    x = rows(tree)
    np.testing.assert_allclose(tree.apply(x)[15], x[15:].sum(0), atol=1e-12)  # each tree sums
    growing = Tree.from_networkx(FORESTS["caterpillar"], rate=-0.2)
    x = rows(growing)
    np.testing.assert_allclose(growing.apply(x), growing.dense() @ x, rtol=1e-10)


def test_leaves_of_a_pytree():
    params = {"a": {"b": jnp.ones(2), "w": jnp.ones((2, 2))}, "c": (jnp.ones(1), [jnp.ones(1)]), "d": None}
    distance = -jnp.log(Tree.from_pytree(params, rate=1.0).dense())
    expected = [[0, 2, 4, 5], [2, 0, 4, 5], [4, 4, 0, 3], [5, 5, 3, 0]]
    np.testing.assert_allclose(distance, expected, atol=1e-12)
    assert Tree.from_pytree(jnp.ones(3)).dense() == 1
    assert Tree.from_pytree({}).size == 0


@pytest.mark.parametrize("name", FORESTS)
def test_few_layers(name):
    mask = Tree.from_networkx(FORESTS[name])
    layers = heavy_paths(mask.parents.array, mask.lengths.array)
    assert len(layers) <= 1 + np.log2(mask.size)
    assert sorted(np.concatenate([layer.nodes for layer in layers])) == list(range(mask.size))


def test_no_tree():
    with pytest.raises(ValueError, match="3 edges on 3 nodes in 1 parts close a cycle"):
        Tree.from_networkx(nx.cycle_graph(3))
    with pytest.raises(ValueError, match="close a cycle"):
        Tree.from_networkx(nx.Graph([(0, 0)]))
    with pytest.raises(ValueError, match="cycle above node 1"):
        Tree.from_parents([-1, 2, 1])
    with pytest.raises(ValueError, match="cycle above node 0"):
        Tree.from_parents([0])
    with pytest.raises(ValueError, match=r"directed graph .* expected an undirected"):
        Tree.from_networkx(nx.DiGraph([(0, 1)]))


@pytest.mark.parametrize(
    ("parents", "lengths", "match"),
    [
        ([-1, 2], None, r"parents between -1 and 2: expected -1..1"),
        ([-1, -2], None, r"parents between -2"),
        ([0.5], None, "dtype float64: expected integers"),
        ([-1, 0], [1.0], r"lengths has shape \(1,\): expected \(2,\)"),
        ([-1, 0], [1.0, -2.0], r"edge length -2.0: expected finite lengths >= 0"),
        ([-1, 0], [1.0, np.nan], "edge length nan"),
    ],
)
def test_bad_parents(parents, lengths, match):
    with pytest.raises(ValueError, match=match):
        Tree.from_parents(parents, lengths=lengths)


def test_negative_lengths_of_networkx():
    with pytest.raises(ValueError, match=r"edge weight -1.0: expected finite weights >= 0"):
        Tree.from_networkx(nx.Graph([(0, 1, {"weight": -1.0})]))
