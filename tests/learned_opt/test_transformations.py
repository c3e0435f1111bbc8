"""Every optimizer learns, and JAX's transformations do not change what it does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import flt_optimizer

from .contract import (
    CONFIGS,
    EVERY,
    LEARNED,
    OPTIONS,
    STEPS,
    build,
    close,
    equal,
    flt_state,
    gradient,
    holds,
    layout,
    loss,
    parameters,
    run,
    scanned,
    weights,
)


@holds("learns; 0-d parameters", EVERY, quick=tuple(EVERY))
def test_learns(name: str) -> None:
    params, _ = run(name, parameters(), 40)
    assert loss(params, 0.0) < 0.8 * loss(parameters(), 0.0)


@holds("same start, same bits", EVERY)
def test_same_start_same_bits(name: str) -> None:
    equal(run(name, parameters()), run(name, parameters()))


@holds("jit", EVERY, quick=())
def test_eager_equals_jit(name: str) -> None:
    optimizer, params = build(name), parameters()
    state = optimizer.init(params)
    for t in range(2):
        updates, state = optimizer.update(gradient(params, float(t)), state, params)
        params = optax.apply_updates(params, updates)
    close(params, run(name, parameters(), 2)[0])


@holds("scan without weak types", EVERY)
def test_scan_equals_loop(name: str) -> None:
    params, state = jax.jit(lambda p: scanned(build(name), p))(parameters())
    expected, expected_state = run(name, parameters())
    close(params, expected)
    assert layout(state) == layout(expected_state)


@holds("vmap over runs", EVERY)
def test_vmap_equals_loop(name: str) -> None:
    several = [jax.tree.map(lambda p, k=k: p * (1.0 + k), parameters()) for k in range(3)]
    stacked = jax.tree.map(lambda *ps: jnp.stack(ps), *several)
    together = jax.jit(jax.vmap(lambda p: scanned(build(name), p)[0]))(stacked)
    tolerance = 1e-4 if name == "thrifty" else 1e-5  # rounding to bfloat16 makes more of a last bit
    for k, params in enumerate(several):
        close(jax.tree.map(lambda p, k=k: p[k], together), run(name, params)[0], tolerance)


@holds("derivatives of an unroll by the meta-parameters", LEARNED, quick=())
def test_the_gradient_of_an_unroll_is_finite(name: str) -> None:
    """Meta-gradients of the loss after a few steps with respect to every meta-parameter."""

    def after(theta: Any) -> jax.Array:
        optimizer = flt_optimizer(weights=(theta, CONFIGS[name]), total_steps=40, **OPTIONS.get(name, {}))
        return loss(scanned(optimizer, parameters(), 3)[0], 0.0)

    meta = jax.jit(jax.grad(after))(weights(name)[0])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(meta))
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(meta))


@holds(
    "updates and state keep dtypes and shapes: float32, bfloat16, float16", EVERY, quick=("flt", "thrifty")
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes_and_shapes_never_change(name: str, dtype: Any) -> None:
    optimizer, params = build(name), parameters(dtype)
    state = jax.eval_shape(optimizer.init, params)
    updates, new_state = jax.eval_shape(optimizer.update, params, state, params)
    assert layout(updates) == layout(jax.eval_shape(lambda: params))
    assert layout(new_state) == layout(state)
    if name in LEARNED:
        wide = {"thrifty": jnp.bfloat16}.get(name, jnp.float32)
        assert {x.dtype for x in jax.tree.leaves(flt_state(state).memory)} == {jnp.dtype(wide)}
        assert not any(x.weak_type for x in jax.tree.leaves(state))


@holds("bfloat16 parameters learn", EVERY)
def test_half_precision_parameters_learn(name: str) -> None:
    params, _ = jax.jit(lambda p: scanned(build(name), p, 40))(parameters(jnp.bfloat16))
    assert loss(params, 0.0) < 0.85 * loss(parameters(), 0.0)


@holds("float64", EVERY)
def test_float64_parameters_keep_float64(name: str) -> None:
    with jax.enable_x64(True):
        optimizer, params = build(name), parameters(jnp.float64)
        state = jax.eval_shape(optimizer.init, params)
        updates, new_state = jax.eval_shape(optimizer.update, params, state, params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float64)}
    assert layout(new_state) == layout(state)


@holds("donated buffers", EVERY)
def test_donated_buffers(name: str) -> None:
    update = jax.jit(build(name).update, donate_argnums=(1,))
    params, state = parameters(), build(name).init(parameters())
    for t in range(STEPS):
        updates, state = update(gradient(params, float(t)), state, params)
        params = optax.apply_updates(params, updates)
    close(params, run(name, parameters())[0], 1e-6)


@holds("pmap", EVERY, quick=())
def test_pmap_equals_loop(name: str) -> None:
    several = [jax.tree.map(lambda p, k=k: p * (1.0 + k), parameters()) for k in range(2)]
    stacked = jax.tree.map(lambda *ps: jnp.stack(ps), *several)
    together = jax.pmap(lambda p: scanned(build(name), p)[0])(stacked)
    for k, params in enumerate(several):
        close(jax.tree.map(lambda p, k=k: p[k], together), run(name, params)[0])
