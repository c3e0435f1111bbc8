"""What is evaluated: a baseline of the table or a learned optimizer, behind one small description."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from meta_train.baselines import BASELINES, DECAYS, Baseline, Scalar, Setting

PyTree = Any
Build = Callable[..., optax.GradientTransformation]

MULTIPLIERS = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)
"""The multipliers of its own step that a tuned learned optimizer chooses from."""


@dataclass(frozen=True)
class Optimizer:
    """One optimizer under evaluation.

    Attributes:
      name: shown in tables; unique within one evaluation.
      build: `(weights, setting, total_steps) -> optax transformation`; all scalars may be traced. Two
        optimizers with the same `build` object share one compiled program; `weights` is an argument of it.
      grid: the settings its own is chosen from; empty for an optimizer that has nothing to choose.
      weights: pytree of arrays passed to `build`; `()` for a baseline.
      fingerprint: identifies everything that `name` does not (weights, configuration, fixed constants).
      learned: whether it is compared with the others, or is what they are compared with.
      eval_params: `(state, parameters) -> parameters` to evaluate at; None evaluates at the trained ones.
      watch: `state -> dict of arrays`, recorded along the report runs; None records nothing.
      traced: whether `build` takes `geometry`, too: what the task's program does with the parameters.
    """

    name: str
    build: Build
    grid: tuple[Setting, ...] = ()
    weights: PyTree = ()
    fingerprint: str = ""
    learned: bool = False
    eval_params: Callable[[PyTree, PyTree], PyTree] | None = None
    watch: Callable[[PyTree], dict[str, jax.Array]] | None = None
    traced: bool = False

    @property
    def tuned(self) -> bool:
        """Whether a setting is chosen for it."""
        return bool(self.grid)


def baseline(row: str | Baseline, rates: int = 9, wide: bool = False) -> Optimizer:
    """A row of the table, or the one of that name, with the `rates` central values of its grid.

    Args:
      row: the baseline.
      rates: how many learning rates the grid starts with.
      wide: whether weight decays and schedules are tried too.

    Raises:
      ValueError: if the name is not in the table or `rates` is outside 3..len(grid).
    """
    if isinstance(row, str):
        if row not in BASELINES:
            raise ValueError(f"there is no baseline {row!r}; choose from: {', '.join(BASELINES)}")
        row = BASELINES[row]
    if not 3 <= rates <= len(row.rates):
        raise ValueError(f"the grid must keep between 3 and {len(row.rates)} rates, not {rates}")
    skip = (len(row.rates) - rates) // 2
    return Optimizer(
        name=row.name,
        build=_baseline_build(row),
        grid=row.grid(row.rates[skip : skip + rates], wide),
        fingerprint=f"{row.name} {_source_hash(row.factory)}",
        eval_params=row.eval_params,
    )


def learned(name: str, theta: PyTree, config: Any, **arguments: Any) -> Optimizer:
    """The learned optimizer with meta-parameters `theta`, untuned: nobody chooses a number for it.

    Args:
      name: the name in the results.
      theta: meta-parameters, a pytree of small float32 arrays.
      config: their `learned_opt.config.FLTConfig`.
      **arguments: of `flt_optimizer`, beside the usual; hashable.
    """
    import learned_opt
    from learned_opt import diagnostics

    extra = tuple(sorted(arguments.items()))
    digest = hashlib.sha256(f"{config!r}{extra or ''}".encode())
    for file in sorted(Path(learned_opt.__file__).parent.rglob("*.py")):  # other code is another optimizer
        digest.update(file.read_bytes())
    for path, leaf in jax.tree.leaves_with_path(theta):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return Optimizer(
        name=name,
        build=_learned_build(config, extra),
        weights=theta,
        fingerprint=digest.hexdigest()[:16],
        learned=True,
        watch=diagnostics if config.law else None,
    )


def tuned(optimizer: Optimizer) -> Optimizer:
    """A learned optimizer whose multiplier and weight decay are chosen, by as many trials as are printed."""
    grid = tuple(Setting(multiplier, decay) for decay in DECAYS for multiplier in MULTIPLIERS)
    return replace(optimizer, name=f"{optimizer.name} tuned", grid=grid, watch=None)


def anytime(optimizer: Optimizer) -> Optimizer:
    """A learned optimizer that is not told how long the run is."""
    return _variant(optimizer, "anytime", _untold(optimizer.build))


def traced(optimizer: Optimizer) -> Optimizer:
    """A learned optimizer that is told what the task's program does with each parameter (`geometry_of`)."""
    return replace(_variant(optimizer, "traced", _with_geometry(optimizer.build)), traced=True)


def _variant(optimizer: Optimizer, name: str, build: Build) -> Optimizer:
    fingerprint = f"{optimizer.fingerprint} {name}"
    return replace(optimizer, name=f"{optimizer.name} {name}", fingerprint=fingerprint, build=build)


def _source_hash(function: Callable[..., Any]) -> str:
    """Of the text that defines a factory: another factory is another optimizer, whatever its name."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # typed in at a prompt, or not a function
        text = ""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.lru_cache
def _baseline_build(row: Baseline) -> Build:
    return lambda _, setting, total_steps: row.factory(setting, total_steps)


@functools.lru_cache
def _learned_build(config: Any, extra: tuple[tuple[str, Any], ...]) -> Build:
    def build(
        theta: PyTree, setting: Setting, total_steps: Scalar, **more: Any
    ) -> optax.GradientTransformation:
        from learned_opt import flt_optimizer

        return flt_optimizer(
            setting.rate,
            weights=(theta, config),
            total_steps=total_steps,
            weight_decay=setting.weight_decay,
            **dict(extra) | more,
        )

    return build


@functools.lru_cache
def _untold(build: Build) -> Build:
    return lambda weights, setting, total_steps: build(weights, setting, float("inf"))


@functools.lru_cache
def _with_geometry(build: Build) -> Build:
    return lambda weights, setting, total_steps, geometry: build(
        weights, setting, total_steps, geometry=geometry
    )


def describe_key(parts: dict[str, Any]) -> str:
    """A 16-digit content hash of a JSON-able description."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
