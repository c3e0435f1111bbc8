"""The tree mask: decay with the distance in a tree."""

from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.masks import forest
from learned_opt.masks.base import Mask
from learned_opt.masks.graph import undirected_edges
from learned_opt.masks.static import Fixed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tree(Mask):
    """Decay with the distance in a tree or a forest: M_ij = exp(-rate distance(i, j) - bias).

    Tokens of different trees do not see each other: M_ij = 0. The exponential of an affine function of the
    tree distance (arXiv 2107.07999), by one pass up and one down: for N nodes O(N F log P) work, where P, the
    longest heavy path, is short in a bush. The passes go along all heavy paths at once, so that a chain of
    nodes is as parallel as a star.

    Made by `from_parents`, `from_networkx` or `from_pytree`.

    Attributes:
      rate: damping per unit of length, a learnable scalar of any sign.
      bias: a learnable scalar.
      parents: [N], the parent of every node, -1 for roots, static.
      lengths: [N], the length of the edge to the parent, static.
      tokens: [L], the nodes that are tokens, static.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.masks import Tree
      >>> siblings = Tree.from_parents([-1, 0, 0], rate=jnp.log(2.0))
      >>> siblings.dense()
      Array([[1.  , 0.5 , 0.5 ],
             [0.5 , 1.  , 0.25],
             [0.5 , 0.25, 1.  ]], dtype=float32)
      >>> siblings.apply(jnp.ones((3, 1)))[:, 0]
      Array([2.  , 1.75, 1.75], dtype=float32)
    """

    rate: ArrayLike
    bias: ArrayLike
    parents: Fixed = field(metadata={"static": True})
    lengths: Fixed = field(metadata={"static": True})
    tokens: Fixed = field(metadata={"static": True})

    @classmethod
    def from_parents(
        cls,
        parents: ArrayLike,
        *,
        rate: ArrayLike = 1.0,
        bias: ArrayLike = 0.0,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """A mask over the N nodes of a forest, given by their parents.

        Args:
          parents: [N] integers, -1 for a root.
          rate: damping per unit of length.
          bias: subtracted in the exponent.
          lengths: [N], of the edge to the parent, >= 0 (that of a root is not used); 1 if left out.

        Returns:
          The mask, L = N.

        Raises:
          ValueError: if the parents lead around a cycle or out of range, or a length is negative.

        Example:
          >>> from learned_opt.masks import Tree
          >>> Tree.from_parents([-1, -1], bias=0.0).dense()  # two trees of one node
          Array([[1., 0.],
                 [0., 1.]], dtype=float32)
        """
        above, edges = forest.as_parents(parents, lengths)
        return cls(rate, bias, Fixed(above), Fixed(edges), Fixed(np.arange(len(above))))

    @classmethod
    def from_networkx(
        cls, tree: Any, *, rate: ArrayLike = 1.0, bias: ArrayLike = 0.0, weight: str = "weight"
    ) -> Self:
        """A mask over the nodes of an undirected networkx tree or forest, in the order of `tree.nodes`.

        Args:
          tree: the graph; only its methods are used, networkx itself is not needed.
          rate: damping per unit of length.
          bias: subtracted in the exponent.
          weight: the edge attribute with the length; edges without it have length 1.

        Returns:
          The mask.

        Raises:
          ValueError: if the graph is directed or has a cycle, or a length is negative.

        Example:
          >>> import networkx as nx
          >>> from learned_opt.masks import Tree
          >>> Tree.from_networkx(nx.path_graph(3), rate=0.5).size
          3
        """
        edges, lengths = undirected_edges(tree, weight)
        parents, above = forest.root(len(tree.nodes), edges, lengths)
        return cls.from_parents(parents, rate=rate, bias=bias, lengths=above)

    @classmethod
    def from_pytree(cls, params: Any, *, rate: ArrayLike = 1.0, bias: ArrayLike = 0.0) -> Self:
        """A mask over the leaves of a pytree, in the order of `jax.tree.leaves`.

        The distance is the number of edges between two leaves in the tree of containers: 2 within a layer,
        more between layers. The containers are nodes, but not tokens.

        Args:
          params: a pytree, for instance of parameters; its leaves are not looked at.
          rate: damping per edge.
          bias: subtracted in the exponent.

        Returns:
          The mask, L = number of leaves.

        Example:
          >>> import jax.numpy as jnp
          >>> from learned_opt.masks import Tree
          >>> params = {"one": {"w": 0, "b": 0}, "two": {"w": 0}}
          >>> print(abs(jnp.log(Tree.from_pytree(params).dense())).round(3))
          [[0. 2. 4.]
           [2. 0. 4.]
           [4. 4. 0.]]
        """
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        number: dict[tuple, int] = {}
        parents: list[int] = []
        for path in paths:
            for end in range(len(path) + 1):
                if path[:end] not in number:
                    number[path[:end]] = len(parents)
                    parents.append(number[path[: end - 1]] if end else -1)
        above, edges = forest.as_parents(parents, None)
        return cls(rate, bias, Fixed(above), Fixed(edges), Fixed(np.asarray([number[p] for p in paths], int)))

    @property
    def size(self) -> int:
        """The number of tokens L."""
        return len(self.tokens.array)

    def distances(self) -> np.ndarray:
        """Lengths of the paths between every two tokens, float64 [L, L]; infinite in different trees."""
        tokens = self.tokens.array
        return forest.distances(self.parents.array, self.lengths.array)[np.ix_(tokens, tokens)]

    def dense(self) -> jax.Array:
        """The matrix [L, L]."""
        distance = self.distances()
        same = np.isfinite(distance)
        return jnp.where(same, jnp.exp(-jnp.asarray(self.rate) * np.where(same, distance, 0) - self.bias), 0)

    def _multiply(self, x: jax.Array) -> jax.Array:
        nodes, tokens = len(self.parents.array), self.tokens.array
        everywhere = jnp.zeros((*x.shape[:-2], nodes, x.shape[-1]), x.dtype).at[..., tokens, :].set(x)
        layers = forest.heavy_paths(self.parents.array, self.lengths.array)
        sums = forest.two_passes(layers, jnp.asarray(self.rate), everywhere)
        return jnp.exp(-jnp.asarray(self.bias)).astype(x.dtype) * sums[..., tokens, :]
