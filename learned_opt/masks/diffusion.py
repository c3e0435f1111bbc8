"""The graph diffusion mask: the heat kernel of a graph."""

import functools
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.masks.base import Mask, known
from learned_opt.masks.graph import Graph

_PIECE = 20.0  # the most expected jumps in one piece: exp(-20) is far from underflow in float32
_TERMS = {"float32": 50, "float64": 80}  # beyond them the Poisson(20) law has less than a rounding error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diffusion(Mask):
    """The heat kernel of an undirected graph: M = exp(-time (D - A)), D the diagonal of degrees.

    Diffusion on graphs as a mask, arXiv 2107.07999. M is symmetric, its entries are >= 0, its rows sum to 1,
    and nodes of different components do not see each other. M x is computed by uniformisation,

        exp(-t (D - A)) = sum_k Poisson(k; t Lambda) P^k,    P = I - (D - A) / Lambda,    Lambda = max degree,

    in pieces of t Lambda <= 20 with a fixed number of terms each. All terms are positive, so nothing cancels.
    It takes about 2.5 t Lambda products with A (4 in float64) of O(E F). The gradient is taken by rules of
    its own, d/dt M x = -(D - A) M x and M for x, and stores no term. It is for reverse mode (`jax.grad`,
    `jax.vjp`) of any order.

    Attributes:
      time: a learnable scalar >= 0. A negative or infinite one raises where it is concrete, and gives NaN
        where it is traced.
      graph: static; the weights of the edges are rates per unit of time.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Diffusion, Graph
      >>> mask = Diffusion(time=1.0, graph=Graph.from_edges(2, [(0, 1)]))
      >>> for heat in mask.apply(jnp.array([[1.0], [0.0]]))[:, 0]:  # (1 +- exp(-2)) / 2
      ...     print(f"{heat:.4f}")
      0.5677
      0.4323
    """

    time: ArrayLike
    graph: Graph = field(metadata={"static": True})

    @classmethod
    def from_networkx(cls, graph: Any, *, time: ArrayLike, weight: str = "weight") -> Self:
        """The heat kernel of an undirected networkx graph, as `Graph.from_networkx` reads it.

        Args:
          graph: nodes in the order of `graph.nodes`.
          time: how long to diffuse.
          weight: the edge attribute with the weight; edges without it weigh 1.

        Returns:
          The mask.

        Raises:
          ValueError: if the graph is directed, a weight is negative or the time is.

        Example:
          >>> import networkx as nx
          >>> from learned_opt.masks import Diffusion
          >>> Diffusion.from_networkx(nx.cycle_graph(5), time=0.5).size
          5
        """
        mask = cls(time, Graph.from_networkx(graph, weight))
        mask._check()
        return mask

    @property
    def size(self) -> int:
        """The number of tokens L."""
        return self.graph.size

    def dense(self) -> jax.Array:
        """The matrix [L, L], from all eigenvectors of D - A."""
        self._check()
        values, vectors = np.linalg.eigh(np.diag(self.graph.degrees) - self.graph.dense())
        basis = jnp.asarray(vectors)
        return (basis * jnp.exp(-jnp.asarray(self.time) * values)) @ basis.T

    def _check(self) -> None:
        time = known(self.time)
        if time is not None and not np.all((time >= 0) & np.isfinite(time)):
            raise ValueError(f"time={time}: expected a finite diffusion time >= 0")

    def _multiply(self, x: jax.Array) -> jax.Array:
        return _diffuse(self.graph, jnp.asarray(self.time, x.dtype), x)


def _laplacian(graph: Graph, x: jax.Array) -> jax.Array:
    return jnp.asarray(graph.degrees, x.dtype)[:, None] * x - graph.matvec(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _diffuse(graph: Graph, time: jax.Array, x: jax.Array) -> jax.Array:
    fastest = float(graph.degrees.max())
    if fastest == 0:
        return jnp.where(_possible(time), x, jnp.nan)
    jumps = jnp.where(_possible(time), time, 0) * fastest
    pieces = jnp.maximum(jnp.ceil(jumps / _PIECE), 1).astype(int)
    mean = jumps / pieces

    def term(carry: tuple, k: jax.Array) -> tuple:
        total, power, probability = carry
        power = power - _laplacian(graph, power) / fastest
        probability = probability * mean / k
        return (total + probability * power, power, probability), None

    def piece(_: int, x: jax.Array) -> jax.Array:
        first = jnp.exp(-mean)
        counts = jnp.arange(1, _TERMS[x.dtype.name] + 1, dtype=x.dtype)
        return jax.lax.scan(term, (first * x, x, first), counts)[0][0]

    return jnp.where(_possible(time), jax.lax.fori_loop(0, pieces, piece, x), jnp.nan)


def _possible(time: jax.Array) -> jax.Array:
    return (time >= 0) & jnp.isfinite(time)


def _forward(graph: Graph, time: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple]:
    out = _diffuse(graph, time, x)
    return out, (time, out)


def _backward(graph: Graph, saved: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    time, out = saved
    return -jnp.sum(cotangent * _laplacian(graph, out)), _diffuse(graph, time, cotangent)


_diffuse.defvjp(_forward, _backward)
