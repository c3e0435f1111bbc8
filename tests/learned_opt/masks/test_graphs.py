"""Graphs, diffusion against scipy's matrix exponential, random walks against matrix powers."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from jax.test_util import check_grads

from learned_opt.masks import Diffusion, Graph, RandomWalk

from .common import graph, rows


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


WEIGHTED = graph(12, np.random.default_rng(3))
PATH = nx.path_graph(4)


def test_three_ways_to_make_a_graph():
    edges = Graph.from_edges(4, [(0, 1), (2, 1), (2, 3)])
    adjacency = nx.to_scipy_sparse_array(PATH)
    assert (
        edges
        == Graph.from_networkx(PATH)
        == Graph.from_scipy(adjacency)
        == Graph.from_scipy(adjacency.tocoo())
    )
    assert hash(edges) == hash(Graph.from_networkx(PATH))
    assert edges != Graph.from_edges(4, [(0, 1), (2, 1)])


def test_loops_parallel_edges_and_weights():
    twice = Graph.from_edges(2, [(0, 1), (1, 0), (0, 0)], [1.0, 2.0, 5.0])
    np.testing.assert_array_equal(twice.dense(), [[5, 3], [3, 0]])
    np.testing.assert_array_equal(
        Graph.from_scipy(scipy.sparse.csr_array(twice.dense())).dense(), twice.dense()
    )
    multi = nx.MultiGraph([(0, 1, {"weight": 2.0}), (0, 1)])
    np.testing.assert_array_equal(Graph.from_networkx(multi).dense(), [[0, 3], [3, 0]])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Graph.from_networkx(PATH.to_directed()), r"directed graph .* expected an undirected"),
        (lambda: Graph.from_edges(2, [(0, 2)]), r"edges name nodes 0..2: expected integers in 0..1"),
        (lambda: Graph.from_edges(2, [(0, 0.5)]), "expected integers"),
        (lambda: Graph.from_edges(2, [0, 1]), r"edges has shape \(2,\): expected \[edges, 2\]"),
        (lambda: Graph.from_edges(2, [(0, 1)], [-1.0]), r"edge weight -1.0: expected finite weights >= 0"),
        (lambda: Graph.from_edges(2, [(0, 1)], [np.inf]), "edge weight inf"),
        (lambda: Graph.from_edges(2, [(0, 1)], [1.0, 2.0]), r"weights has shape \(2,\): expected \(1,\)"),
        (lambda: Graph.from_scipy(scipy.sparse.csr_array([[0, 1], [0, 0]])), "is not symmetric"),
        (lambda: Graph.from_scipy(scipy.sparse.csr_array([[0, -1], [-1, 0]])), "edge weight -1.0"),
        (lambda: Graph.from_scipy(scipy.sparse.csr_array([[0, 1]])), r"shape \(1, 2\): expected \[L, L\]"),
    ],
)
def test_bad_graphs(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_other_things_are_no_graphs():
    with pytest.raises(TypeError, match="dict: expected a networkx graph"):
        Graph.from_networkx({0: [1]})
    with pytest.raises(TypeError, match=r"ndarray: expected scipy\.sparse"):
        Graph.from_scipy(np.eye(2))


@pytest.mark.parametrize("edges", [nx.star_graph(40), nx.cycle_graph(9), nx.path_graph(7)])
def test_products_with_rows_of_all_lengths_and_their_derivatives(edges):
    own = Graph.from_networkx(edges)
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, own.size, 2)))
    expected = own.dense() @ x
    for found in (
        own.matvec(x),
        jax.vmap(own.matvec)(x),
        jax.jvp(own.matvec, (y,), (x,))[1],
        jax.vjp(own.matvec, y)[1](x)[0],
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_gradients_of_products_gather():
    """A scatter over all edges is several times slower on a CPU."""
    ring = Graph.from_networkx(nx.cycle_graph(9))
    backward = jax.jit(jax.grad(lambda x: jnp.sum(ring.matvec(x) ** 2)))
    program = backward.lower(jnp.ones((9, 1))).as_text()
    assert "gather" in program
    assert "scatter" not in program


@pytest.mark.parametrize("edges", [nx.star_graph(40), nx.cycle_graph(41), nx.gnp_random_graph(41, 0.2, 0)])
def test_diffusion_over_times_of_one_piece_and_of_many(edges):
    own = Graph.from_networkx(edges)
    generator = np.diag(own.degrees) - own.dense()
    x = np.random.default_rng(0).normal(size=(41, 2))
    apply = jax.jit(lambda time: Diffusion(time, own).apply(x))
    for time in (1e-8, 0.3, 4.0, 100.0):
        np.testing.assert_allclose(apply(time), scipy.linalg.expm(-time * generator) @ x, atol=1e-11)
    single = jax.jit(lambda time: Diffusion(time, own).apply(x.astype(np.float32)))
    for time in (0.3, 4.0):
        expected = scipy.linalg.expm(-time * generator) @ x
        np.testing.assert_allclose(single(np.float32(time)), expected, atol=1e-4)


@pytest.mark.parametrize("time", [0.0, 1e-3, 1.0, 30.0])
def test_diffusion_is_the_matrix_exponential(time):
    mask = Diffusion(time, WEIGHTED)
    expected = scipy.linalg.expm(-time * (np.diag(WEIGHTED.degrees) - WEIGHTED.dense()))
    np.testing.assert_allclose(mask.dense(), expected, atol=1e-10)
    np.testing.assert_allclose(mask.apply(jnp.eye(12)), expected, atol=1e-12)


def test_rows_of_diffusion_sum_to_one():
    for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.float32, 3e-6)):
        mask = Diffusion(jnp.asarray(40.0, dtype), WEIGHTED)
        np.testing.assert_allclose(mask.apply(jnp.ones((12, 1), dtype)), 1, atol=tolerance)
        assert mask.apply(jnp.eye(12, dtype=dtype)).min() >= 0


def test_diffusion_stays_in_its_component():
    mask = Diffusion.from_networkx(nx.disjoint_union(nx.path_graph(3), nx.path_graph(2)), time=1000.0)
    x = mask.apply(jnp.eye(5))
    np.testing.assert_allclose(x[:3, :3], 1 / 3, atol=1e-12)
    np.testing.assert_array_equal(x[:3, 3:], 0)
    still = Diffusion(2.0, Graph.from_edges(3, []))
    np.testing.assert_array_equal(still.apply(jnp.eye(3)), jnp.eye(3))


@pytest.mark.slow
def test_second_derivatives_of_diffusion():
    mask = Diffusion(jnp.asarray(0.7), WEIGHTED)
    apply = jax.jit(lambda mask, x: mask.apply(jnp.sin(x)))
    check_grads(apply, (mask, rows(mask)), order=2, modes=["rev"])


def test_bad_times():
    for time in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"time=.*: expected a finite diffusion time >= 0"):
            Diffusion.from_networkx(PATH, time=time)
        with pytest.raises(ValueError, match=r"time="):
            Diffusion(time, WEIGHTED).apply(jnp.ones((12, 1)))
        traced = jax.jit(lambda time: Diffusion(time, WEIGHTED).apply(jnp.ones((12, 1))))(time)
        assert np.isnan(traced).all()


def features(steps: int, decay: float) -> np.ndarray:
    degrees = WEIGHTED.degrees[:, None]
    walk = np.divide(WEIGHTED.dense(), degrees, out=np.zeros((12, 12)), where=degrees > 0)
    return sum((decay * walk) @ np.linalg.matrix_power(decay * walk, n) for n in range(steps)) + np.eye(12)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_exact_random_walks_are_matrix_powers(steps):
    mask = RandomWalk.from_graph(WEIGHTED, steps=steps, decay=0.6)
    expected = features(steps, 0.6) @ features(steps, 0.6).T
    np.testing.assert_allclose(mask.dense(), expected, atol=1e-12)
    np.testing.assert_allclose(mask.apply(jnp.eye(12)), expected, atol=1e-12)


def test_sampled_walks_are_unbiased_off_the_diagonal():
    draws = [
        RandomWalk.from_graph(WEIGHTED, steps=3, decay=0.6, walks=2, key=jax.random.key(seed)).dense()
        for seed in range(400)
    ]
    mean, error = np.mean(draws, axis=0), np.std(draws, axis=0) / np.sqrt(len(draws))
    exact = np.asarray(RandomWalk.from_graph(WEIGHTED, steps=3, decay=0.6).dense())
    off = ~np.eye(12, dtype=bool)
    assert (np.abs(mean - exact)[off] <= 4 * error[off] + 1e-12).all()
    assert (error[off] > 0).sum() >= 20
    assert (np.diagonal(mean) >= np.diagonal(exact) - 1e-12).all()  # squares of estimates
    assert (np.diagonal(mean) > 1.05 * np.diagonal(exact)).any()


def test_walks_go_along_edges_and_end_at_isolated_nodes():
    visits = RandomWalk.from_graph(WEIGHTED, steps=4, decay=0.5, walks=3, key=jax.random.key(0)).visits.array
    for walk in visits:
        before = np.arange(12)
        for nodes in walk:
            for a, b in zip(before, nodes, strict=True):
                assert b == 12 if a == 12 or WEIGHTED.degrees[a] == 0 else WEIGHTED.dense()[a, b] > 0
            before = nodes


def test_a_key_decides_the_walks():
    def sampled(seed: int) -> RandomWalk:
        return RandomWalk.from_networkx(PATH, steps=5, decay=0.5, walks=3, key=jax.random.key(seed))

    assert sampled(0).visits == sampled(0).visits
    assert sampled(0).visits != sampled(1).visits


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": -1}, "steps=-1: expected 0 or more"),
        ({"steps": 2, "walks": 3}, "walks=3, key=None: expected both"),
        ({"steps": 2, "walks": 0, "key": jax.random.key(0)}, "walks=0: expected a positive number"),
    ],
)
def test_bad_walks(options, match):
    with pytest.raises(ValueError, match=match):
        RandomWalk.from_networkx(PATH, decay=0.5, **options)
