"""Every optimizer inside optax's wrappers, on any tree, with extra arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import diagnostics, flt_optimizer

from .contract import (
    EVERY,
    LEARNED,
    OPTIONS,
    build,
    close,
    compiled,
    equal,
    flt_state,
    gradient,
    holds,
    layout,
    learned,
    parameters,
    poisoned,
    rows,
    scanned,
    weights,
)


@holds("unknown extra arguments are ignored", EVERY)
def test_extra_arguments_are_ignored(name: str) -> None:
    optimizer, params = build(name), parameters()
    state = jax.eval_shape(optimizer.init, params)
    jax.eval_shape(lambda s: optimizer.update(params, s, params, value=1.0, unknown="x"), state)


@rows(LEARNED, quick=tuple(LEARNED))
def test_parameters_are_needed(name: str) -> None:
    optimizer = build(name)
    state = jax.eval_shape(optimizer.init, parameters())
    with pytest.raises(ValueError, match=r"needs params: call optimizer\.update\(gradients, state, params\)"):
        optimizer.update(parameters(), state)


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.int32, jnp.bool_])
def test_other_numbers_are_refused_by_path(dtype: Any) -> None:
    with pytest.raises(TypeError, match=rf"\['a'\]\['bad'\] has dtype {jnp.dtype(dtype)}.*optax\.partition"):
        build("flt").init({"a": {"bad": jnp.ones(2, dtype), "good": jnp.ones(2)}})


@holds("empty trees", EVERY, quick=tuple(LEARNED))
@pytest.mark.parametrize("params", [{}, (), {"a": None, "b": {}}])
def test_empty_trees(name: str, params: Any) -> None:
    optimizer = build(name)
    state = optimizer.init(params)
    updates, new_state = optimizer.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert layout(new_state) == layout(state)
    assert all(x.size for x in jax.tree.leaves(state))


@holds("leaves without elements", EVERY, fails=("muon",))
def test_leaves_without_elements_do_not_stop_the_others(name: str) -> None:
    optimizer = build(name)
    params = {"w": jnp.ones((4, 3)), "empty": jnp.ones((0, 3)), "hollow": jnp.ones((2, 0, 3))}
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(params, state, params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    assert np.abs(updates["w"]).min() > 0
    assert updates["empty"].shape == (0, 3)


@holds("init from shapes; eval_shape of init", EVERY, quick=tuple(LEARNED))
def test_init_needs_shapes_only(name: str) -> None:
    optimizer, params = build(name), parameters()
    shapes = jax.eval_shape(lambda: params)
    equal(optimizer.init(shapes), optimizer.init(params))
    assert layout(jax.eval_shape(optimizer.init, params)) == layout(optimizer.init(params))


@rows(LEARNED, quick=tuple(LEARNED))
def test_map_params_finds_what_is_shaped_like_the_parameters(name: str) -> None:
    optimizer, params = build(name), parameters()
    marked = optax.tree.map_params(
        optimizer,
        lambda leaf: "like params",
        optimizer.init(params),
        transform_non_params=lambda leaf: "other",
    )
    state = flt_state(marked)
    assert set(jax.tree.leaves((state.memory, state.direction))) == {"like params"}
    assert set(jax.tree.leaves((state.count, state.skipped, state.tensors))) == {"other"}


@holds("masked", EVERY)
def test_masked_leaves_the_rest_alone(name: str) -> None:
    chosen = {"w": True, "b": False, "s": True}
    params, state = jax.jit(lambda p: scanned(optax.masked(build(name), chosen), p, 1))(parameters())
    gradients = gradient(parameters(), 0.0)
    part = {key: parameters()[key] for key in ("w", "s")}
    optimizer = build(name)
    expected, _ = jax.jit(optimizer.update)({key: gradients[key] for key in part}, optimizer.init(part), part)
    close({key: params[key] - parameters()[key] for key in part}, expected, 1e-6)
    np.testing.assert_allclose(params["b"], parameters()["b"] + gradients["b"], rtol=1e-6)
    sizes = [x.shape for x in jax.tree.leaves(state)]
    assert sizes == [x.shape for x in jax.tree.leaves(optimizer.init(part))]


@holds("partition", EVERY)
def test_partition_gives_each_part_its_optimizer(name: str) -> None:
    labels = {"w": "flt", "b": "sgd", "s": "flt"}
    optimizer = optax.partition({"flt": build(name), "sgd": optax.sgd(0.5)}, labels)
    params, _ = jax.jit(lambda p: scanned(optimizer, p))(parameters())
    sgd, _ = jax.jit(lambda p: scanned(optax.sgd(0.5), p))(parameters())
    close(params["b"], sgd["b"])
    part = {key: parameters()[key] for key in ("w", "s")}
    # The loss is a sum over leaves: parts do not interact.
    alone, _ = jax.jit(lambda p: scanned(build(name), p))(part)
    close({key: params[key] for key in part}, alone, 1e-6)


@holds("MultiSteps, float32 and bfloat16", EVERY)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_multi_steps_averages_gradients(name: str, dtype: Any) -> None:
    optimizer = optax.MultiSteps(build(name), every_k_schedule=2)
    params = parameters(dtype)
    gradients = [gradient(params, t) for t in (0.0, 1.0)]
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    first, state = update(gradients[0], state, params)
    second, state = update(gradients[1], state, params)
    equal(first, jax.tree.map(jnp.zeros_like, params))
    mean = jax.tree.map(lambda x, y: (x + y) / 2, *gradients)
    expected, _ = compiled(name)(mean, build(name).init(params), params)
    close(second, expected, 1e-5 if dtype == jnp.float32 else 2**-7)


@learned
def test_injected_hyperparameters(name: str) -> None:
    factory = optax.inject_hyperparams(
        lambda learning_rate, weight_decay, total_steps: flt_optimizer(
            learning_rate,
            weight_decay=weight_decay,
            total_steps=total_steps,
            weights=weights(name),
            **OPTIONS.get(name, {}),
        )
    )
    optimizer = factory(learning_rate=0.5, weight_decay=0.1, total_steps=40.0)
    update, params = jax.jit(optimizer.update), parameters()
    state = optimizer.init(params)
    half, _ = update(gradient(params, 0.0), state, params)
    state.hyperparams["learning_rate"] = jnp.ones((), jnp.float32)
    whole, new_state = update(gradient(params, 0.0), state, params)
    close(jax.tree.map(lambda u: 2 * u, half), whole, 1e-6)
    assert layout(new_state) == layout(state)

    state.hyperparams["weight_decay"] = jnp.zeros((), jnp.float32)
    plain, _ = update(gradient(params, 0.0), state, params)
    close(plain, compiled(name)(gradient(params, 0.0), build(name).init(params), params)[0], 1e-6)
    assert np.abs(whole["w"] - plain["w"]).max() > 0


@holds("chain and apply_if_finite", EVERY)
def test_inside_a_chain_and_apply_if_finite(name: str) -> None:
    params = parameters()
    optimizer = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1e-2), build(name)), 3)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    nothing, state = update(poisoned(gradient(params, 0.0), np.nan), state, params)
    equal(nothing, jax.tree.map(jnp.zeros_like, params))
    updates, state = update(gradient(params, 0.0), state, params)
    expected, _ = compiled(name)(gradient(params, 0.0), build(name).init(params), params)
    close(updates, expected, 1e-3)  # clipping scales the gradient, which does not matter
    assert int(state.total_notfinite) == 1
    if name in LEARNED:
        assert int(diagnostics(state)["count"]) == 1
