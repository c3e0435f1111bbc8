"""The arguments of `flt_optimizer`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import FLTConfig, Mode, diagnostics, flt_optimizer, scale_by_flt

from .common import start
from .contract import WAVES, build, close, compiled, equal, flt_state, gradient, parameters, weights


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


def test_shrink_multiplies_what_parameters_shrink_by() -> None:
    gradients, params = gradient(parameters(), 0.0), parameters()

    def step(shrink: jax.Array) -> Any:
        optimizer = build("flt", shrink=shrink)
        updates, state = optimizer.update(gradients, optimizer.init(params), params)
        return updates, diagnostics(state)["shrink"]

    updates, shares = jax.jit(jax.vmap(step))(jnp.asarray([0.0, 0.5, 1.0]))
    assert np.all(shares[0] == 0)
    assert np.all(shares[2] > 0)
    close(shares[1], shares[2] / 2)
    added = jax.tree.map(lambda u: u - u[0], updates)  # towards zero, in proportion
    close(added["w"][1], added["w"][2] / 2)
    assert np.any(added["w"][2] * params["w"] < 0)
    assert np.all(added["w"][2] * params["w"] <= 0)
    close(
        jax.tree.map(lambda u: u[2], updates),
        compiled("flt")(gradients, build("flt").init(params), params)[0],
    )


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="shrink=-1: expected a multiplier of at least 0"):
        build("flt", shrink=-1)
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
