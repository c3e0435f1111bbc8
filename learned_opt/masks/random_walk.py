"""The random-walk graph-node kernel of the Graph Kernel Attention Transformer (GKAT)."""

from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.masks.base import Mask
from learned_opt.masks.graph import Graph
from learned_opt.masks.static import Fixed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomWalk(Mask):
    """Nodes are close if random walks from them meet: M = F F', F = sum_(n <= steps) decay^n P^n, P = D^-1 A.

    Row i of F counts the discounted visits of a walk that starts at node i and goes along an edge with a
    probability in proportion to its weight; at an isolated node it ends. This is GKAT's kernel (arXiv
    2107.07999) without its normalisation by |F_i|. M is symmetric and positive semi-definite.

    Without `walks` F is its expectation, and M x takes 2 `steps` sparse products. With them F is an average
    over walks that were sampled once, when the mask was made. Walks from different nodes are independent, so
    entries off the diagonal are unbiased; one on the diagonal is the square of an estimate, too large by the
    sum of the variances of row i of F, which falls as 1 / walks.

    Made by `from_graph` or `from_networkx`.

    Attributes:
      decay: discount per step, a learnable scalar.
      graph: static.
      steps: the length of a walk, static.
      visits: [walks, steps, L], the node that the walk from each node has reached, L if it has ended; None
        for the expectation; static.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Graph, RandomWalk
      >>> mask = RandomWalk.from_graph(Graph.from_edges(2, [(0, 1)]), steps=1, decay=0.5)
      >>> mask.dense()  # F = [[1, 0.5], [0.5, 1]]
      Array([[1.25, 1.  ],
             [1.  , 1.25]], dtype=float32)
    """

    decay: ArrayLike
    graph: Graph = field(metadata={"static": True})
    steps: int = field(metadata={"static": True})
    visits: Fixed | None = field(default=None, metadata={"static": True})

    @classmethod
    def from_graph(
        cls,
        graph: Graph,
        *,
        steps: int,
        decay: ArrayLike,
        walks: int | None = None,
        key: jax.Array | None = None,
    ) -> Self:
        """A mask over the nodes of a graph.

        Args:
          graph: undirected.
          steps: the length of a walk, >= 0.
          decay: discount per step.
          walks: walks sampled from every node; None for the expectation.
          key: of the samples; a concrete `jax.random.key`.

        Returns:
          The mask.

        Raises:
          ValueError: if `steps` is negative or `walks` not positive, or if only one of `walks` and `key` is
            given.

        Example:
          >>> import jax
          >>> from learned_opt.masks import Graph, RandomWalk
          >>> graph = Graph.from_edges(3, [(0, 1), (1, 2)])
          >>> RandomWalk.from_graph(graph, steps=4, decay=0.5, walks=8, key=jax.random.key(0)).visits
          Fixed(int32[8, 4, 3])
        """
        if steps < 0:
            raise ValueError(f"steps={steps}: expected 0 or more")
        if (walks is None) != (key is None):
            raise ValueError(f"walks={walks}, key={key}: expected both (sampled) or neither (exact)")
        if walks is not None and walks < 1:
            raise ValueError(f"walks={walks}: expected a positive number, or None for the expectation")
        if walks is None or key is None:
            return cls(decay, graph, steps)
        return cls(decay, graph, steps, Fixed(_sample(graph, steps, walks, key)))

    @classmethod
    def from_networkx(
        cls,
        graph: Any,
        *,
        steps: int,
        decay: ArrayLike,
        walks: int | None = None,
        key: jax.Array | None = None,
        weight: str = "weight",
    ) -> Self:
        """A mask over the nodes of an undirected networkx graph, in the order of `graph.nodes`.

        Args:
          graph: as `Graph.from_networkx` reads it.
          steps: the length of a walk, >= 0.
          decay: discount per step.
          walks: walks sampled from every node; None for the expectation.
          key: of the samples; a concrete `jax.random.key`.
          weight: the edge attribute with the weight; edges without it weigh 1.

        Returns:
          The mask.

        Raises:
          ValueError: as `from_graph` and `Graph.from_networkx`.

        Example:
          >>> import networkx as nx
          >>> from learned_opt.masks import RandomWalk
          >>> RandomWalk.from_networkx(nx.cycle_graph(5), steps=3, decay=0.5).size
          5
        """
        own = Graph.from_networkx(graph, weight)
        return cls.from_graph(own, steps=steps, decay=decay, walks=walks, key=key)

    @property
    def size(self) -> int:
        """The number of tokens L."""
        return self.graph.size

    def dense(self) -> jax.Array:
        """The matrix [L, L], of the same walks as `apply`."""
        if self.visits is None:
            walk = _inverse_degrees(self.graph) * self.graph.dense()
            powers = [np.linalg.matrix_power(walk, n) for n in range(self.steps + 1)]
        else:
            powers = [np.eye(self.size)]
            for nodes in np.moveaxis(self.visits.array, 1, 0):  # [walks, L]
                counts = np.zeros((self.size, self.size + 1))
                np.add.at(counts, (np.arange(self.size), nodes), 1 / len(nodes))
                powers.append(counts[:, :-1])
        features = jnp.tensordot(jnp.asarray(self.decay) ** np.arange(len(powers)), np.stack(powers), axes=1)
        return features @ features.T

    def _multiply(self, x: jax.Array) -> jax.Array:
        decay = jnp.asarray(self.decay, x.dtype)
        expand = self._expected if self.visits is None else self._sampled
        return expand(decay, expand(decay, x, transpose=True), transpose=False)

    def _expected(self, decay: jax.Array, x: jax.Array, transpose: bool) -> jax.Array:
        """F x or F' x by Horner's rule, F = I + decay P (I + decay P (...))."""
        inverse = jnp.asarray(_inverse_degrees(self.graph), x.dtype)

        def walk(y: jax.Array) -> jax.Array:
            return self.graph.matvec(inverse * y) if transpose else inverse * self.graph.matvec(y)

        return jax.lax.fori_loop(0, self.steps, lambda _, y: x + decay * walk(y), x)

    def _sampled(self, decay: jax.Array, x: jax.Array, transpose: bool) -> jax.Array:
        """F x or F' x, one step of one walk from every node at a time, so that memory stays O(L F)."""
        assert self.visits is not None
        visits = self.visits.array.reshape(-1, self.size)
        walks = len(self.visits.array)
        weights = jnp.tile(decay ** jnp.arange(1, self.steps + 1, dtype=x.dtype) / walks, walks)

        @jax.checkpoint
        def visited(nodes: jax.Array, weight: jax.Array, x: jax.Array) -> jax.Array:
            if transpose:
                return weight * jnp.zeros_like(x).at[..., nodes, :].add(x, mode="drop")
            return weight * x.at[..., nodes, :].get(mode="fill", fill_value=0)

        def add(total: jax.Array, visit: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return total + visited(*visit, x), None

        return jax.lax.scan(add, x, (jnp.asarray(visits), weights))[0]


def _inverse_degrees(graph: Graph) -> np.ndarray:
    """[L, 1]; zero at isolated nodes, where walks end."""
    degrees = graph.degrees[:, None]
    return np.divide(1, degrees, out=np.zeros_like(degrees), where=degrees > 0)


def _sample(graph: Graph, steps: int, walks: int, key: jax.Array) -> np.ndarray:
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    starts = np.searchsorted(graph.rows.array, np.arange(graph.size + 2))  # one row more, for ended walks
    total = np.append(0.0, np.cumsum(graph.weights.array))
    lower, upper = total[starts[:-1]], total[starts[1:]]
    columns = np.append(graph.columns.array, graph.size)
    visits = np.empty((walks, steps, graph.size), np.int32)
    for walk in range(walks):
        nodes = np.arange(graph.size)
        for step in range(steps):
            draws = lower[nodes] + generator.random(graph.size) * (upper - lower)[nodes]
            edges = np.minimum(np.searchsorted(total, draws, side="right"), starts[nodes + 1]) - 1
            nodes = np.where(upper[nodes] > lower[nodes], columns[edges], graph.size)
            visits[walk, step] = nodes
    return visits
