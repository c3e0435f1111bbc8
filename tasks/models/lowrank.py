"""Networks whose trained parameters are factors of a matrix."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import random

from tasks.base import Config, Key, Params
from tasks.models.layers import Model, activate, embedding, hidden_gain, kernel, lookup


def factors(rows: int, columns: int, rank: int) -> Model:
    """Matrix factorisation with biases: index pairs [batch, 2] -> predicted entries [batch, 1].

    A batch touches few rows of the tables, so most gradients are exactly zero.
    """

    def init(key: Key, config: Config) -> Params:
        left, right = random.split(key)
        std = config["embed"] * rank**-0.5
        return {
            "rows": {"embed": embedding(left, rows, rank, std), "bias": jnp.zeros((rows, 1), jnp.float32)},
            "columns": {
                "embed": embedding(right, columns, rank, std),
                "bias": jnp.zeros((columns, 1), jnp.float32),
            },
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        row, column = (
            {name: lookup(table, x[:, i].astype(jnp.int32)) for name, table in params[side].items()}
            for i, side in enumerate(("rows", "columns"))
        )
        return jnp.sum(row["embed"] * column["embed"], -1, keepdims=True) + row["bias"] + column["bias"]

    return Model(init, apply, f"factorisation of a {rows}x{columns} matrix, rank {rank}")


def adapters(*sizes: int, rank: int) -> Model:
    """Low-rank adapters (Hu et al. 2022) on every kernel of a frozen MLP, and its biases.

    Inputs are a pair: x [batch, sizes[0]] and the frozen kernels, sizes[i] by sizes[i + 1].
    """

    def init(key: Key, config: Config) -> Params:
        keys = random.split(key, len(sizes) - 1)
        return {
            "layers": [
                _adapter(k, i, o, rank, config) for k, (i, o) in zip(keys, pairwise(sizes), strict=True)
            ]
        }

    def apply(params: Params, inputs: Any, config: Config) -> jax.Array:
        x, frozen = inputs
        for i, (layer, base) in enumerate(zip(params["layers"], frozen, strict=True)):
            x = activate(x, config) if i else x
            x = hidden_gain(config) * (x @ base) + (x @ layer["A"]) @ layer["B"] + layer["bias"]
        return x

    return Model(init, apply, f"rank-{rank} adapters on a frozen {'-'.join(map(str, sizes))} MLP")


def _adapter(key: Key, fan_in: int, fan_out: int, rank: int, config: Config) -> Params:
    return {
        "A": kernel(key, fan_in, rank, gain=config["scale"]),
        "B": jnp.zeros((rank, fan_out), jnp.float32),
        "bias": jnp.zeros(fan_out, jnp.float32),
    }
