"""What holds for every optimizer: one table of optimizers, crossed with what optax and JAX ask of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from learned_opt import FLTConfig, FLTState, Mode, diagnostics, flt_optimizer, scale_by_flt

from .common import moved, start

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
    "window": FLTConfig(memory="window", window=3, rule_width=0, controller_width=2, signal_decays=(0.9,)),
    "bfloat16": SMALL,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "elementwise": {"orthogonalize": False},
    "bfloat16": {"state_dtype": "bfloat16"},
}
LEARNED, CONTROLS = list(CONFIGS), ["adamw", "muon"]


def weights(name: str) -> tuple[Any, FLTConfig]:
    return moved(CONFIGS[name], 0.05), CONFIGS[name]


def build(name: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    if name == "adamw":
        return optax.with_extra_args_support(optax.adamw(0.05, weight_decay=0.0))
    if name == "muon":
        return optax.with_extra_args_support(optax.contrib.muon(0.05))
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


every = rows(LEARNED + CONTROLS)
learned = rows(LEARNED)


# Learning, and what JAX's transformations must not change.


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


# Gradients that are zero, enormous, tiny, or not numbers.


@rows(LEARNED + CONTROLS, quick=("flt", "window"))
def test_zero_gradients_change_nothing(name: str) -> None:
    params, _ = run(name, parameters(), change=lambda g, t: jax.tree.map(jnp.zeros_like, g))
    equal(params, parameters())


def poisoned(gradients: Any, bad: float) -> Any:
    return gradients | {"w": gradients["w"].at[1, 2].set(bad)}


@learned
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_never_happened(name: str, bad: float) -> None:
    optimizer, update = build(name), compiled(name)
    params = parameters()
    state = optimizer.init(params)
    clean = params, state
    for t in range(STEPS):
        gradients = gradient(params, float(t))
        if t % 2 == 0:
            nothing, skipped = update(poisoned(gradients, bad), state, params)
            equal(nothing, jax.tree.map(jnp.zeros_like, params))
            before, after = flt_state(state), flt_state(skipped)
            assert int(after.skipped) == int(before.skipped) + 1
            equal(after._replace(skipped=before.skipped), before)
            state = skipped
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    clean = run(name, parameters())
    equal(params, clean[0])
    equal(flt_state(state)._replace(skipped=flt_state(clean[1]).skipped), flt_state(clean[1]))
    assert int(diagnostics(state)["skipped"]) == STEPS // 2


@learned
def test_nothing_else_is_skipped_and_one_leaf_stops_all(name: str) -> None:
    params = parameters()
    state = build(name).init(params)
    updates, state = compiled(name)(gradient(params, 0.0) | {"s": jnp.asarray(np.nan)}, state, params)
    equal(updates, jax.tree.map(jnp.zeros_like, params))
    assert int(flt_state(run(name, params)[1]).skipped) == 0


@learned
@pytest.mark.parametrize("power", [-60, -1, 1, 60])
def test_powers_of_two_in_the_gradient_change_no_bit(name: str, power: int) -> None:
    scaled, _ = run(name, parameters(), change=lambda g, t: jax.tree.map(lambda x: x * 2.0**power, g))
    equal(scaled, run(name, parameters())[0])


@learned
@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e3, 1e30])
def test_the_size_of_gradients_does_not_matter(name: str, factor: float) -> None:
    scaled, state = run(name, parameters(), change=lambda g, t: jax.tree.map(lambda x: x * factor, g))
    assert int(flt_state(state).skipped) == 0
    tolerance = 2e-2 if name == "bfloat16" else 1e-3  # rounding to bfloat16 draws differently
    close(scaled, run(name, parameters())[0], tolerance)


@learned
def test_gradients_that_change_size_at_every_step_stay_finite(name: str) -> None:
    sizes = [1.0, 1e30, 1e-30, 1e-36, 1e36, 0.0]
    params, state = run(name, parameters(), change=lambda g, t: jax.tree.map(lambda x: x * sizes[t], g))
    assert int(flt_state(state).skipped) == 0
    assert all(np.isfinite(p).all() for p in jax.tree.leaves((params, state)))
    close(params, parameters(), 1.0)


@pytest.mark.parametrize(
    "modes", [(Mode("g", 0.9), Mode("g2", 0.95)), (Mode("g", 0.9),)], ids=["adam", "momentum"]
)
def test_a_bare_read_out_remembers_what_the_gradients_were(modes: tuple[Mode, ...]) -> None:
    """Without a law too, one tiny gradient does not throw the memory of large ones out of its unit."""
    config = FLTConfig(modes=modes, law=False, rule_width=0)
    optimizer = scale_by_flt((start(config), config))
    params = {"w": jnp.ones((2, 2))}

    def step(state: Any, size: jax.Array) -> Any:
        updates, state = optimizer.update({"w": jnp.full((2, 2), size)}, state, params)
        return state, updates["w"]

    sizes = jnp.asarray([1e20, 1e20, 1e-25, 0.0, 1e20])
    state, updates = jax.jit(lambda: jax.lax.scan(step, optimizer.init(params), sizes))()
    assert int(state.skipped) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, updates)))
    # After the fourth gradient: the first two weigh decay^3 and decay^2.
    squares = (0.95**2 + 0.95**3) * 0.05 / (1 - 0.95**4)
    expected = 0.65 * (0.9**2 + 0.9**3) * 0.1 / (1 - 0.9**4)
    expected = expected / np.sqrt(squares) if len(modes) == 2 else expected * 1e20
    np.testing.assert_allclose(updates[3], expected, rtol=1e-3)


# optax: wrappers, trees, extra arguments.


@rows(LEARNED + CONTROLS, quick=tuple(LEARNED))
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
    with pytest.raises(TypeError, match=rf"\['a'\]\['bad'\] has dtype {jnp.dtype(dtype)}.*optax\.masked"):
        build("flt").init({"a": {"bad": jnp.ones(2, dtype), "good": jnp.ones(2)}})


@rows(LEARNED + CONTROLS, quick=tuple(LEARNED))
@pytest.mark.parametrize("params", [{}, (), {"a": None, "b": {}}])
def test_empty_trees(name: str, params: Any) -> None:
    optimizer = build(name)
    state = optimizer.init(params)
    updates, new_state = optimizer.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert layout(new_state) == layout(state)
    assert all(x.size for x in jax.tree.leaves(state))


@learned
def test_leaves_without_elements_do_not_stop_the_others(name: str) -> None:
    optimizer = build(name)
    params = {"w": jnp.ones((4, 3)), "empty": jnp.ones((0, 3)), "hollow": jnp.ones((2, 0, 3))}
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(params, state, params)
    assert int(flt_state(state).skipped) == 0
    assert np.abs(updates["w"]).min() > 0
    assert updates["empty"].shape == (0, 3)


@rows(LEARNED, quick=tuple(LEARNED))
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


@learned
def test_masked_leaves_the_rest_alone(name: str) -> None:
    chosen = {"w": True, "b": False, "s": True}
    params, state = jax.jit(lambda p: scanned(optax.masked(build(name), chosen), p, 1))(parameters())
    gradients = gradient(parameters(), 0.0)
    part = {key: parameters()[key] for key in ("w", "s")}
    optimizer = build(name)
    expected, _ = jax.jit(optimizer.update)({key: gradients[key] for key in part}, optimizer.init(part), part)
    close({key: params[key] - parameters()[key] for key in part}, expected, 1e-6)
    np.testing.assert_allclose(params["b"], parameters()["b"] + gradients["b"], rtol=1e-6)
    sizes = [x.shape for x in jax.tree.leaves(flt_state(state))]
    assert sizes == [x.shape for x in jax.tree.leaves(optimizer.init(part))]


@learned
def test_partition_gives_each_part_its_optimizer(name: str) -> None:
    labels = {"w": "flt", "b": "sgd", "s": "flt"}
    optimizer = optax.partition({"flt": build(name), "sgd": optax.sgd(0.5)}, labels)
    params, _ = jax.jit(lambda p: scanned(optimizer, p))(parameters())
    sgd, _ = jax.jit(lambda p: scanned(optax.sgd(0.5), p))(parameters())
    close(params["b"], sgd["b"])
    part = {key: parameters()[key] for key in ("w", "s")}
    count = len(jax.tree.leaves(parameters())) / len(
        part
    )  # the loss is a sum over leaves: parts do not interact
    assert count > 1
    alone, _ = jax.jit(lambda p: scanned(build(name), p))(part)
    close({key: params[key] for key in part}, alone, 1e-6)


@every
def test_multi_steps_averages_gradients(name: str) -> None:
    optimizer = optax.MultiSteps(build(name), every_k_schedule=2)
    params = parameters()
    gradients = [gradient(params, t) for t in (0.0, 1.0)]
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    first, state = update(gradients[0], state, params)
    second, state = update(gradients[1], state, params)
    equal(first, jax.tree.map(jnp.zeros_like, params))
    mean = jax.tree.map(lambda x, y: (x + y) / 2, *gradients)
    expected, _ = compiled(name)(mean, build(name).init(params), params)
    close(second, expected)


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


@learned
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
    assert (int(state.total_notfinite), int(diagnostics(state)["count"])) == (1, 1)


# The arguments of the factory.


def only_update(optimizer: optax.GradientTransformationExtraArgs, gradients: Any) -> Any:
    params = parameters()
    return jax.jit(optimizer.update)(gradients, optimizer.init(params), params)[0]


def test_total_steps_may_be_traced() -> None:
    update = jax.jit(lambda total: only_update(build("flt", total_steps=total), gradient(parameters(), 0.0)))
    close(
        update(40),
        compiled("flt")(gradient(parameters(), 0.0), build("flt").init(parameters()), parameters())[0],
    )
    assert np.abs(update(10)["w"] - update(1000)["w"]).max() > 1e-5
    many = jax.jit(jax.vmap(lambda total: only_update(build("flt", total_steps=total), parameters())))
    assert many(jnp.asarray([10.0, 1000.0]))["w"].shape == (2, 4, 3)


@pytest.mark.parametrize("bad", [0, -1, -0.5, np.nan, np.asarray(0), jnp.asarray(-3)])
def test_total_steps_must_be_positive(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"total_steps=.*expected a positive number of updates"):
        build("flt", total_steps=bad)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="state_dtype='float16': expected None, 'float32' or 'bfloat16'"):
        build("flt", state_dtype="float16")
    with pytest.raises(ValueError, match="geometry='muon'"):
        build("flt", geometry="muon").init(parameters())
    assert (
        flt_state(build("flt", state_dtype="float32").init(parameters())).memory[0]["w"].dtype == jnp.float32
    )


@pytest.mark.parametrize("rate", [3e-4, np.float32(1e-3), jnp.asarray(0.019)])
def test_the_rate_of_adam_warns(rate: Any) -> None:
    with pytest.warns(UserWarning, match="multiplies the learned step") as caught:
        flt_optimizer(rate, weights=weights("flt"))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("rate", [0.02, 1.0, 0.0, lambda count: 3e-4])
def test_other_rates_do_not_warn(rate: Any) -> None:
    flt_optimizer(rate, weights=weights("flt"))


def test_a_rate_multiplies() -> None:
    gradients = gradient(parameters(), 0.0)
    learned = only_update(scale_by_flt(weights("flt"), total_steps=40), gradients)
    default, _ = compiled("flt")(gradients, build("flt").init(parameters()), parameters())
    close(default, jax.tree.map(lambda u: -u, learned), 1e-6)


def test_a_rate_may_be_a_schedule() -> None:
    gradients = gradient(parameters(), 0.0)
    rising = optax.linear_schedule(0.0, 1.0, 2)
    optimizer = flt_optimizer(rising, weights=weights("flt"), total_steps=40)
    params = parameters()
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    first, state = update(gradients, state, params)
    equal(first, jax.tree.map(jnp.zeros_like, params))
    second, _ = update(gradients, state, params)
    state = build("flt").init(params)
    for _ in range(2):
        expected, state = compiled("flt")(gradients, state, params)
    close(second, jax.tree.map(lambda u: u / 2, expected), 1e-6)


def schedule_at(count: int, total: float) -> float:
    """The documented warm-up and decay, from the meta-parameters."""
    learned = {k: float(v) for k, v in weights("flt")[0]["flt/~/controller/~/schedule"].items()}
    rise = min((count + 1) / (np.exp(learned["log_warmup"]) * total + 1), 1.0)
    return max(rise * max(1 - count / total, 1e-3) ** np.exp(learned["log_decay_power"]), rise * 1e-3)


@pytest.mark.parametrize(
    ("mask", "decays"),
    [
        pytest.param(None, {"w", "b", "s"}, id="none"),
        pytest.param({"w": True, "b": False, "s": False}, {"w"}, id="tree", marks=pytest.mark.slow),
        pytest.param(lambda params: jax.tree.map(lambda p: p.ndim > 0, params), {"w", "b"}, id="function"),
        pytest.param(False, set(), id="prefix", marks=pytest.mark.slow),
    ],
)
def test_weight_decay_is_the_documented_formula(mask: Any, decays: set[str]) -> None:
    """Without gradients nothing else happens: p <- p - learning_rate 1e-3 schedule weight_decay p."""
    optimizer = flt_optimizer(0.5, weights=weights("flt"), total_steps=40, weight_decay=0.1, mask=mask)
    params = parameters()
    state = optimizer.init(params)
    nothing, update = jax.tree.map(jnp.zeros_like, params), jax.jit(optimizer.update)
    for count in range(3):
        updates, state = update(nothing, state, params)
        for key, change in updates.items():
            rate = 0.5 * 1e-3 * schedule_at(count, 40) * 0.1 * (key in decays)
            np.testing.assert_allclose(change, -rate * params[key], rtol=1e-5, atol=0)


def test_weight_decay_adds_to_the_learned_step() -> None:
    gradients = gradient(parameters(), 0.0)
    plain, _ = compiled("flt")(gradients, build("flt").init(parameters()), parameters())
    decayed = only_update(build("flt", weight_decay=0.5), gradients)
    rate = 1e-3 * schedule_at(0, 40) * 0.5
    expected = jax.tree.map(lambda u, p: u - rate * p, plain, parameters())
    close(decayed, expected, 1e-7)


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        (FLTConfig(), {}, 14),
        (FLTConfig(), {"state_dtype": "bfloat16"}, 8),
        (FLTConfig(modes=WAVES), {}, 22),
        (FLTConfig(memory="window", window=4), {}, 18),
        (FLTConfig(modes=(Mode("g", 0.9),), law=False), {}, 4),
    ],
    ids=["release", "bfloat16", "waves", "window", "momentum"],
)
def test_bytes_of_state_a_parameter(config: FLTConfig, options: dict[str, Any], expected: int) -> None:
    optimizer = scale_by_flt((start(config), config), **options)
    params = jax.ShapeDtypeStruct((2048, 2048), jnp.float32)
    state = jax.eval_shape(optimizer.init, params)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    per_tensor = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves((state.count, state.skipped, state.tensors))
    )
    assert size - per_tensor == expected * params.size
    assert per_tensor < 200
