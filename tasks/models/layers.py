"""Pieces that the networks share: how a kernel starts, activations, norms, embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random

from tasks.base import Config, Key, Params


class Model(NamedTuple):
    """A network: `init(key, config)` gives float32 parameters, `apply(params, x, config)` the outputs."""

    init: Callable[[Key, Config], Params]
    apply: Callable[[Params, Any, Config], Any]
    text: str


@dataclass(frozen=True)
class Normal:
    """A parameter yet to be drawn: independent normals of mean 0."""

    shape: tuple[int, ...]
    std: jax.Array | float

    @property
    def size(self) -> int:
        """The number of scalars."""
        return math.prod(self.shape)


def drawn(start: Callable[[Config], Params]) -> Callable[[Key, Config], Params]:
    """The `init` of a network: `start(config)` is the parameter tree, with some leaves `Normal`.

    All are cut from one draw, because each call of a random generator is slow to compile.
    """

    def init(key: Key, config: Config) -> Params:
        leaves, structure = jax.tree.flatten(start(config))
        total = sum(leaf.size for leaf in leaves if isinstance(leaf, Normal))
        draws, done, arrays = random.normal(key, (total,), jnp.float32), 0, []
        for leaf in leaves:
            if isinstance(leaf, Normal):
                arrays.append(leaf.std * draws[done : done + leaf.size].reshape(leaf.shape))
                done += leaf.size
            else:
                arrays.append(leaf)
        return jax.tree.unflatten(structure, arrays)

    return init


def kernel(*shape: int, gain: jax.Array | float = 1.0) -> Normal:
    """A kernel [..., in, out], of standard deviation gain / sqrt(fan-in) (LeCun et al. 1998)."""
    return Normal(shape, gain * math.prod(shape[:-1]) ** -0.5)


def dense(fan_in: int, fan_out: int, gain: jax.Array | float = 1.0) -> Params:
    """A fully connected layer with a zero bias."""
    return {"kernel": kernel(fan_in, fan_out, gain=gain), "bias": jnp.zeros(fan_out, jnp.float32)}


def linear(layer: Params, x: jax.Array) -> jax.Array:
    """X [..., in] -> [..., out]."""
    return x @ layer["kernel"] + layer["bias"]


def hidden_gain(config: Config) -> jax.Array:
    """`config["scale"]` times the gain that keeps the signal's size: sqrt 2, for tanh 1 (He et al. 2015)."""
    a = config["activation"]
    return config["scale"] * jnp.where((a >= 1 / 3) & (a < 2 / 3), 1.0, 2.0**0.5)


def activate(x: jax.Array, config: Config) -> jax.Array:
    """relu, tanh or gelu (tanh form; Hendrycks and Gimpel 2016), chosen by `config["activation"]`."""
    a = config["activation"]
    is_tanh = (a >= 1 / 3) & (a < 2 / 3)
    # One tanh serves both tanh and gelu: under vmap every branch is computed.
    t = jnp.tanh(jnp.where(is_tanh, x, 0.7978845608 * (x + 0.044715 * x * x * x)))
    return jnp.where(a < 1 / 3, jax.nn.relu(x), jnp.where(is_tanh, t, 0.5 * x * (1.0 + t)))


def norm(size: int, bias: bool = True) -> Params:
    """The gain and, perhaps, the shift of a normalisation."""
    gain = {"scale": jnp.ones(size, jnp.float32)}
    return {**gain, "bias": jnp.zeros(size, jnp.float32)} if bias else gain


def normalise(layer: Params, x: jax.Array, axes: tuple[int, ...] = (-1,)) -> jax.Array:
    """Zero mean and unit variance over `axes`, then the learned gain and shift of the last axis."""
    x = x - x.mean(axes, keepdims=True)
    x = x * lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + 1e-5)
    return x * layer["scale"] + layer.get("bias", 0.0)


def rms_normalise(layer: Params, x: jax.Array) -> jax.Array:
    """Unit mean square over the last axis (Zhang and Sennrich 2019), then the learned gain."""
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * layer["scale"]


def group_normalise(layer: Params, x: jax.Array, groups: int) -> jax.Array:
    """Group normalisation (Wu and He 2018) of x [batch, *space, channels]."""
    batch, *space, channels = x.shape
    grouped = x.reshape(batch, -1, groups, channels // groups)
    unit = {"scale": jnp.float32(1.0)}
    flat = normalise(unit, grouped, (1, 3)).reshape(batch, *space, channels)
    return flat * layer["scale"] + layer["bias"]


def lookup(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of `table` [rows, size] at integer `index` [...] -> [..., size]; other rows' gradients are 0."""
    # As a product: its derivative needs no scatter, which is slow and unordered on a GPU.
    return jax.nn.one_hot(index, table.shape[0], dtype=table.dtype) @ table
