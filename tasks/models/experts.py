"""Mixture of experts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tasks.base import Config, Params
from tasks.models.layers import Model, activate, dense, drawn, hidden_gain, kernel, linear


def mixture(inputs: int, width: int, experts: int, outputs: int) -> Model:
    """A router sends each row to one of several two-layer experts (Fedus et al. 2022).

    Inputs [batch, inputs] -> logits [batch, outputs]. Experts that no row
    of a batch goes to get a gradient of zero.
    """

    def expert(config: Config) -> Params:
        return {
            "up": dense(inputs, width, hidden_gain(config)),
            "down": dense(width, outputs, config["head"]),
        }

    def start(config: Config) -> Params:
        return {
            "router": {"kernel": kernel(inputs, experts, gain=0.3)},
            "experts": [expert(config) for _ in range(experts)],
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        share = jax.nn.softmax(x @ params["router"]["kernel"])
        weight = jnp.where(share == share.max(-1, keepdims=True), experts * share, 0.0)
        every = [linear(e["down"], activate(linear(e["up"], x), config)) for e in params["experts"]]
        return jnp.einsum("be,ebo->bo", weight, jnp.stack(every))

    return Model(drawn(start), apply, f"{experts} experts {inputs}-{width}-{outputs}, one a row")
