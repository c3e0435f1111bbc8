"""Fully connected networks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from tasks.base import Config, Params
from tasks.models.layers import Model, Normal, activate, dense, drawn, hidden_gain, linear, norm, normalise


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

    def start(config: Config) -> Params:
        gain = hidden_gain(config)
        hidden = [_hidden(i, o, gain, norms, bias) for i, o in pairwise(widths[:-1])]
        return {"hidden": hidden, "head": dense(widths[-2], widths[-1], config["head"])}

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        x = _waves(x, octaves) if octaves else x
        for layer in params["hidden"]:
            x = linear(layer, x)
            x = activate(normalise(layer["norm"], x) if norms else x, config)
        return linear(params["head"], x)

    text = "-".join(map(str, sizes)) + " MLP" + norms * ", layer norm" + bool(octaves) * ", sine features"
    return Model(drawn(start), apply, text)


def with_slopes(model: Model) -> Model:
    """A network of one output, beside a fifth of its derivatives by the inputs: -> [batch, 1 + inputs]."""

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        def value(row: jax.Array) -> jax.Array:
            return model.apply(params, row[None], config)[0, 0]

        values, slopes = jax.vmap(jax.value_and_grad(value))(x)
        return jnp.concatenate([values[:, None], 0.2 * slopes], axis=-1)

    return Model(model.init, apply, f"{model.text} and its input derivatives")


def twins(model: Model) -> Model:
    """One network applied to both of a pair of inputs; outputs are a pair too."""

    def apply(params: Params, pair: Any, config: Config) -> tuple[jax.Array, jax.Array]:
        left, right = (model.apply(params, x, config) for x in pair)
        return left, right

    return Model(model.init, apply, f"{model.text}, twice")


def variational(inputs: int, width: int, latent: int) -> Model:
    """A variational autoencoder (Kingma and Welling 2014) of one hidden layer each way.

    Inputs are a pair: x [batch, inputs] and standard normal noise [batch, latent]. Outputs are the
    reconstruction [batch, inputs] and Kullback and Leibler's divergence from the prior [batch], in nats.
    """

    def start(config: Config) -> Params:
        gain = hidden_gain(config)
        return {
            "up": dense(inputs, width, gain),
            "code": dense(width, 2 * latent, 0.3 * config["head"]),
            "down": dense(latent, width, gain),
            "head": dense(width, inputs, config["head"]),
        }

    def apply(params: Params, pair: Any, config: Config) -> tuple[jax.Array, jax.Array]:
        x, noise = pair
        code = linear(params["code"], activate(linear(params["up"], x), config))
        mean, log_std = code[..., :latent], jnp.clip(code[..., latent:], -5.0, 3.0)
        z = mean + jnp.exp(log_std) * noise
        divergence = 0.5 * (jnp.square(mean) + jnp.expm1(2 * log_std) - 2 * log_std).sum(-1)
        return linear(params["head"], activate(linear(params["down"], z), config)), divergence

    return Model(drawn(start), apply, f"variational autoencoder {inputs}-{width}-{latent}")


def _hidden(fan_in: int, fan_out: int, gain: jax.Array, norms: bool, bias: float) -> Params:
    layer = dense(fan_in, fan_out, gain)
    if bias:
        layer["bias"] = Normal((fan_out,), bias)
    return {**layer, "norm": norm(fan_out)} if norms else layer


def _waves(x: jax.Array, octaves: int) -> jax.Array:
    angles = x[..., None] * (jnp.pi * 2.0 ** jnp.arange(octaves, dtype=jnp.float32))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*x.shape[:-1], -1)
