"""Steps of an optimizer on 8 devices against one: python -m tests.learned_opt.sharded flt explicit."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .contract import build, close

P = PartitionSpec
SPECS = {  # axes: 2 devices for data, 4 for the model
    "tensor": {"up": P(None, "model"), "down": P("model", None), "bias": P("model"), "gain": P()},
    "fsdp": {"up": P("data", None), "down": P("data", None), "bias": P("data"), "gain": P()},
    "both": {"up": P("data", "model"), "down": P("model", "data"), "bias": P("model"), "gain": P()},
}


def parameters() -> dict[str, jax.Array]:
    draw, shapes = (
        np.random.default_rng(0).normal,
        {"up": (8, 16), "down": (16, 8), "bias": (16,), "gain": ()},
    )
    return {name: jnp.asarray(draw(size=shape)) for name, shape in shapes.items()}


def trained(name: str, params: Any) -> Any:
    """After three steps."""
    optimizer = build(name)

    @jax.jit
    def step(params: Any, state: Any, t: jax.Array) -> Any:
        gradients = jax.tree.map(lambda p: p - 0.1 * jnp.sin(3.0 * t), params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for t in range(3):
        params, state = step(params, state, jnp.asarray(float(t)))
    return params


def check(name: str, kind: AxisType) -> None:
    """The parameters stay where they are and become what they become on one device."""
    expected = trained(name, parameters())
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
    for specs in SPECS.values():
        places = {leaf: NamedSharding(mesh, spec) for leaf, spec in specs.items()}
        with jax.set_mesh(mesh):
            found = trained(name, jax.device_put(parameters(), places))
        close(jax.device_get(found), expected, 1e-9)
        assert all(x.sharding.is_equivalent_to(places[leaf], x.ndim) for leaf, x in found.items())


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # in float32 the order of a sum shows after a few steps
    assert jax.device_count() == 8
    check(sys.argv[1], {"explicit": AxisType.Explicit, "automatic": AxisType.Auto}[sys.argv[2]])
