"""One transformer, one convolutional network and one mixture of experts, each in several layouts.

A layout turns the parameters of the first one into its own, and its model reads them as they lie. Geometries
are what a user gives: "auto" where names and shapes suffice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import Geometry, flt_optimizer

WIDTH, HEADS, SIZE, LAYERS, WORDS = 8, 2, 4, 2, 12
READS = ("query", "key", "value")

Array = Any
Params = Any


class Layout(NamedTuple):
    """How the parameters of a network lie."""

    laid: Callable[[Params], Params]  # from the parameters of the first layout
    loss: Callable[[Params], jax.Array]
    geometry: Any = "auto"


RATE = 0.3  # of the learned step: at all of it, these few parameters amplify rounding tenfold in three steps


def curve(layout: Layout, params: Params, dtype: Any, steps: int = 50) -> np.ndarray:
    """The losses of a run, [steps]."""
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), layout.laid(params))
    optimizer = flt_optimizer(RATE, total_steps=steps, geometry=layout.geometry)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        loss, gradients = jax.value_and_grad(layout.loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), loss

    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), None, steps)[1])
    return np.asarray(run(params))


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape) / max(np.prod(shape[:-1]), 1) ** 0.5


# A transformer


def transformer() -> Params:
    """Separate layers of (in, out) kernels, all biases away from zero.

    The keys have no bias: its gradient is zero but for rounding, and an optimizer that is free of scale would
    follow the rounding.
    """

    def layer(place: int) -> Params:
        names = dict.fromkeys((*READS, "out"), (WIDTH, WIDTH)) | {"up": (WIDTH, 12), "down": (12, WIDTH)}
        dense = {
            name: {
                "kernel": 0.5 * _draw(place + 1, *shape)[place],
                "bias": 0.1 * _draw(place + 2, shape[1])[place],
            }
            for name, shape in names.items()
        }
        dense["key"].pop("bias")
        return dense | {"norm": {"scale": 1 + 0.1 * _draw(place + 1, WIDTH)[place]}}

    return {
        "embed": _draw(WORDS, WIDTH),
        "blocks": [layer(place) for place in range(LAYERS)],
        "head": {"kernel": _draw(WIDTH, WORDS)},
    }


def _block(layer: Params, x: Array) -> Array:
    def dense(name: str, x: Array) -> Array:
        return x @ layer[name]["kernel"] + layer[name].get("bias", 0.0)

    y = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * layer["norm"]["scale"]
    q, k, v = (dense(name, y).reshape(*y.shape[:-1], HEADS, SIZE) for name in READS)
    scores = jnp.einsum("bihs,bjhs->bhij", q, k) / SIZE**0.5
    mixed = jnp.einsum("bhij,bjhs->bihs", jax.nn.softmax(scores), v).reshape(x.shape)
    x = x + dense("out", mixed)
    return x + dense("down", jax.nn.gelu(dense("up", x)))


def _blocks_one_by_one(layers: list[Params], x: Array) -> Array:
    for layer in layers:
        x = _block(layer, x)
    return x


def _blocks_scanned(layers: Params, x: Array) -> Array:
    return jax.lax.scan(lambda x, layer: (_block(layer, x), None), x, layers)[0]


def _language_model(
    blocks: Callable[[Any, Array], Array], read: Callable[[Params], Params] = lambda layer: layer
) -> Callable[[Params], jax.Array]:
    """The loss of predicting the words of one batch; `read` makes a layer's kernels (in, out)."""
    words = np.random.default_rng(0).integers(WORDS, size=(4, 6))

    def loss(params: Params) -> jax.Array:
        layers = params["blocks"]
        layers = [read(layer) for layer in layers] if isinstance(layers, list) else layers
        logits = blocks(layers, params["embed"][words]) @ params["head"]["kernel"]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.roll(words, 1, -1)[..., None], -1)
        return -jnp.mean(picked)

    return loss


def _in_each_layer(change: Callable[[Params], Params]) -> Callable[[Params], Params]:
    return lambda params: params | {"blocks": [change(layer) for layer in params["blocks"]]}


def _stacked(params: Params) -> Params:
    return params | {"blocks": jax.tree.map(lambda *layers: np.stack(layers), *params["blocks"])}


def _with_heads(layer: Params) -> Params:
    """(in, heads, size) and (heads, size, out)."""
    reads = {
        name: jax.tree.map(lambda x: x.reshape(*x.shape[:-1], HEADS, SIZE), layer[name]) for name in READS
    }
    return (
        layer | reads | {"out": layer["out"] | {"kernel": layer["out"]["kernel"].reshape(HEADS, SIZE, WIDTH)}}
    )


def _without_heads(layer: Params) -> Params:
    flat = jax.tree.map(lambda x: x.reshape(WIDTH, WIDTH) if x.ndim == 3 else x.reshape(-1), layer)
    return layer | {name: flat[name] for name in (*READS, "out")}


