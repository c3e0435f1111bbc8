"""Networks whose trained parameters are factors of a matrix."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from tasks.base import Config, Params
from tasks.models.layers import Model, Normal, activate, drawn, hidden_gain, kernel, lookup


def factors(rows: int, columns: int, rank: int) -> Model:
    """Matrix factorisation with biases: index pairs [batch, 2] -> predicted entries [batch, 1].

    A batch touches few rows of the tables, so most gradients are exactly zero.
    """

    def start(config: Config) -> Params:
        std = config["embed"] * rank**-0.5
        return {
            "rows": {"embed": Normal((rows, rank), std), "bias": jnp.zeros((rows, 1), jnp.float32)},
            "columns": {
                "embed": Normal((columns, rank), std),
                "bias": jnp.zeros((columns, 1), jnp.float32),
            },
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        row, column = (
            {name: lookup(table, x[:, i].astype(jnp.int32)) for name, table in params[side].items()}
            for i, side in enumerate(("rows", "columns"))
        )
        return jnp.sum(row["embed"] * column["embed"], -1, keepdims=True) + row["bias"] + column["bias"]

    return Model(drawn(start), apply, f"factorisation of a {rows}x{columns} matrix, rank {rank}")


def adapters(*sizes: int, rank: int) -> Model:
    """Low-rank adapters (Hu et al. 2022) on every kernel of a frozen MLP, and its biases.

    Inputs are a pair: x [batch, sizes[0]] and the frozen kernels, sizes[i] by sizes[i + 1].
    """

    def start(config: Config) -> Params:
        return {"layers": [_adapter(i, o, rank, config) for i, o in pairwise(sizes)]}

    def apply(params: Params, inputs: Any, config: Config) -> jax.Array:
        x, frozen = inputs
        for i, (layer, base) in enumerate(zip(params["layers"], frozen, strict=True)):
            x = activate(x, config) if i else x
            x = hidden_gain(config) * (x @ base) + (x @ layer["A"]) @ layer["B"] + layer["bias"]
        return x

    return Model(drawn(start), apply, f"rank-{rank} adapters on a frozen {'-'.join(map(str, sizes))} MLP")


def _adapter(fan_in: int, fan_out: int, rank: int, config: Config) -> Params:
    return {
        "A": kernel(fan_in, rank, gain=config["scale"]),
        "B": jnp.zeros((rank, fan_out), jnp.float32),
        "bias": jnp.zeros(fan_out, jnp.float32),
    }
