"""Recurrent networks: language models over bytes and classifiers of sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tasks.base import Config, Params
from tasks.models.layers import Model, Normal, dense, drawn, kernel, linear, lookup


class Cell(NamedTuple):
    """One step of recurrence.

    `step(state, inputs [batch, gates * size], kernel [size, gates * size]) -> state`; the state is a tuple of
    arrays [batch, size], the first of which is the output.
    """

    name: str
    gates: int
    states: int
    forget: float
    step: Callable[[Any, jax.Array, jax.Array], Any]


def _gru_step(state: Any, inputs: jax.Array, weights: jax.Array) -> Any:
    (h,) = state
    x_reset, x_update, x_new = jnp.split(inputs, 3, axis=-1)
    h_reset, h_update, h_new = jnp.split(h @ weights, 3, axis=-1)
    keep = jax.nn.sigmoid(x_update + h_update)
    new = jnp.tanh(x_new + jax.nn.sigmoid(x_reset + h_reset) * h_new)
    return (keep * h + (1.0 - keep) * new,)


def _lstm_step(state: Any, inputs: jax.Array, weights: jax.Array) -> Any:
    h, c = state
    forget, enter, leave, new = jnp.split(inputs + h @ weights, 4, axis=-1)
    c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return (jax.nn.sigmoid(leave) * jnp.tanh(c), c)


GRU = Cell("GRU", gates=3, states=1, forget=0.0, step=_gru_step)
"""Cho et al. 2014, with the reset gate after the product."""
LSTM = Cell("LSTM", gates=4, states=2, forget=1.0, step=_lstm_step)
"""Hochreiter and Schmidhuber 1997, with forget gates that start open (Jozefowicz et al. 2015)."""


def language_recurrent(cell: Cell, size: int, vocabulary: int = 128, unroll: int = 8) -> Model:
    """Integer bytes [batch, length] -> logits [batch, length, vocabulary]."""

    def start(config: Config) -> Params:
        return {
            "embed": Normal((vocabulary, size), 0.3 * config["embed"]),
            **_recurrence(cell, size, size, vocabulary, config),
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        outputs = _run(cell, params, lookup(params["embed"], x), size, unroll)
        return linear(params["head"], outputs).swapaxes(0, 1)

    return Model(drawn(start), apply, f"byte {cell.name}, width {size}")


def row_classifier(cell: Cell, rows: int, columns: int, size: int, classes: int, unroll: int = 7) -> Model:
    """Reads an image row by row: [batch, rows * columns] -> logits [batch, classes]."""

    def start(config: Config) -> Params:
        return _recurrence(cell, columns, size, classes, config)

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        outputs = _run(cell, params, x.reshape(x.shape[0], rows, columns), size, unroll)
        return linear(params["head"], outputs[-1])

    return Model(drawn(start), apply, f"{cell.name} over {rows} rows, width {size}")


def text_classifier(cell: Cell, size: int, classes: int, vocabulary: int = 128, unroll: int = 8) -> Model:
    """Reads bytes [batch, length] -> logits [batch, classes], after the last one."""

    def start(config: Config) -> Params:
        return {
            "embed": Normal((vocabulary, size), 0.3 * config["embed"]),
            **_recurrence(cell, size, size, classes, config),
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        outputs = _run(cell, params, lookup(params["embed"], x.astype(jnp.int32)), size, unroll)
        return linear(params["head"], outputs[-1])

    return Model(drawn(start), apply, f"{cell.name} over bytes, width {size}")


def _recurrence(cell: Cell, inputs: int, size: int, outputs: int, config: Config) -> Params:
    layer = dense(inputs, cell.gates * size, config["scale"])
    layer["bias"] = layer["bias"].at[:size].set(cell.forget)
    return {
        "input": layer,
        "state": {"kernel": kernel(size, cell.gates * size, gain=config["scale"])},
        "head": dense(size, outputs, config["head"]),
    }


def _run(cell: Cell, params: Params, x: jax.Array, size: int, unroll: int) -> jax.Array:
    inputs = linear(params["input"], x).swapaxes(0, 1)
    weights = params["state"]["kernel"]

    def step(state: Any, now: jax.Array) -> tuple[Any, jax.Array]:
        state = cell.step(state, now, weights)
        return state, state[0]

    zero = jnp.zeros((x.shape[0], size), x.dtype)
    return lax.scan(step, (zero,) * cell.states, inputs, unroll=unroll)[1]
