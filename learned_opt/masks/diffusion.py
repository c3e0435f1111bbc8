"""The graph diffusion mask: the heat kernel of a graph."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.masks.base import Mask, known
from learned_opt.masks.graph import Graph

_PIECE = 100.0  # the largest z of one piece: rounding errors grow with it
_TERMS = 200  # more than any piece needs, in float64 too


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diffusion(Mask):
    """The heat kernel of an undirected graph: M = exp(-time (D - A)), D the diagonal of degrees.

    Diffusion on graphs as a mask, arXiv 2107.07999. M is symmetric, its entries are >= 0, its rows sum to 1,
    and nodes of different components do not see each other. With T_k the Chebyshev polynomials, I_k the
    modified Bessel functions and no eigenvalue of D - A above 2 Lambda,

        exp(-t (D - A)) = exp(-z) (I_0(z) + 2 sum_(k > 0) I_k(z) T_k(P)),
        P = I - (D - A) / Lambda,    z = t Lambda.

    Lambda is half of the largest sum of the degrees at both ends of an edge. As many terms are taken as the
    precision needs, 18 (29 in float64) for z = 8, 58 (88) for z = 100, in pieces of z <= 100. That many are
    the products with A, of O(E F). Rounding is relative to the largest entry of a column of x; what it makes
    stays between the smallest and the largest one, as in exact arithmetic, so that M x >= 0 for x >= 0.

    The gradient is taken by rules of its own, d/dt M x = -(D - A) M x and M for x, and stores no term. It is
    for reverse mode (`jax.grad`, `jax.vjp`) of any order.

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


def _half_bound(graph: Graph) -> float:
    """Lambda: no eigenvalue of D - A is above the sum of the degrees at the ends of some edge."""
    edges = graph.rows.array != graph.columns.array  # D - A has no loops
    rows, columns = graph.rows.array[edges], graph.columns.array[edges]
    degrees = np.bincount(rows, graph.weights.array[edges], graph.size)
    return float((degrees[rows] + degrees[columns]).max(initial=0)) / 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _diffuse(graph: Graph, time: jax.Array, x: jax.Array) -> jax.Array:
    fastest = _half_bound(graph)
    if fastest == 0:
        return jnp.where(_possible(time), x, jnp.nan)
    total = jnp.where(_possible(time), time, 0) * fastest
    pieces = jnp.maximum(jnp.ceil(total / _PIECE), 1).astype(int)

    def piece(_: int, x: jax.Array) -> jax.Array:
        return _chebyshev(lambda y: -_laplacian(graph, y) / fastest, total / pieces, x)

    out = jax.lax.fori_loop(0, pieces, piece, x)
    bounded = jnp.clip(out, x.min(-2, keepdims=True), x.max(-2, keepdims=True))
    return jnp.where(_possible(time), bounded, jnp.nan)


def _chebyshev(step: Callable[[jax.Array], jax.Array], z: jax.Array, x: jax.Array) -> jax.Array:
    """exp(z Q) x for `step`, the product with a symmetric Q of eigenvalues in [-2, 0].

    Clenshaw's recurrence for the Chebyshev series of P = I + Q, in Reinsch's form for slow modes (Q near 0),
    runs downwards beside Miller's for the ratios I_k / I_(k - 1). Carried are, in units of 2 I_k, the sum b_k
    of the recurrence and d_k = b_k - b_(k + 1), and the sum of I_j over j >= k in units of I_k.
    """
    number = _terms(z)

    def down(index: int, carry: tuple) -> tuple:
        ratio, change, value, mass = carry
        change = x + ratio * (change + 2 * step(value))
        below = z / (2 * (number - index).astype(z.dtype) + z * ratio)
        return below, change, change + ratio * value, 1 + ratio * mass

    start = z / (2 * number.astype(z.dtype)), x, x, jnp.ones_like(z)
    ratio, change, value, mass = jax.lax.fori_loop(1, number, down, start)
    return (x + 2 * ratio * (change + step(value))) / (1 + 2 * ratio * mass)


def _terms(z: jax.Array) -> jax.Array:
    """How many k >= 1 matter: exp(-z) I_k(z) is the law of a sum of jumps, with the Chernoff bound below."""
    k = jnp.arange(1, _TERMS, dtype=z.dtype)
    bound = jnp.sqrt(z**2 + k**2) - z - k * jnp.arcsinh(k / z)
    return jnp.maximum(jnp.sum(bound > jnp.log(jnp.finfo(z.dtype).eps / 2)), 1)


def _possible(time: jax.Array) -> jax.Array:
    return (time >= 0) & jnp.isfinite(time)


def _forward(graph: Graph, time: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple]:
    out = _diffuse(graph, time, x)
    return out, (time, out)


def _backward(graph: Graph, saved: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    time, out = saved
    return -jnp.sum(cotangent * _laplacian(graph, out)), _diffuse(graph, time, cotangent)


_diffuse.defvjp(_forward, _backward)
