"""What is evaluated: a baseline of the table or a learned optimizer, behind one small description."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from meta_train.baselines import BASELINES, Baseline, Scalar

PyTree = Any
Build = Callable[[PyTree, Scalar, int], optax.GradientTransformation]


@dataclass(frozen=True)
class Optimizer:
    """One optimizer under evaluation.

    Attributes:
      name: shown in tables; unique within one evaluation.
      build: `(weights, learning_rate, total_steps) -> optax transformation`. Two optimizers with the
        same `build` object share one compiled program; `weights` is an argument of that program.
      rates: the grid its learning rate is chosen from; empty for an optimizer that has none to choose.
      weights: pytree of arrays passed to `build`; `()` for a baseline.
      fingerprint: identifies everything that `name` does not (weights, configuration, fixed constants).
    """

    name: str
    build: Build
    rates: tuple[float, ...] = ()
    weights: PyTree = ()
    fingerprint: str = ""

    @property
    def tuned(self) -> bool:
        """Whether a learning rate is chosen for it."""
        return bool(self.rates)


def baseline(name: str, rates: int = 9) -> Optimizer:
    """The baseline called `name`, with the `rates` central values of its grid.

    Raises:
      ValueError: if `name` is not in the table or `rates` is outside 3..len(grid).
    """
    if name not in BASELINES:
        raise ValueError(f"there is no baseline {name!r}; choose from: {', '.join(BASELINES)}")
    row = BASELINES[name]
    if not 3 <= rates <= len(row.rates):
        raise ValueError(f"the grid must keep between 3 and {len(row.rates)} rates, not {rates}")
    skip = (len(row.rates) - rates) // 2
    return Optimizer(
        name=row.name,
        build=_baseline_build(row),
        rates=row.rates[skip : skip + rates],
        fingerprint=f"weight_decay={row.weight_decay:g} schedule=warmup-cosine",
    )


def learned(name: str, theta: PyTree, config: Any) -> Optimizer:
    """The learned optimizer with meta-parameters `theta`, untuned: nobody chooses a number for it.

    Args:
      name: the name in the results.
      theta: meta-parameters, a pytree of small float32 arrays.
      config: their `learned_opt.config.FLTConfig`.
    """
    digest = hashlib.sha256(repr(config).encode())
    for path, leaf in jax.tree.leaves_with_path(theta):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return Optimizer(
        name=name, build=_learned_build(config), weights=theta, fingerprint=digest.hexdigest()[:16]
    )


@functools.lru_cache
def _baseline_build(row: Baseline) -> Build:
    return lambda _, rate, total_steps: row.factory(rate, total_steps)


@functools.lru_cache
def _learned_build(config: Any) -> Build:
    def build(theta: PyTree, _: Scalar, total_steps: int) -> optax.GradientTransformation:
        from learned_opt import flt_optimizer

        return flt_optimizer(weights=(theta, config), total_steps=total_steps)

    return build


def describe_key(parts: dict[str, Any]) -> str:
    """A 16-digit content hash of a JSON-able description."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
