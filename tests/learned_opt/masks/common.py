"""One row for every mask; `test_every_mask.py` runs over them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.flt import ShiftInvariant
from learned_opt.masks import (
    BlockToeplitz,
    Diffusion,
    Exponential,
    Fourier,
    Graph,
    Kronecker,
    Mask,
    RandomWalk,
    Toeplitz,
    Tree,
)

Random = np.random.Generator


def values(random: Random, *lengths: int) -> jax.Array:
    return jnp.asarray(random.normal(size=[max(2 * n - 1, 0) for n in lengths]))


def number(random: Random) -> jax.Array:
    return jnp.asarray(random.uniform(0.1, 0.9))


def graph(n: int, random: Random) -> Graph:
    """A random weighted graph, in general with several components, isolated nodes and a loop."""
    pairs = np.argwhere(np.triu(random.random((n, n)) < 1.5 / max(n, 1)))
    return Graph.from_edges(n, pairs, random.uniform(0.2, 3.0, len(pairs)))


def parents(n: int, random: Random) -> np.ndarray:
    """A random forest, nodes in random order: chains where the parent is close, bushes where it is far."""
    reach, names, above = random.integers(1, n + 2), random.permutation(n), np.full(n, -1)
    for node in range(1, n):
        if random.random() < 0.9:
            above[names[node]] = names[node - 1 - random.integers(0, min(reach, node))]
    return above


def tree(n: int, random: Random) -> Tree:
    above = parents(n, random)
    return Tree.from_parents(above, rate=number(random), bias=number(random), lengths=random.uniform(0, 2, n))


def pytree(n: int, random: Random) -> Tree:
    params: list = []
    for leaf in range(n):
        place = params
        while place and random.random() < 0.4:
            place.append([])
            place = place[-1]
        place.append(leaf)
    return Tree.from_pytree(params, rate=number(random), bias=number(random))


def walks(n: int, random: Random) -> RandomWalk:
    key = jax.random.key(random.integers(1000))
    return RandomWalk.from_graph(graph(n, random), steps=3, decay=number(random), walks=4, key=key)


def fourier(n: int, random: Random) -> Fourier:
    spectrum = ShiftInvariant(number(random), jnp.asarray(random.uniform(0.5, 2.0, 2)))
    key = jax.random.key(random.integers(1000))
    places = random.normal(size=(n, 2))
    return Fourier.from_positions(places, spectrum, key=key, frequencies=4, features=6)


# Each makes a mask whose size grows with its first argument.
MASKS: dict[str, Callable[[int, Random], Mask]] = {
    "exponential": lambda n, random: Exponential(number(random), n),
    "toeplitz": lambda n, random: Toeplitz(values(random, n)),
    "block_toeplitz": lambda n, random: BlockToeplitz(values(random, n, 3)),
    "block_toeplitz_causal": lambda n, random: BlockToeplitz(values(random, n, 2, 2), causal=True),
    "tree": tree,
    "pytree": pytree,
    "diffusion": lambda n, random: Diffusion(10 * number(random), graph(n, random)),
    "random_walk": lambda n, random: RandomWalk.from_graph(graph(n, random), steps=4, decay=number(random)),
    "random_walk_sampled": walks,
    "fourier": fourier,
    "kronecker": lambda n, random: Kronecker((tree(n, random), Exponential(number(random), 2))),
}


def make(name: str, n: int, seed: int = 0) -> Mask:
    return MASKS[name](n, np.random.default_rng(seed))


def rows(mask: Mask, *batch: int, columns: int = 2, dtype: type = float) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(*batch, mask.size, columns)), dtype)
