"""A leaf as the optimizer sees it: logical tensors along axis 0, and the state of each of them.

Everything that is one number for each logical tensor is computed for all tensors at once, as arrays
[tensors]; only arrays of the leaf's own shape are handled leaf by leaf. That keeps programs small and kernels
few.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.config import FLTConfig
from learned_opt.geometry.layout import MATRICES, Kind, Shape, fans
from learned_opt.optimizer.controller import SIGNALS, feature_names
from learned_opt.optimizer.memory import Slots


class TensorState(NamedTuple):
    """State of each logical tensor. Never empty: a tree without leaves has one unused row."""

    exponent: jax.Array  # int32 [tensors]: the memory is kept in units of 2**exponent
    root_rms: jax.Array  # float [tensors]: rms of the root of the squares, in the gradient's unit
    mean_log_root: jax.Array  # float [tensors]: mean of log(root_rms) so far, in the memory's unit
    mean_log_size: jax.Array  # float [tensors]: running mean of log(gradient's rms), in the memory's unit
    log_size_variance: jax.Array  # float [tensors]: running variance of the same
    power: jax.Array  # float [tensors]: running mean square of the elementwise direction
    signals: tuple[jax.Array, jax.Array]  # float [tensors, signals, modes], real and imaginary
    growth: jax.Array  # float [tensors]: of the log step where steps were too short
    log_step: jax.Array  # float [tensors]: the last decision, kept for diagnostics
    blend: jax.Array  # float [tensors]
    shrink: jax.Array  # float [tensors]
    noise: jax.Array  # float [tensors]: signal to noise
    history: jax.Array | tuple[()]  # float [tensors, history, features]: past tokens, () without attention

    @classmethod
    def zeros(cls, tensors: int, config: FLTConfig, dtype: jnp.dtype) -> "TensorState":
        """The state before the first step. No two fields share a buffer, so that the state may be donated."""
        rows = max(tensors, 1)

        def zeros(*shape: int) -> jax.Array:
            return jnp.zeros((rows, *shape), dtype)

        signal = len(SIGNALS), len(config.signal_decays)
        return cls(
            exponent=jnp.zeros((rows,), jnp.int32),
            root_rms=zeros(),
            mean_log_root=zeros(),
            mean_log_size=zeros(),
            log_size_variance=zeros(),
            power=zeros(),
            signals=(zeros(*signal), zeros(*signal)),
            growth=zeros(),
            log_step=zeros(),
            blend=zeros(),
            shrink=zeros(),
            noise=zeros(),
            history=zeros(config.history, len(feature_names(config))) if config.attention_heads else (),
        )


class Leaf(NamedTuple):
    """A leaf's arrays before the write, in float32 or float64, all as `Geometry.view` shows them.

    Shapes are [count, rows, columns], or [count, size] of vectors and scalars: axis 0 counts logical tensors.
    """

    gradient: jax.Array
    param: jax.Array
    slots: Slots
    direction: jax.Array | None  # the direction of the step before
    kind: Kind
    factor: jax.Array | None = None  # the last polar factor, where that is not computed at every step
    operands: jnp.dtype | None = None  # what a GPU rounds to where it multiplies matrices; None: nothing
    shape: Shape | None = None  # of the user's array, if that holds one tensor, its entries in this order
    members: int = 1  # of an ensemble, whose tensors these are

    @property
    def tensors(self) -> int:
        """Number of logical tensors."""
        return self.param.shape[0]

    @property
    def fans(self) -> tuple[int, int]:
        """(fan-in, fan-out) of each logical tensor."""
        return fans(self.kind, self.param.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it may be orthogonalised."""
        return self.kind in MATRICES

    def mean(self, x: jax.Array) -> jax.Array:
        """Mean over each logical tensor, [tensors of the leaf]; zero where it has no elements."""
        return jnp.mean(x, axis=within(x)) if x.size else jnp.zeros((self.tensors,), x.dtype)

    def row(self, x: jax.Array) -> jax.Array:
        """One value a logical tensor, [tensors of the leaf, ...], made broadcastable; extra axes last."""
        ones = (1,) * (self.param.ndim - 1)
        return x.astype(self.gradient.dtype).reshape(self.tensors, *ones, *x.shape[1:])

    def bare(self, x: jax.Array) -> jax.Array:
        """As in the user's array, if that is known; one value a tensor becomes one that broadcasts.

        A compiler writes a result in place of an array only if nothing between them changes the shape.
        """
        if self.shape is None:
            return x
        return x.reshape(self.shape if x.size > 1 else (1,) * len(self.shape))

    def whole(self, x: jax.Array) -> jax.Array:
        """The inverse of `bare` for an array of the leaf's size."""
        return x.reshape(self.param.shape)


def join(columns: Iterable[jax.Array]) -> jax.Array:
    """One array [tensors] from one array for each leaf."""
    return jnp.concatenate([column.reshape(-1) for column in columns])


def spread(values: jax.Array, leaves: Sequence[Leaf]) -> list[jax.Array]:
    """Cuts [tensors, ...] into one array [tensors of the leaf, ...] for each leaf."""
    pieces, start = [], 0
    for leaf in leaves:
        stop = start + leaf.tensors
        pieces.append(values[start:stop])
        start = stop
    return pieces


def per_tensor(leaves: list[Leaf], value: Callable[[Leaf], float]) -> np.ndarray:
    """[tensors]: a number that the kind and the shape of each leaf decide, float32."""
    return np.concatenate([np.full(leaf.tensors, value(leaf), np.float32) for leaf in leaves])


def within(x: jax.Array) -> tuple[int, ...]:
    """The axes of each logical tensor."""
    return tuple(range(1, x.ndim))
