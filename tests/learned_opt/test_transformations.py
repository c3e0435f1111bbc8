"""Every optimizer learns, and JAX's transformations do not change what it does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from learned_opt import flt_optimizer

from .contract import (
    CONFIGS,
    CONTROLS,
    LEARNED,
    OPTIONS,
    STEPS,
    build,
    close,
    equal,
    every,
    flt_state,
    gradient,
    layout,
    learned,
    loss,
    parameters,
    rows,
    run,
    scanned,
    weights,
)


@rows(LEARNED + CONTROLS, quick=(*LEARNED, *CONTROLS))
def test_learns(name: str) -> None:
    params, _ = run(name, parameters(), 40)
    assert loss(params, 0.0) < 0.8 * loss(parameters(), 0.0)


@every
def test_same_start_same_bits(name: str) -> None:
    equal(run(name, parameters()), run(name, parameters()))


@rows(LEARNED + CONTROLS, quick=())
def test_eager_equals_jit(name: str) -> None:
    optimizer, params = build(name), parameters()
    state = optimizer.init(params)
    for t in range(2):
        updates, state = optimizer.update(gradient(params, float(t)), state, params)
        params = optax.apply_updates(params, updates)
    close(params, run(name, parameters(), 2)[0])


@every
def test_scan_equals_loop(name: str) -> None:
    params, state = jax.jit(lambda p: scanned(build(name), p))(parameters())
    expected, expected_state = run(name, parameters())
    close(params, expected)
    assert layout(state) == layout(expected_state)


@every
def test_vmap_equals_loop(name: str) -> None:
    several = [jax.tree.map(lambda p, k=k: p * (1.0 + k), parameters()) for k in range(3)]
    stacked = jax.tree.map(lambda *ps: jnp.stack(ps), *several)
    together = jax.jit(jax.vmap(lambda p: scanned(build(name), p)[0]))(stacked)
    for k, params in enumerate(several):
        close(jax.tree.map(lambda p, k=k: p[k], together), run(name, params)[0])


@rows(LEARNED, quick=())
def test_the_gradient_of_an_unroll_is_finite(name: str) -> None:
    """Meta-gradients of the loss after a few steps with respect to every meta-parameter."""

    def after(theta: Any) -> jax.Array:
        optimizer = flt_optimizer(weights=(theta, CONFIGS[name]), total_steps=40, **OPTIONS.get(name, {}))
        return loss(scanned(optimizer, parameters(), 3)[0], 0.0)

    meta = jax.jit(jax.grad(after))(weights(name)[0])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(meta))
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(meta))


@rows(LEARNED + CONTROLS, quick=tuple(LEARNED))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes_and_shapes_never_change(name: str, dtype: Any) -> None:
    optimizer, params = build(name), parameters(dtype)
    state = jax.eval_shape(optimizer.init, params)
    updates, new_state = jax.eval_shape(optimizer.update, params, state, params)
    assert layout(updates) == layout(jax.eval_shape(lambda: params))
    assert layout(new_state) == layout(state)
    if name in LEARNED:
        wide = {"bfloat16": jnp.bfloat16}.get(name, jnp.float32)
        assert {x.dtype for x in jax.tree.leaves(flt_state(state).memory)} == {jnp.dtype(wide)}
        assert not any(x.weak_type for x in jax.tree.leaves(state))


@learned
def test_half_precision_parameters_learn(name: str) -> None:
    params, _ = jax.jit(lambda p: scanned(build(name), p, 40))(parameters(jnp.bfloat16))
    assert loss(params, 0.0) < 0.85 * loss(parameters(), 0.0)


@learned
def test_float64_parameters_keep_float64(name: str) -> None:
    with jax.enable_x64(True):
        optimizer, params = build(name), parameters(jnp.float64)
        state = jax.eval_shape(optimizer.init, params)
        updates, new_state = jax.eval_shape(optimizer.update, params, state, params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float64)}
    assert layout(new_state) == layout(state)


@learned
def test_donated_buffers(name: str) -> None:
    update = jax.jit(build(name).update, donate_argnums=(1,))
    params, state = parameters(), build(name).init(parameters())
    for t in range(STEPS):
        updates, state = update(gradient(params, float(t)), state, params)
        params = optax.apply_updates(params, updates)
    close(params, run(name, parameters())[0], 1e-6)


@every
@jax.enable_x64(True)  # in float32 the order of a sum shows after a few steps
def test_sharded_equals_unsharded(name: str) -> None:
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("x",))
    params = parameters(jnp.float64)
    spread = params | {"w": jax.device_put(params["w"], NamedSharding(mesh, PartitionSpec("x")))}
    spread |= {key: jax.device_put(spread[key], NamedSharding(mesh, PartitionSpec())) for key in ("b", "s")}
    found, state = jax.jit(lambda p: scanned(build(name), p))(spread)
    close(found, run(name, params)[0], 1e-9)
    if name == "flt":
        assert len(flt_state(state).memory[0]["w"].sharding.device_set) == 2


@rows(LEARNED, quick=())
def test_pmap_equals_loop(name: str) -> None:
    several = [jax.tree.map(lambda p, k=k: p * (1.0 + k), parameters()) for k in range(2)]
    stacked = jax.tree.map(lambda *ps: jnp.stack(ps), *several)
    together = jax.pmap(lambda p: scanned(build(name), p)[0])(stacked)
    for k, params in enumerate(several):
        close(jax.tree.map(lambda p, k=k: p[k], together), run(name, params)[0])
