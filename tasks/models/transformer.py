"""Pre-norm transformers: a byte-level language model and a classifier of patches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tasks.base import Config, Params
from tasks.models.layers import (
    Model,
    Normal,
    activate,
    dense,
    drawn,
    hidden_gain,
    kernel,
    linear,
    lookup,
    norm,
    normalise,
)

HEAD_SIZE = 16


def language_transformer(
    width: int, depth: int, length: int, vocabulary: int = 128, tied: bool = False
) -> Model:
    """Causal: integer bytes [batch, length] -> logits [batch, length, vocabulary].

    With `tied`, the embedding is the last kernel too (Press and Wolf 2017).
    """

    def start(config: Config) -> Params:
        head = {} if tied else {"head": {"kernel": kernel(width, vocabulary, gain=config["head"])}}
        return {
            "embed": Normal((vocabulary, width), 0.02 * config["embed"]),
            "pos_embed": Normal((length, width), 0.02 * config["embed"]),
            "blocks": [_new_block(width, depth, config) for _ in range(depth)],
            "norm": norm(width, bias=False),
            **head,
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        x = lookup(params["embed"], x) + params["pos_embed"]
        for block in params["blocks"]:
            x = _block(block, x, config, causal=True)
        return normalise(params["norm"], x) @ (params["embed"].T if tied else params["head"]["kernel"])

    text = f"byte transformer, width {width}, depth {depth}, length {length}{', tied' * tied}"
    return Model(drawn(start), apply, text)


def patch_transformer(space: tuple[int, ...], patch: int, width: int, depth: int, classes: int) -> Model:
    """Bidirectional attention over patches (Dosovitskiy et al. 2021): [batch, product of space] -> logits."""
    tokens, size = 1, 1
    for side in space:
        tokens, size = tokens * (side // patch), size * patch

    def start(config: Config) -> Params:
        return {
            "patches": dense(size, width),
            "pos_embed": Normal((tokens, width), 0.02 * config["embed"]),
            "blocks": [_new_block(width, depth, config) for _ in range(depth)],
            "norm": norm(width, bias=False),
            "head": dense(width, classes, config["head"]),
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        x = linear(params["patches"], _patches(x, space, patch)) + params["pos_embed"]
        for block in params["blocks"]:
            x = _block(block, x, config, causal=False)
        return linear(params["head"], normalise(params["norm"], x).mean(-2))

    return Model(drawn(start), apply, f"patch transformer, width {width}, depth {depth}, {tokens} patches")


def _new_block(width: int, depth: int, config: Config) -> Params:
    small = (
        2.0 * depth
    ) ** -0.5  # keeps the residual stream's size independent of depth (Radford et al. 2019)
    return {
        "norm1": norm(width, bias=False),
        "qkv": {"kernel": kernel(width, 3 * width, gain=config["scale"])},
        "out": {"kernel": kernel(width, width, gain=small)},
        "norm2": norm(width, bias=False),
        "up": dense(width, 4 * width, hidden_gain(config)),
        "down": dense(4 * width, width, small),
    }


def _block(block: Params, x: jax.Array, config: Config, causal: bool) -> jax.Array:
    x = x + _attention(block, normalise(block["norm1"], x), causal)
    hidden = activate(linear(block["up"], normalise(block["norm2"], x)), config)
    return x + linear(block["down"], hidden)


def _attention(block: Params, x: jax.Array, causal: bool) -> jax.Array:
    batch, length, width = x.shape
    heads = width // HEAD_SIZE
    qkv = (x @ block["qkv"]["kernel"]).reshape(batch, length, 3 * heads, HEAD_SIZE).swapaxes(1, 2)
    q, k, v = jnp.split(qkv, 3, axis=1)
    scores = q @ k.swapaxes(-1, -2) * HEAD_SIZE**-0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e9)
    mixed = jax.nn.softmax(scores) @ v
    return mixed.swapaxes(1, 2).reshape(batch, length, width) @ block["out"]["kernel"]


def _patches(x: jax.Array, space: tuple[int, ...], patch: int) -> jax.Array:
    counts = [side // patch for side in space]
    split = [n for count in counts for n in (count, patch)]
    order = [0, *range(1, 2 * len(space), 2), *range(2, 2 * len(space) + 1, 2)]
    tokens = 1
    for count in counts:
        tokens *= count
    return x.reshape(x.shape[0], *split).transpose(order).reshape(x.shape[0], tokens, -1)
