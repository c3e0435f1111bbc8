"""Undirected weighted graphs, as static structure."""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from learned_opt.masks.static import Fixed

_UNROLLED = 8  # neighbours of a node that one pass over memory adds up


@dataclass(frozen=True)
class Graph:
    """The symmetric adjacency matrix A >= 0 of a graph, of which only the edges are kept.

    Made by `from_edges`, `from_networkx` or `from_scipy`; hashable. Graphs may be disconnected, have isolated
    nodes and loops. The weights are structure and not learned.

    Attributes:
      size: the number of nodes L.
      rows: [E], the row of every non-zero entry of A (every edge twice, a loop once), ascending.
      columns: [E], its column.
      weights: [E], the entry.

    Example:
      >>> from learned_opt.masks import Graph
      >>> path = Graph.from_edges(3, [(0, 1), (1, 2)])
      >>> path.degrees, path.matvec([[1.0], [2.0], [4.0]])[:, 0]
      (array([1., 2., 1.]), Array([2., 5., 2.], dtype=float32))
    """

    size: int
    rows: Fixed
    columns: Fixed
    weights: Fixed

    @classmethod
    def from_edges(cls, size: int, edges: ArrayLike, weights: ArrayLike | None = None) -> Self:
        """A graph from its edges, each given once, in either direction.

        Args:
          size: the number of nodes L.
          edges: [edges, 2] integers in 0..L-1. Parallel edges add up.
          weights: [edges], finite and >= 0; 1 if left out.

        Returns:
          The graph.

        Raises:
          ValueError: if an edge or a weight does not fit.

        Example:
          >>> from learned_opt.masks import Graph
          >>> Graph.from_edges(2, [(0, 1)], weights=[3.0]).dense()
          array([[0., 3.],
                 [3., 0.]])
        """
        pairs = np.asarray(edges).reshape(-1, 2) if np.size(edges) == 0 else np.asarray(edges)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"edges has shape {pairs.shape}: expected [edges, 2]")
        if pairs.size and (pairs.dtype.kind not in "iu" or pairs.min() < 0 or pairs.max() >= size):
            raise ValueError(
                f"edges name nodes {pairs.min()}..{pairs.max()}: expected integers in 0..{size - 1}"
            )
        values = np.ones(len(pairs)) if weights is None else np.asarray(weights, float)
        if values.shape != (len(pairs),):
            raise ValueError(f"weights has shape {values.shape}: expected ({len(pairs)},), one for each edge")
        _require_weights(values)
        twice = pairs[:, 0] != pairs[:, 1]
        both = np.concatenate([pairs, pairs[twice][:, ::-1]]).astype(np.int64)
        cells, where = np.unique(both[:, 0] * size + both[:, 1], return_inverse=True)
        summed = np.bincount(where, np.concatenate([values, values[twice]]), len(cells))
        rows, columns = np.divmod(cells, max(size, 1))
        return cls(size, Fixed(rows.astype(np.int32)), Fixed(columns.astype(np.int32)), Fixed(summed))

    @classmethod
    def from_networkx(cls, graph: Any, weight: str = "weight") -> Self:
        """A graph from an undirected `networkx.Graph` (or MultiGraph), nodes in the order of `graph.nodes`.

        Args:
          graph: the graph; only its methods are used, networkx itself is not needed.
          weight: the edge attribute with the weight; edges without it weigh 1.

        Returns:
          The graph.

        Raises:
          ValueError: if the graph is directed or a weight is negative.
          TypeError: if it is no graph.

        Example:
          >>> import networkx as nx
          >>> from learned_opt.masks import Graph
          >>> Graph.from_networkx(nx.star_graph(3)).degrees
          array([3., 1., 1., 1.])
        """
        pairs, weights = undirected_edges(graph, weight)
        return cls.from_edges(len(graph.nodes), pairs, weights)

    @classmethod
    def from_scipy(cls, matrix: Any) -> Self:
        """A graph from a symmetric adjacency matrix of `scipy.sparse`, in any of its formats.

        Args:
          matrix: [L, L], entries >= 0; only its methods are used, scipy itself is not needed.

        Returns:
          The graph.

        Raises:
          ValueError: if the matrix is not square, not symmetric or has negative entries.
          TypeError: if it is not sparse.

        Example:
          >>> import scipy.sparse
          >>> from learned_opt.masks import Graph
          >>> Graph.from_scipy(scipy.sparse.eye(2)).degrees  # two loops
          array([1., 1.])
        """
        if not hasattr(matrix, "tocoo"):
            raise TypeError(
                f"{type(matrix).__name__}: expected scipy.sparse; wrap it in scipy.sparse.coo_array"
            )
        if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"adjacency matrix of shape {matrix.shape}: expected [L, L]")
        if (matrix != matrix.T).sum():
            raise ValueError(
                "adjacency matrix is not symmetric (a directed graph): expected one, as (A + A.T) / 2"
            )
        entries = matrix.tocoo()
        upper = entries.row <= entries.col
        edges = np.stack([entries.row, entries.col], axis=1)[upper]
        return cls.from_edges(matrix.shape[0], edges, entries.data[upper])

    @property
    def degrees(self) -> np.ndarray:
        """[L], the sums of the rows of A."""
        sums = np.bincount(self.rows.array, self.weights.array, self.size)
        return sums.astype(float)  # of nothing NumPy makes integers

    def matvec(self, x: jax.Array) -> jax.Array:
        """The product A x for x of shape [..., L, F], O(E F)."""
        # Declared as the solution of a symmetric linear system, which is never set up: JAX then knows that A
        # is its own transpose, and gathers in gradients too, where that of a gather would scatter.
        return jax.lax.custom_linear_solve(
            lambda y: y, jnp.asarray(x), lambda _, x: self._gathered(x), symmetric=True
        )

    def _gathered(self, x: jax.Array) -> jax.Array:
        counts = np.bincount(self.rows.array, minlength=self.size)
        starts = np.cumsum(counts) - counts
        # Rows of similar length are padded to one table each. Its columns are added one by one: each is a
        # gather of whole rows of x, and no [E, F] array stands between.
        widths = 2 ** np.ceil(np.log2(np.maximum(counts, 1))).astype(int)
        order, sums = np.argsort(widths, kind="stable"), []
        for width in np.unique(widths):
            nodes = np.flatnonzero(widths == width)
            slots = np.arange(width)[:, None]
            entries = np.where(slots < counts[nodes], starts[nodes] + slots, -1)
            weights = jnp.asarray(np.append(self.weights.array, 0)[entries], x.dtype)
            neighbours = np.where(entries < 0, nodes, np.append(self.columns.array, 0)[entries])

            def add(total: jax.Array, slot: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
                weight, neighbour = slot
                rows = x.at[..., neighbour, :].get(mode="promise_in_bounds")
                return total + weight[:, None] * rows, None

            start = jnp.zeros((*x.shape[:-2], len(nodes), x.shape[-1]), x.dtype)
            table = weights, jnp.asarray(neighbours)
            sums.append(jax.lax.scan(add, start, table, unroll=min(int(width), _UNROLLED))[0])
        if len(sums) == 1:
            return sums[0]
        return jnp.concatenate(sums, axis=-2)[..., np.argsort(order), :] if sums else x

    def dense(self) -> np.ndarray:
        """The matrix A, [L, L] float64."""
        matrix = np.zeros((self.size, self.size))
        matrix[self.rows.array, self.columns.array] = self.weights.array
        return matrix


def undirected_edges(graph: Any, weight: str) -> tuple[np.ndarray, np.ndarray]:
    """The edges [edges, 2] of an undirected networkx graph, nodes numbered in order, and their weights.

    Example:
      >>> import networkx as nx
      >>> from learned_opt.masks.graph import undirected_edges
      >>> undirected_edges(nx.Graph([("a", "b")]), "weight")
      (array([[0, 1]]), array([1.]))
    """
    if not hasattr(graph, "is_directed"):
        raise TypeError(f"{type(graph).__name__}: expected a networkx graph")
    if graph.is_directed():
        raise ValueError(f"directed graph {graph}: expected an undirected one, as graph.to_undirected()")
    number = {node: index for index, node in enumerate(graph.nodes)}
    edges = list(graph.edges(data=weight, default=1.0))
    pairs = np.asarray([(number[a], number[b]) for a, b, _ in edges], int).reshape(-1, 2)
    values = np.asarray([value for *_, value in edges], float)
    _require_weights(values)
    return pairs, values


def _require_weights(values: np.ndarray) -> None:
    bad = values[~((values >= 0) & np.isfinite(values))]
    if bad.size:
        raise ValueError(f"edge weight {bad[0]}: expected finite weights >= 0")
