"""Rooted forests, as static structure, and the two passes of arXiv 2107.07999 over them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike


class Layer(NamedTuple):
    """Heavy paths that have equally many light edges above them, each path from its top down."""

    nodes: np.ndarray  # [n]
    lengths: np.ndarray  # [n], of the edge to the parent; infinite for a root
    inner: np.ndarray  # [n], whether the parent stands just before it, on the same path
    tops: np.ndarray  # [paths], positions in this layer of the tops that have a parent
    parents: np.ndarray  # [paths], positions of those parents in the layer before
    doublings: int  # log2 of the number of nodes on the longest path, rounded up


def topological(parents: np.ndarray) -> np.ndarray:
    """The nodes, every parent before its children; [N].

    Raises:
      ValueError: if following the parents leads around a cycle.

    Example:
      >>> import numpy as np
      >>> from learned_opt.masks.forest import topological
      >>> topological(np.array([1, -1, 1]))
      array([1, 0, 2])
    """
    children = np.argsort(parents, kind="stable")
    starts = np.searchsorted(parents[children], np.arange(len(parents) + 1))
    order = list(np.flatnonzero(parents < 0))
    for node in order:  # grows while it is read
        order.extend(children[starts[node] : starts[node + 1]])
    if len(order) < len(parents):
        stuck = sorted(set(range(len(parents))) - {int(node) for node in order})
        raise ValueError(f"parents lead around a cycle above node {stuck[0]}: expected a tree or a forest")
    return np.asarray(order, int)


def root(size: int, edges: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parents [N] (-1 for roots) and the lengths [N] of the edges to them, for an undirected forest.

    Raises:
      ValueError: if the edges close a cycle.

    Example:
      >>> import numpy as np
      >>> from learned_opt.masks.forest import root
      >>> root(3, np.array([[1, 0], [1, 2]]), np.array([5.0, 6.0]))
      (array([-1,  0,  1]), array([0., 5., 6.]))
    """
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(size)]
    for (a, b), length in zip(edges.tolist(), lengths.tolist(), strict=True):
        neighbours[a].append((b, length))
        neighbours[b].append((a, length))
    parents, above, seen = np.full(size, -1), np.zeros(size), np.zeros(size, bool)
    trees = 0
    for start in range(size):
        if seen[start]:
            continue
        trees, seen[start], queue = trees + 1, True, [start]
        for node in queue:
            for other, length in neighbours[node]:
                if not seen[other]:
                    seen[other], parents[other], above[other] = True, node, length
                    queue.append(other)
    if len(edges) != size - trees:
        raise ValueError(
            f"{len(edges)} edges on {size} nodes in {trees} parts close a cycle: expected a tree or a forest"
        )
    return parents, above


