"""The table of optimizers that the tests of the contract run over, and what those tests share.

Tests marked with `holds` make the table in docs/contract.md (test_contract.py).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import FLTConfig, FLTState, Mode, flt_optimizer, scale_by_flt

from .common import moved

STEPS = 6
SMALL = FLTConfig(rule_width=2, controller_width=2, signal_decays=(0.7, 0.9))
WAVES = (
    Mode("g", 0.9),
    Mode("g", 0.8, "complex", frequency=0.1),
    Mode("g", 0.7, "alternating"),
    Mode("g2", 0.95),
)
CONFIGS = {
    "flt": SMALL,
    "elementwise": SMALL,
    "waves": FLTConfig(modes=WAVES, rule_width=2, controller_width=0, signal_decays=(0.9,)),
    "window": FLTConfig(
        memory="window",
        window=3,
        rule_width=0,
        controller_width=2,
        attention_heads=1,
        history=3,
        signal_decays=(0.9,),
    ),
    "thrifty": SMALL,
    "scale_by_flt": SMALL,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "elementwise": {"orthogonalize": False},
    "thrifty": {"state_dtype": "bfloat16", "orthogonalize": 2},
}
LEARNED, CONTROLS = list(CONFIGS), ["adamw", "muon"]
CONTRACT: dict[str, dict[str, bool]] = {}  # by property and optimizer, whether it holds


def weights(name: str) -> tuple[Any, FLTConfig]:
    return moved(CONFIGS[name], 0.05), CONFIGS[name]


def build(name: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    if name == "adamw":
        return optax.with_extra_args_support(optax.adamw(0.05, weight_decay=0.0))
    if name == "muon":
        return optax.with_extra_args_support(optax.contrib.muon(0.05))
    if name == "scale_by_flt":
        return optax.chain(scale_by_flt(weights(name), total_steps=40), optax.scale(-1.0))
    return flt_optimizer(weights=weights(name), **({"total_steps": 40} | OPTIONS.get(name, {}) | options))


def parameters(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    draw = np.random.default_rng(0).normal
    return {
        name: jnp.asarray(draw(size=shape), dtype) for name, shape in (("w", (4, 3)), ("b", (3,)), ("s", ()))
    }


def loss(params: Any, t: Any) -> jax.Array:
    """A bowl whose centre wobbles with the step t."""
    wobble = [
        jnp.mean((p.astype(jnp.promote_types(p.dtype, jnp.float32)) - 0.1 * jnp.sin(3.0 * t)) ** 2)
        for p in jax.tree.leaves(params)
    ]
    return sum(wobble, jnp.zeros(()))


gradient = jax.jit(jax.grad(loss))


@functools.cache
def compiled(name: str) -> Callable[..., Any]:
    """update(gradients, state, params) of a table row: one program for all checks on the same shapes."""
    return jax.jit(build(name).update)


def run(
    name: str, params: Any, steps: int = STEPS, change: Callable[[Any, int], Any] = lambda g, t: g
) -> Any:
    """(params, state) after a Python loop; `change` tampers with the gradients of each step."""
    state = build(name).init(params)
    for t in range(steps):
        updates, state = compiled(name)(change(gradient(params, float(t)), t), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def scanned(optimizer: optax.GradientTransformationExtraArgs, params: Any, steps: int = STEPS) -> Any:
    """The same loop as one program: safe to trace under other transformations."""

    def step(carry: Any, t: jax.Array) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, t), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(float(steps)))[0]


def equal(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def close(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    def check(x: jax.Array, y: jax.Array) -> None:
        np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=tolerance, atol=tolerance
        )

    jax.tree.map(check, first, second)


def poisoned(gradients: Any, bad: float) -> Any:
    return gradients | {"w": gradients["w"].at[1, 2].set(bad)}


def flt_state(state: Any) -> FLTState:
    (found,) = (
        node
        for node in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, FLTState))
        if isinstance(node, FLTState)
    )
    return found


def layout(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def rows(names: list[str], quick: tuple[str, ...] = ("flt",)) -> pytest.MarkDecorator:
    """Runs a check on these rows of the table; all but the quick ones only with the slow tests."""
    marks = [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("name", marks)


def holds(
    what: str, names: list[str], quick: tuple[str, ...] = ("flt",), fails: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    """As `rows`, for a property of the contract. The check of those in `fails` is known to fail."""
    row = CONTRACT.setdefault(what, {})
    marks = []
    for name in names:
        row[name] = row.get(name, True) and name not in fails
        slow = [] if name in quick else [pytest.mark.slow]
        known = [pytest.mark.xfail(strict=True, reason=f"{name} does not have it")] if name in fails else []
        marks.append(pytest.param(name, marks=slow + known))
    return pytest.mark.parametrize("name", marks)


EVERY = LEARNED + CONTROLS
learned = rows(LEARNED)
