"""Convolutional networks on signals and images."""

from __future__ import annotations

from itertools import pairwise, product

import jax
import jax.numpy as jnp

from tasks.base import Config, Params
from tasks.models.layers import (
    Model,
    activate,
    dense,
    drawn,
    group_normalise,
    hidden_gain,
    kernel,
    linear,
    norm,
)


def convolve(x: jax.Array, weights: jax.Array, stride: int = 1) -> jax.Array:
    """Zero-padded convolution; x [batch, *space, in], weights [*odd window, in, out] -> [batch, *space, out].

    A product with patches: mapped over many networks, it stays one batched matrix product, where the
    convolution primitive would become a slow grouped one.
    """
    *window, channels, outputs = weights.shape
    space = x.shape[1:-1]
    padded = jnp.pad(x, ((0, 0), *((w // 2, w // 2) for w in window), (0, 0)))
    shifts = product(*(range(w) for w in window))
    views = [
        padded[(slice(None), *(slice(i, i + n, stride) for i, n in zip(s, space, strict=True)))]
        for s in shifts
    ]
    return jnp.concatenate(views, axis=-1) @ weights.reshape(len(views) * channels, outputs)


def convnet(
    space: tuple[int, ...],
    channels: tuple[int, ...],
    classes: int,
    *,
    window: int,
    stride: int,
    groups: int,
    colours: int = 1,
) -> Model:
    """Strided convolutions, each with group norm and a residual block, then the mean over space and a head.

    Args:
      space: height and width of an image, or the length of a signal; inputs are
        [batch, product of space * colours].
      channels: of each stage.
      classes: the number of logits.
      window: odd side of every kernel.
      stride: of the first convolution of each stage.
      groups: of the normalisation; the number of channels gives instance norm.
      colours: channels of the inputs, the last axis of an image.
    """
    windows = (window,) * len(space)

    def start(config: Config) -> Params:
        stages = [_stage(windows, i, o, hidden_gain(config)) for i, o in pairwise((colours, *channels))]
        return {"strided_convs": stages, "head": dense(channels[-1], classes, config["head"])}

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        x = x.reshape(x.shape[0], *space, colours)
        for stage in params["strided_convs"]:
            x = group_normalise(stage["norm"], convolve(x, stage["kernel"], stride), groups)
            x = activate(x, config)
            inner = activate(convolve(x, stage["inner"]["kernel"]) + stage["inner"]["bias"], config)
            x = x + convolve(inner, stage["outer"]["kernel"])
        return linear(params["head"], x.mean(tuple(range(1, x.ndim - 1))))

    norms = "instance norm" if groups == channels[0] else "group norm"
    size = "x".join(map(str, windows))
    return Model(
        drawn(start), apply, f"residual conv net {size}, {'-'.join(map(str, channels))} channels, {norms}"
    )


def _stage(windows: tuple[int, ...], fan_in: int, size: int, gain: jax.Array) -> Params:
    return {
        "kernel": kernel(*windows, fan_in, size, gain=gain),
        "norm": norm(size),
        "inner": {
            "kernel": kernel(*windows, size, size, gain=gain),
            "bias": jnp.zeros(size, jnp.float32),
        },
        "outer": {"kernel": kernel(*windows, size, size, gain=0.5 * gain)},
    }