def distances(parents: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Path lengths [N, N] between all nodes, infinite between trees; O(N^2), the oracle.

    Example:
      >>> import numpy as np
      >>> from learned_opt.masks.forest import distances
      >>> distances(np.array([-1, 0, -1]), np.array([0.0, 2.0, 0.0]))
      array([[ 0.,  2., inf],
             [ 2.,  0., inf],
             [inf, inf,  0.]])
    """
    table = np.full((len(parents), len(parents)), np.inf)
    for node in topological(parents):
        if parents[node] >= 0:  # so far the row of the parent holds the nodes that came before
            table[node] = table[parents[node]] + lengths[node]
            table[:, node] = table[node]
        table[node, node] = 0
    return table


def heavy_paths(parents: np.ndarray, lengths: np.ndarray) -> list[Layer]:
    """Cuts a forest into paths that follow the largest subtree, so that there are at most 1 + log2 N layers.

    Example:
      >>> import numpy as np
      >>> from learned_opt.masks.forest import heavy_paths
      >>> star = heavy_paths(np.array([-1, 0, 0, 0]), np.ones(4))
      >>> [layer.nodes.tolist() for layer in star]
      [[0, 1], [2, 3]]
    """
    order = topological(parents)
    weight, heavy = np.ones(len(parents), int), np.full(len(parents), -1)
    for node in order[::-1]:
        if (parent := parents[node]) >= 0:
            weight[parent] += weight[node]
    for node in order:
        parent = parents[node]
        if parent >= 0 and (heavy[parent] < 0 or weight[node] > weight[heavy[parent]]):
            heavy[parent] = node
    depth = np.zeros(len(parents), int)  # light edges above
    top, below = np.arange(len(parents)), np.zeros(len(parents), int)  # of its path; nodes between
    for node in order:
        if (parent := parents[node]) >= 0:
            on = heavy[parent] == node
            depth[node] = depth[parent] + (not on)
            if on:
                top[node], below[node] = top[parent], below[parent] + 1
    ranked = np.lexsort((below, top, depth))
    place = np.empty(len(parents), int)
    layers = []
    for nodes in np.split(ranked, np.flatnonzero(np.diff(depth[ranked])) + 1):
        place[nodes] = np.arange(len(nodes))
        tops = np.flatnonzero((below[nodes] == 0) & (parents[nodes] >= 0))
        above = np.where(parents[nodes] < 0, np.inf, lengths[nodes])
        longest = int(below[nodes].max(initial=0))
        layers.append(
            Layer(nodes, above, below[nodes] > 0, tops, place[parents[nodes[tops]]], longest.bit_length())
        )
    return layers


def two_passes(layers: list[Layer], rate: jax.Array, x: jax.Array) -> jax.Array:
    """Sums over every node's tree, `y_i = sum_j exp(-rate distance(i, j)) x_j`.

    Up: U_v = x_v + sum over children c of a_c U_c. Down: y_v = (1 - a_v^2) U_v + a_v y_parent. Here a_v =
    exp(-rate length) on the edge above v, 0 for a root. Along a heavy path both are linear recurrences, done
    by doubling: O(N F log P) work for longest paths of P nodes, in O(log N log P) parallel steps.

    Args:
      layers: of `heavy_paths`.
      rate: scalar.
      x: [..., N, F].

    Returns:
      [..., N, F].

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from learned_opt.masks.forest import heavy_paths, two_passes
      >>> path = heavy_paths(np.array([-1, 0, 1]), np.ones(3))
      >>> two_passes(path, jnp.log(2.0), jnp.ones((3, 1)))[:, 0]
      Array([1.75, 2.  , 1.75], dtype=float32)
    """
    factors, inner = [], []
    for layer in layers:
        edge = np.isfinite(layer.lengths)
        factor = jnp.exp(-rate * np.where(edge, layer.lengths, 0)).astype(x.dtype)
        factors.append(jnp.where(edge, factor, 0))
        inner.append(jnp.where(layer.inner, factors[-1], 0))

    up: list[jax.Array] = []
    for k in reversed(range(len(layers))):
        sums = x[..., layers[k].nodes, :]
        if up:
            below = layers[k + 1]
            arriving = factors[k + 1][below.tops, None] * up[0][..., below.tops, :]
            sums = sums.at[..., below.parents, :].add(arriving)
        # The factor of a node belongs to the edge above it: shifted by one when the path is read upwards.
        up.insert(0, _along(layers[k], jnp.roll(inner[k], -1), sums, -1))

    down: list[jax.Array] = []
    for layer, sums, factor, within in zip(layers, up, factors, inner, strict=True):
        start = (1 - factor**2)[:, None] * sums
        if down:
            arriving = factor[layer.tops, None] * down[-1][..., layer.parents, :]
            start = start.at[..., layer.tops, :].add(arriving, unique_indices=True)
        down.append(_along(layer, within, start, 1))
    back = np.argsort(np.concatenate([layer.nodes for layer in layers]))
    return jnp.concatenate(down, axis=-2)[..., back, :]


def _along(layer: Layer, factor: jax.Array, x: jax.Array, towards: int) -> jax.Array:
    """y_i = x_i + factor_i y_(i - towards), by doubling; factors are 0 where paths start.

    `jax.lax.associative_scan` does less work, but unrolls into a program that takes many times longer to
    compile when there is one for every layer.
    """

    def double(k: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        factor, y = state
        shift = towards * 2**k
        return factor * jnp.roll(factor, shift), y + factor[:, None] * jnp.roll(y, shift, axis=-2)

    return jax.lax.fori_loop(0, layer.doublings, double, (factor, x))[1]


def as_parents(parents: ArrayLike, lengths: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Checked parents and lengths (1 if None).

    Raises:
      ValueError: if they do not fit, are negative or not finite.

    Example:
      >>> from learned_opt.masks.forest import as_parents
      >>> as_parents([-1, 0], None)
      (array([-1,  0]), array([1., 1.]))
    """
    above = np.asarray(parents, int) if np.size(parents) == 0 else np.asarray(parents)
    if above.ndim != 1 or above.dtype.kind not in "iu":
        raise ValueError(f"parents of shape {above.shape} and dtype {above.dtype}: expected integers [N]")
    if above.size and (above.min() < -1 or above.max() >= len(above)):
        raise ValueError(f"parents between {above.min()} and {above.max()}: expected -1..{len(above) - 1}")
    edges = np.ones(len(above)) if lengths is None else np.asarray(lengths, float)
    if edges.shape != above.shape:
        raise ValueError(f"lengths has shape {edges.shape}: expected {above.shape}, that of parents")
    bad = edges[~((edges >= 0) & np.isfinite(edges))]
    if bad.size:
        raise ValueError(f"edge length {bad[0]}: expected finite lengths >= 0")
    topological(above)
    return above, edges
