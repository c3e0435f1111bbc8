"""Matrices that are orthogonalised every few steps only: between, the last factor is taken again."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import flt_optimizer
from learned_opt.optimizer.leaf import Leaf
from learned_opt.optimizer.orthogonalize import orthogonalize
from learned_opt.optimizer.update import polar_factors

from .contract import close, equal, flt_state

SHAPES = {"first": (6, 4), "second": (6, 4), "bias": (4,), "large": (130, 128)}  # two share a stack
AMPLIFIED = 300 * np.finfo(np.float32).eps  # the polynomials' slope at zero times rounding


def gradients(step: int) -> dict[str, jax.Array]:
    draw = np.random.default_rng(step).normal
    return {name: jnp.asarray(draw(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def run(optimizer: Any, sequence: list[Any]) -> list[tuple[Any, Any, Any]]:
    """(parameters, state, update) of each step: what was before it, and what it did; None after the last."""
    params, update, found = gradients(99), jax.jit(optimizer.update), []
    state = optimizer.init(params)
    for g in sequence:
        step, new = update(g, state, params)
        found.append((params, state, step))
        params, state = optax.apply_updates(params, step), new
    return [*found, (params, state, None)]


def test_the_factor_is_that_of_the_last_multiple() -> None:
    shape, every = (2, 3, 5), 3
    factor = jnp.zeros(shape, jnp.bfloat16)
    for count in range(7):
        matrix = jax.random.normal(jax.random.key(count), shape)
        leaf = Leaf(matrix, matrix, (), None, "matrix", factor)
        (found,) = polar_factors([leaf], [matrix], jnp.asarray(count), every)
        if count % every == 0:
            (expected,) = orthogonalize([matrix])
            np.testing.assert_allclose(found, expected, atol=AMPLIFIED)
            factor = expected.astype(jnp.bfloat16)
        else:
            np.testing.assert_array_equal(found, factor.astype(jnp.float32))


def test_every_third_step_is_that_of_an_optimizer_which_always_orthogonalises() -> None:
    always, rarely = flt_optimizer(total_steps=20), flt_optimizer(total_steps=20, orthogonalize=3)
    update = jax.jit(always.update)
    steps = run(rarely, [gradients(t) for t in range(7)])
    for t, ((params, state, step), (_, after, _)) in enumerate(pairwise(steps)):
        inner, rate = state
        expected, _ = update(gradients(t), (inner._replace(factor=()), rate), params)
        off = {name: jnp.abs(step[name] - expected[name]).max() for name in SHAPES}
        same = [bool(off[name] < 1e-4 * jnp.abs(expected[name]).max()) for name in SHAPES]
        assert same == ([True] * 4 if t % 3 == 0 else [False, False, True, False])
        kept = [np.array_equal(flt_state(s).factor["first"], inner.factor["first"]) for s in (state, after)]
        assert kept == [True, t % 3 != 0]


def test_a_gradient_that_is_not_finite_refreshes_nothing() -> None:
    optimizer = flt_optimizer(total_steps=20, orthogonalize=2)
    good = [gradients(t) for t in range(5)]
    broken = jax.tree.map(lambda g: g.at[0].set(jnp.nan), good[0])
    plain, disturbed = run(optimizer, good), run(optimizer, [broken, *good[:2], broken, *good[2:]])
    counted = [
        flt_state(plain[-1][1]),
        flt_state(disturbed[-1][1])._replace(skipped=jnp.zeros((), jnp.int32)),
    ]
    equal(plain[-1][0], disturbed[-1][0])
    equal(*counted)


def test_runs_side_by_side_may_be_at_different_steps() -> None:
    optimizer = flt_optimizer(total_steps=20, orthogonalize=2)
    steps = run(optimizer, [gradients(t) for t in range(3)])[1:3]
    stacked: Any = jax.tree.map(lambda *x: jnp.stack(x), *((p, s) for p, s, _ in steps))
    update = jax.jit(lambda p, s: optimizer.update(gradients(9), s, p))
    found, _ = jax.jit(jax.vmap(update))(*stacked)
    for place, (params, state, _) in enumerate(steps):
        expected, _ = update(params, state)
        close(jax.tree.map(lambda x, place=place: x[place], found), expected, 1e-4)


def test_it_costs_two_bytes_a_parameter() -> None:
    params = gradients(0)
    sizes = [
        sum(x.nbytes for x in jax.tree.leaves(flt_optimizer(orthogonalize=every).init(params)))
        for every in (True, 1, 2)
    ]
    assert sizes[1:] == [sizes[0], sizes[0] + 2 * sum(p.size for p in jax.tree.leaves(params))]


@pytest.mark.parametrize("bad", [-1, 2.0, "often", None])
def test_what_is_no_number_of_steps_is_refused(bad: Any) -> None:
    with pytest.raises(
        ValueError, match=r"orthogonalize=.*expected True .*, False .*, or every how many steps"
    ):
        flt_optimizer(orthogonalize=bad)
