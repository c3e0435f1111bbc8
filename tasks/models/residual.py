"""Fully connected networks of residual blocks."""

from __future__ import annotations

import jax

from tasks.base import Config, Params
from tasks.models.layers import (
    Model,
    activate,
    dense,
    drawn,
    hidden_gain,
    kernel,
    linear,
    norm,
    rms_normalise,
)


def residual_mlp(inputs: int, width: int, depth: int, outputs: int) -> Model:
    """Blocks x + W2 f(W1 rms(x)): [batch, inputs] -> [batch, outputs].

    He et al. 2016, with the norm of Zhang and Sennrich 2019.
    """

    def block(config: Config) -> Params:
        return {
            "norm": norm(width, bias=False),
            "up": dense(width, width, hidden_gain(config)),
            "down": {"kernel": kernel(width, width, gain=depth**-0.5)},
        }

    def start(config: Config) -> Params:
        return {
            "input": dense(inputs, width, config["scale"]),
            "blocks": [block(config) for _ in range(depth)],
            "norm": norm(width, bias=False),
            "head": dense(width, outputs, config["head"]),
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        x = linear(params["input"], x)
        for layer in params["blocks"]:
            hidden = activate(linear(layer["up"], rms_normalise(layer["norm"], x)), config)
            x = x + hidden @ layer["down"]["kernel"]
        return linear(params["head"], rms_normalise(params["norm"], x))

    return Model(drawn(start), apply, f"residual MLP, width {width}, {depth} blocks, RMS norm")
