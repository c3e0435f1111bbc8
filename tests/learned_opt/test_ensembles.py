"""Networks side by side train as each would alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import describe, flt_optimizer, geometry_of
from learned_opt.geometry import auto

from .layouts import RATE

X = np.random.default_rng(0).normal(size=(32, 6))
Y = np.sin(X.sum(1, keepdims=True))


def init(key: jax.Array, sizes: tuple[int, ...] = (6, 16, 16, 1)) -> Any:
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": jax.random.normal(k, (i, o)) / i**0.5, "b": jnp.zeros(o)}
        for k, i, o in zip(keys, sizes, sizes[1:], strict=False)
    ]


def loss(params: Any) -> jax.Array:
    x = jnp.asarray(X, params[0]["w"].dtype)
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return jnp.mean((x @ params[-1]["w"] + params[-1]["b"] - Y) ** 2)


def of_all(params: Any) -> jax.Array:
    return jax.vmap(loss)(params).mean()


def copies(params: Any, number: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), params)


def curve(loss: Any, params: Any, geometry: Any = "auto") -> np.ndarray:
    optimizer = flt_optimizer(RATE, total_steps=30, geometry=geometry)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), value

    return np.asarray(jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, 30)[1])(params))


@pytest.mark.parametrize("traced", [False, True])
def test_a_member_trains_as_if_it_were_alone(traced: bool) -> None:
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), init(jax.random.key(0)))
        many = copies(params, 8)
        geometry = geometry_of(of_all, many) if traced else "auto"
        np.testing.assert_allclose(curve(of_all, many, geometry), curve(loss, params), rtol=1e-9)


def members(params: Any) -> set[int]:
    return {one.members for one in auto(params)}


def test_what_is_an_ensemble() -> None:
    network = init(jax.random.key(0))
    assert members(network) == {1}
    assert members(copies(network, 5)) == {5}
    assert members({"params": copies(network, 5)}) == {5}
    assert "stacked in the whole tree: 5 members" in describe(copies(network, 5))
    assert members({"layers": copies(network, 5)}) == {1}
    assert members([copies(network, 5), {"w": jnp.zeros((6, 6))}]) == {1}
    closed = init(jax.random.key(0), (16, 32, 16))
    assert members(copies(closed, 5)) == {1}  # perhaps layers


def test_the_program_tells_layers_from_members() -> None:
    layer = {"gates": jnp.zeros((6, 16)), "out": jnp.zeros((8, 6)), "bias": jnp.zeros(6)}
    layers = copies(layer, 5)
    assert members(layers) == {5}

    def apply(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        gate, new = jnp.split(x @ layer["gates"], 2, -1)
        return x + (jnp.tanh(gate) * new) @ layer["out"] + layer["bias"], None

    found = geometry_of(lambda p: jax.lax.scan(apply, jnp.asarray(X), p)[0], layers)
    assert {one.members for one in jax.tree.leaves(found)} == {1}
    found = geometry_of(lambda p: jax.vmap(lambda layer: apply(jnp.asarray(X), layer)[0])(p), layers)
    assert {one.members for one in jax.tree.leaves(found)} == {5}
