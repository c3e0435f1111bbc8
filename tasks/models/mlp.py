"""Fully connected networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import random

from tasks.base import Config, Key, Params
from tasks.models.layers import Model, activate, dense, hidden_gain, linear, norm, normalise


def mlp(*sizes: int, norms: bool = False, bias: float = 0.0, octaves: int = 0) -> Model:
    """A network of fully connected layers; inputs [batch, sizes[0]] -> [batch, sizes[-1]].

    Args:
      *sizes: width of the inputs, of each hidden layer, of the outputs.
      norms: layer normalisation before each activation.
      bias: standard deviation of the hidden biases at the start.
      octaves: if positive, inputs become sines and cosines at that many doubling frequencies
        (Mildenhall et al. 2020).
    """
    widths = (sizes[0] * max(2 * octaves, 1), *sizes[1:])

    def init(key: Key, config: Config) -> Params:
        *keys, last = random.split(key, len(widths) - 1)
        gain = hidden_gain(config)
        hidden = [
            _hidden(k, i, o, gain, norms, bias) for k, i, o in zip(keys, widths, widths[1:-1], strict=False)
        ]
        return {"hidden": hidden, "head": dense(last, widths[-2], widths[-1], config["head"])}

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        x = _waves(x, octaves) if octaves else x
        for layer in params["hidden"]:
            x = linear(layer, x)
            x = activate(normalise(layer["norm"], x) if norms else x, config)
        return linear(params["head"], x)

    text = "-".join(map(str, sizes)) + " MLP" + norms * ", layer norm" + bool(octaves) * ", sine features"
    return Model(init, apply, text)


def _hidden(key: Key, fan_in: int, fan_out: int, gain: jax.Array, norms: bool, bias: float) -> Params:
    for_kernel, for_bias = random.split(key)
    layer = dense(for_kernel, fan_in, fan_out, gain)
    if bias:
        layer["bias"] = bias * random.normal(for_bias, (fan_out,), jnp.float32)
    return {**layer, "norm": norm(fan_out)} if norms else layer


def _waves(x: jax.Array, octaves: int) -> jax.Array:
    angles = x[..., None] * (jnp.pi * 2.0 ** jnp.arange(octaves, dtype=jnp.float32))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*x.shape[:-1], -1)
