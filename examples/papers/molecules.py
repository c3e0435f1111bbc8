"""Enthalpies of small molecules: attention with a Fourier relative encoding of atoms in space, and without.

    python examples/papers/molecules.py                  # 162 molecules of ase's g2 set, 8 seeds

The paper (FLT: 'Learning a Fourier Transform for Linear Relative Positional Encodings in Transformers',
arXiv 2302.01925) has attention linear in the number of atoms that sees three-dimensional positions through
a function of their differences, whose spectrum is learned. Here the target is the enthalpy of formation
(kcal/mol) less a linear fit on composition, made on the molecules that a seed trains on. Compared are a
spectrum of isotropic Gaussians by positive features, the same with exact softmax, and the same network
with all positions set to 0. A shift of all atoms must not change predictions, which is asserted.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import compare, draw, held_out, train, transformer

from learned_opt.flt import FavorPlus, FourierAttention, GaussianMixture, Kernel, Softmax

WITHOUT, FAST, EXACT = "without encoding", "encoding, positive features", "encoding, exact softmax"


@dataclass(frozen=True)
class Options:
    """Trains and compares."""

    seeds: int = 8
    """Each with a split, a start and an order of its own."""
    steps: int = 120
    """Updates, each on all molecules of the training set."""
    rate: float = 1e-2
    """Peak learning rate."""
    width: int = 16
    """Of the network; heads have 8 components."""
    layers: int = 2
    """Of attention."""
    features: int = 64
    """Positive features of a head."""
    out: Path = Path("runs/papers")
    """Where the picture goes."""


class Molecules(NamedTuple):
    elements: jax.Array  # [M, A], numbered; padding is the last number
    positions: jax.Array  # [M, A, 3], angstrom, from the centre of the atoms
    there: jax.Array  # [M, A], whether an atom
    counts: np.ndarray  # [M, elements]
    enthalpy: np.ndarray  # [M], kcal/mol


def load() -> Molecules:
    """The g2 set of `ase`: up to 14 atoms of 14 elements."""
    from ase.collections import g2
    from ase.data.g2 import data

    molecules = [g2[name] for name in g2.names]
    known = np.unique(np.concatenate([each.numbers for each in molecules]))
    shape = len(molecules), max(map(len, molecules))
    elements, positions = np.full(shape, len(known)), np.zeros((*shape, 3))
    for row, each in enumerate(molecules):
        elements[row, : len(each)] = np.searchsorted(known, each.numbers)
        positions[row, : len(each)] = each.positions - each.positions.mean(0)
    counts = (elements[..., None] == np.arange(len(known))).sum(1)
    enthalpy = np.array([data[name]["enthalpy"] for name in g2.names], float)
    return Molecules(
        jnp.asarray(elements), jnp.asarray(positions), jnp.asarray(elements < len(known)), counts, enthalpy
    )


def remainder(molecules: Molecules, test: np.ndarray) -> np.ndarray:
    """[seeds, M] enthalpy less the linear fit on composition of the molecules that a seed trains on."""
    design = np.c_[molecules.counts, np.ones(len(molecules.counts))]
    fits = [
        np.linalg.lstsq(design[~held], molecules.enthalpy[~held], rcond=None)[0] for held in test
    ]  # the least norm where an element is missing
    return molecules.enthalpy - np.stack(fits) @ design.T


def network(options: Options, kernel: Kernel | Softmax, encoded: bool) -> Any:
    """Of elements [M, A], positions [M, A, 3] and atoms that are there: one number for each molecule."""
    start = GaussianMixture(  # means of 0 stay there: the function depends on the distance only
        weight=jnp.array([0.3, 0.3, 0.3]), mean=jnp.zeros((3, 3)), scale=jnp.array([0.05, 0.15, 0.3])
    )

    def forward(elements: jax.Array, positions: jax.Array, there: jax.Array) -> jax.Array:
        def attend(layer: int, x: jax.Array) -> jax.Array:
            attention = FourierAttention(
                options.width // 8, 8, start, kernel=kernel, frequencies=32, seed=layer
            )
            return attention(x, positions if encoded else jnp.zeros_like(positions), there)

        x = transformer(hk.Embed(15, options.width)(elements), options.layers, attend)
        return jnp.sum(jnp.where(there, hk.Linear(1)(x)[..., 0], 0), axis=-1)

    return hk.without_apply_rng(hk.transform(forward))


def fit(options: Options, inputs: Any, target: np.ndarray, test: np.ndarray, own: hk.Transformed) -> Any:
    """Trains on squared errors; gives parameters of all seeds."""

    def init(key: jax.Array) -> Any:
        return own.init(key, *inputs)

    def loss(params: Any, key: jax.Array, y: jax.Array, held: jax.Array) -> jax.Array:
        return jnp.sum((own.apply(params, *inputs) - y) ** 2 * ~held) / jnp.sum(~held)

    data = jnp.asarray(target), jnp.asarray(test)
    return train(init, loss, options.seeds, *data, steps=options.steps, rate=options.rate)


def main(options: Options) -> dict[str, np.ndarray]:
    """Prints the tables; returns errors [seeds] by variant."""
    molecules, began = load(), time.perf_counter()
    inputs = molecules[:3]
    test = held_out(options.seeds, len(molecules.enthalpy), 0.2)
    target = remainder(molecules, test)
    scale = target.std(axis=1, where=~test, keepdims=True)
    favor = FavorPlus(features=options.features)
    variants = {
        WITHOUT: network(options, favor, False),
        FAST: network(options, favor, True),
        EXACT: network(options, Softmax(), True),
    }
    errors, changes = {}, {}
    shift = jax.random.uniform(jax.random.key(0), (len(test[0]), 1, 3), minval=-5, maxval=5)
    for name, own in variants.items():
        params = fit(options, inputs, target / scale, test, own)
        predict = jax.jit(jax.vmap(own.apply, in_axes=(0, None, None, None)))
        found = scale * np.asarray(predict(params, *inputs))
        miss = np.abs(found - target)
        errors[name] = miss.mean(axis=1, where=test)
        print(f"{name}: {miss.mean(where=~test):.2f} kcal/mol on what it was trained on", flush=True)
        # A user centres atoms, as `load` does: what is left of a shift then is rounding.
        moved = jnp.where(molecules.there[..., None], molecules.positions + shift, 0)
        centre = moved.sum(1, keepdims=True) / molecules.there.sum(1)[:, None, None]
        by = [
            float(np.abs(scale * predict(params, molecules.elements, r, molecules.there) - found).max())
            for r in (moved - centre, moved)
        ]
        assert by[0] < 0.1, f"{name}: a shift changed a prediction by {by[0]:.3g} kcal/mol"
        changes[name] = by
    zero = np.abs(target).mean(axis=1, where=test)
    errors = {"composition only": zero, **errors}
    print(f"\nmean absolute error on {test[0].sum()} held-out molecules, {options.seeds} seeds\n")
    pairs = [(FAST, WITHOUT), (EXACT, WITHOUT), (FAST, EXACT), (WITHOUT, "composition only")]
    print(compare(errors, pairs, measure="kcal/mol", decimals=2, higher_is_better=False))
    print("\nlargest change of a prediction after a shift by up to 5 angstrom, kcal/mol")
    for name, (centred, plain) in changes.items():
        print(f"{name}: {centred:.2g} with atoms centred, {plain:.2g} as shifted")
    line = errors.pop("composition only").mean(), "composition only"
    draw(errors, "error, kcal/mol", options.out / "molecules.png", line)
    print(f"\n{time.perf_counter() - began:.0f} s")
    return errors


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