def _fused(layer: Params) -> Params:
    fused = {"kernel": np.concatenate([layer[name]["kernel"] for name in READS], -1)}
    fused["bias"] = np.concatenate([layer[name]["bias"] for name in ("query", "value")], -1)
    return {name: part for name, part in layer.items() if name not in READS} | {"qkv": fused}


def _split(layer: Params) -> Params:
    q, k, v = jnp.split(layer["qkv"]["kernel"], 3, -1)
    q_bias, v_bias = jnp.split(layer["qkv"]["bias"], 2, -1)
    reads = {
        "query": {"kernel": q, "bias": q_bias},
        "key": {"kernel": k},
        "value": {"kernel": v, "bias": v_bias},
    }
    return layer | reads


def _transposed(layer: Params) -> Params:
    return jax.tree.map(lambda x: x.T, layer)


def _fused_geometry(path: str, leaf: Any) -> Geometry:
    if path.endswith("qkv/kernel"):
        return Geometry("matrix", (), (0,), (1,), blocks=((1, 3),))
    if path.endswith("qkv/bias"):
        return Geometry("vector", (), (), (0,), blocks=((0, 2),))
    return _plain_geometry(path, leaf)


def _transposed_geometry(path: str, leaf: Any) -> Geometry:
    if "blocks" in path and leaf.ndim == 2:
        return Geometry("matrix", (), inputs=(1,), outputs=(0,))
    return _plain_geometry(path, leaf)


def _plain_geometry(path: str, leaf: Any) -> Geometry:
    if leaf.ndim == 1:
        return Geometry("vector", (), (), (0,))
    return Geometry("embedding" if path == "embed" else "matrix", (), (0,), (1,))


TRANSFORMER = {
    "separate": Layout(lambda params: params, _language_model(_blocks_one_by_one)),
    "scanned": Layout(_stacked, _language_model(_blocks_scanned)),
    "heads": Layout(_in_each_layer(_with_heads), _language_model(_blocks_one_by_one, _without_heads)),
    "fused": Layout(_in_each_layer(_fused), _language_model(_blocks_one_by_one, _split), _fused_geometry),
    "transposed": Layout(
        _in_each_layer(_transposed), _language_model(_blocks_one_by_one, _transposed), _transposed_geometry
    ),
}


# A convolutional network


def convnet() -> Params:
    """Kernels (height, width, in, out)."""
    return {"conv": _draw(3, 3, 2, 6), "conv_bias": 0.1 * _draw(6), "out": _draw(6, 3)}


def _pictures(kernel_layout: str) -> Callable[[Params], jax.Array]:
    x, target = _draw(8, 6, 6, 2), np.arange(8) % 3

    def loss(params: Params) -> jax.Array:
        kernel = params["conv"]
        order = ("NHWC", kernel_layout, "NHWC")
        y = jax.lax.conv_general_dilated(
            x.astype(kernel.dtype), kernel, (1, 1), "SAME", dimension_numbers=order
        )
        features = jnp.tanh(y + params["conv_bias"]).mean((1, 2))
        logits = features @ params["out"]
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(8), target])

    return loss


CONVNET = {
    "HWIO": Layout(lambda params: params, _pictures("HWIO")),
    "OIHW": Layout(
        lambda params: params | {"conv": params["conv"].transpose(3, 2, 0, 1)},
        _pictures("OIHW"),
        {
            "conv": Geometry("matrix", (), inputs=(1, 2, 3), outputs=(0,)),
            "conv_bias": Geometry("vector", (), (), (0,)),
            "out": Geometry("matrix", (), (0,), (1,)),
        },
    ),
}


# A mixture of experts


def mixture() -> Params:
    """Separate experts of different scales."""
    return {
        "router": {"kernel": _draw(5, 4)},
        "experts": [
            {
                "up": {"kernel": (1.0 + i) * _draw(i + 1, 5, 7)[i], "bias": 0.1 * _draw(i + 1, 7)[i]},
                "down": {"kernel": _draw(i + 1, 7, 3)[i]},
            }
            for i in range(4)
        ],
    }


def _expert(expert: Params, x: Array) -> Array:
    return jnp.tanh(x @ expert["up"]["kernel"] + expert["up"]["bias"]) @ expert["down"]["kernel"]


def _mixed(experts: Callable[[Any, Array], Array]) -> Callable[[Params], jax.Array]:
    x, target = _draw(16, 5) * 4, np.tanh(_draw(16, 3) * 4)

    def loss(params: Params) -> jax.Array:
        inputs = x.astype(params["router"]["kernel"].dtype)
        share = jax.nn.softmax(inputs @ params["router"]["kernel"])
        return jnp.mean((jnp.einsum("be,ebo->bo", share, experts(params["experts"], inputs)) - target) ** 2)

    return loss


MIXTURE = {
    "separate": Layout(
        lambda params: params,
        _mixed(lambda experts, x: jnp.stack([_expert(expert, x) for expert in experts])),
    ),
    "stacked": Layout(
        lambda params: params | {"experts": jax.tree.map(lambda *parts: np.stack(parts), *params["experts"])},
        _mixed(lambda experts, x: jax.vmap(_expert, (0, None))(experts, x)),
    ),
}
