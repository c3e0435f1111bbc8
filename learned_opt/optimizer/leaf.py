"""One leaf at one step: its gradient enters the memory, and what the controller needs of it is measured.

Everything that is one number for each logical tensor is computed for all tensors at once, as arrays
[tensors]; only arrays of the leaf's own shape are handled leaf by leaf. That keeps programs small and kernels
few.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.config import FLTConfig
from learned_opt.geometry.layout import MATRICES, Kind, fans
from learned_opt.optimizer.controller import SIGNALS, Measures, feature_names
from learned_opt.optimizer.memory import Memory, Reads, Slots, slot_powers

RELATIVE_EPSILON = 1e-4  # added to the root of the squares, in units of its rms over the tensor
TINY = 1e-15  # in units of the memory: what zero is replaced by under a division
MAX_EXPONENT = 120
RECENT = 0.05  # weight of the newest gradient in the running moments of the log sizes


class TensorState(NamedTuple):
    """State of each logical tensor. Never empty: a tree without leaves has one unused row."""

    exponent: jax.Array  # int32 [tensors]: the memory is kept in units of 2**exponent
    root_rms: jax.Array  # float [tensors]: rms of the root of the squares, in the gradient's unit
    mean_log_root: jax.Array  # float [tensors]: mean of log(root_rms) so far, in the memory's unit
    mean_log_size: jax.Array  # float [tensors]: running mean of log(gradient's rms), in the memory's unit
    log_size_variance: jax.Array  # float [tensors]: running variance of the same
    power: jax.Array  # float [tensors]: running mean square of the elementwise direction
    signals: tuple[jax.Array, jax.Array]  # float [tensors, signals, modes], real and imaginary
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
    operands: jnp.dtype | None = None  # what a GPU rounds to where it multiplies matrices; None: nothing

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
        return jnp.mean(x, axis=_within(x)) if x.size else jnp.zeros((self.tensors,), x.dtype)

    def row(self, x: jax.Array) -> jax.Array:
        """One value a logical tensor, [tensors of the leaf, ...], made broadcastable; extra axes last."""
        ones = (1,) * (self.param.ndim - 1)
        return x.astype(self.gradient.dtype).reshape(self.tensors, *ones, *x.shape[1:])


class Units(NamedTuple):
    """The unit in which each tensor's memory is kept, arrays [tensors]."""

    exponent: jax.Array  # int32
    down: jax.Array  # gradients times this are in the memory's unit
    shift: jax.Array  # old memory times this is in the new unit
    reference: jax.Array  # size of the gradients, in the memory's unit

    @classmethod
    def choose(cls, leaves: Sequence[Leaf], tensors: TensorState) -> tuple["Units", jax.Array]:
        """Units for this step, and whether all gradients are finite (bool scalar).

        The unit is a power of two that follows the larger of the gradient and what is remembered, so that
        squares of gradients of 1e30 do not overflow and those of 1e-30 do not vanish. Changing it is exact.
        """
        dtype = tensors.root_rms.dtype
        size = [jnp.abs(leaf.gradient) for leaf in leaves]
        largest = join(jnp.max(x, axis=_within(x), initial=0) for x in size).astype(dtype)
        average = join(leaf.mean(x) for x, leaf in zip(size, leaves, strict=True)).astype(dtype)
        exponent = _exponent(jnp.maximum(largest, tensors.root_rms), tensors.exponent)
        down = _power_of_two(-exponent, dtype)
        shift = _power_of_two(tensors.exponent - exponent, dtype)
        reference = jnp.maximum(average, tensors.root_rms) * down
        return cls(exponent, down, shift, reference), jnp.isfinite(largest).all()

    def up(self) -> jax.Array:
        """What a value in the memory's unit is multiplied by to be in the gradient's."""
        return _power_of_two(self.exponent, self.down.dtype)


class Written(NamedTuple):
    """A leaf after the write: arrays of its shape, in the memory's unit."""

    slots: Slots
    gradient: jax.Array
    reads: Reads
    root: jax.Array | None  # square root of the remembered squares plus epsilon; None without squares


def write(
    memory: Memory,
    config: FLTConfig,
    leaf: Leaf,
    down: jax.Array,
    shift: jax.Array,
    epsilon: jax.Array,
    now: Any,
) -> Written:
    """Moves the memory to the new unit and lets one gradient in.

    `down`, `shift` and `epsilon` hold one value for each logical tensor, `now` is `memory.at` this step.
    """
    down, shift = leaf.row(down), leaf.row(shift)
    moved = tuple(
        slot * shift if power == 1 else slot * shift * shift
        for slot, power in zip(leaf.slots, slot_powers(config), strict=True)
    )
    gradient = leaf.gradient * down
    slots = memory.write(moved, gradient, now)
    reads = memory.read(slots, gradient, now)
    root = None if reads.square is None else jnp.sqrt(reads.square) + leaf.row(epsilon)
    return Written(slots, gradient, reads, root)


def measure(
    leaves: Sequence[Leaf],
    written: Sequence[Written],
    units: Units,
    tensors: TensorState,
    count: jax.Array,
) -> tuple[Measures, TensorState]:
    """Statistics of every tensor, [tensors], and the state with their sizes brought up to date."""
    moments = [_moments(leaf, new) for leaf, new in zip(leaves, written, strict=True)]
    names = moments[0].keys()
    m = {name: join(moment[name] for moment in moments) for name in names}
    rms = {name: jnp.sqrt(value) for name, value in m.items()}

    def ratio(product: jax.Array, *norms: jax.Array) -> jax.Array:
        return product / (math.prod(norms) + TINY)

    log_root, mean_log_root = _log_root(rms["square"], units, tensors, count)
    mean_log_size, log_size_variance = _log_size(rms["gradient"], units, tensors, count)
    measures = Measures(
        parameter_rms=rms["parameter"],
        noise_fast=rms["fast"],
        noise_slow=rms["slow"],
        sparsity=ratio(m["row_root"], rms["square"]),
        hypergradient=ratio(m["gradient_direction"], rms["gradient"], rms["direction"]),
        alignment=ratio(m["whitened_fast"], rms["whitened"], rms["fast"]),
        decline=log_root - mean_log_root,
        spread=jnp.sqrt(log_size_variance),
    )
    return measures, tensors._replace(
        exponent=units.exponent,
        root_rms=rms["square"] * units.up(),
        mean_log_root=mean_log_root,
        mean_log_size=mean_log_size,
        log_size_variance=log_size_variance,
        noise=measures.noise_fast,
    )


def _log_root(
    root_rms: jax.Array, units: Units, tensors: TensorState, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log of a root in the memory's unit, and its mean over the steps since it was first above zero."""
    dtype = root_rms.dtype
    moved, seen = _moved(tensors.mean_log_root, units, tensors), tensors.root_rms > 0
    log_root = jnp.where(root_rms > 0, jnp.log(root_rms), jnp.where(seen, moved, 0.0))
    before = jnp.where(seen, moved, log_root)
    return log_root, before + (log_root - before) / jnp.where(seen, count + 1, 1).astype(dtype)


def _log_size(
    rms: jax.Array, units: Units, tensors: TensorState, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Running mean and variance of the log of the gradients' rms; a zero gradient leaves the mean alone."""
    mean = _moved(tensors.mean_log_size, units, tensors)
    mean = jnp.where((tensors.root_rms == 0) & (rms > 0), jnp.log(rms), mean)
    surprise = jnp.where(rms > 0, jnp.log(rms), mean) - mean
    weight = jnp.maximum(RECENT, 1 / (count + 1)).astype(rms.dtype)
    return mean + weight * surprise, (1 - weight) * (tensors.log_size_variance + weight * surprise**2)


def _moved(log: jax.Array, units: Units, tensors: TensorState) -> jax.Array:
    """A log in the memory's old unit, in its new one."""
    return log + math.log(2.0) * (tensors.exponent - units.exponent).astype(log.dtype)


def _moments(leaf: Leaf, new: Written) -> dict[str, jax.Array]:
    """Means of products over each logical tensor, [tensors of the leaf]."""
    mean, square = leaf.mean, new.reads.square
    if square is None or new.root is None:
        raise TypeError("a law needs a mode on g2: FLTConfig refuses configs without one")
    inverse = 1 / new.root
    reads = [read * inverse for read in new.reads.gradient]
    fast, slow = reads[0], reads[min(1, len(reads) - 1)]
    whitened = jnp.clip(new.gradient * inverse, -5.0, 5.0)
    direction = jnp.zeros_like(fast) if leaf.direction is None else leaf.direction.astype(fast.dtype)
    row_root = jnp.sqrt(mean(square))
    if square.ndim > 2:
        rows = jnp.mean(square, axis=-1, keepdims=True)
        row_root = mean(jnp.broadcast_to(jnp.sqrt(rows), square.shape))
    return {
        "parameter": mean(leaf.param * leaf.param),
        "square": mean(square),
        "row_root": row_root,
        "fast": mean(fast * fast),
        "slow": mean(slow * slow),
        "whitened": mean(whitened * whitened),
        "whitened_fast": mean(whitened * fast),
        "gradient": mean(new.gradient * new.gradient),
        "direction": mean(direction * direction),
        "gradient_direction": mean(new.gradient * direction),
    }


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


def _within(x: jax.Array) -> tuple[int, ...]:
    """The axes of each logical tensor."""
    return tuple(range(1, x.ndim))


def _exponent(size: jax.Array, previous: jax.Array) -> jax.Array:
    """Exponent of the smallest power of two above `size`; unchanged where size is zero or not finite."""
    integer, mantissa, bias = _layout(size.dtype)
    field = (jax.lax.bitcast_convert_type(size, integer) >> mantissa).astype(jnp.int32)
    found = jnp.clip(field - bias + 1, -MAX_EXPONENT, MAX_EXPONENT)
    return jnp.where((size > 0) & jnp.isfinite(size), found, previous)


def _power_of_two(exponent: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """2**exponent, exact: exponents beyond +-126 are clipped."""
    integer, mantissa, bias = _layout(dtype)
    field = (jnp.clip(exponent, -126, 126) + bias).astype(integer)
    return jax.lax.bitcast_convert_type(field << mantissa, dtype)


def _layout(dtype: jnp.dtype) -> tuple[jnp.dtype, int, int]:
    """(integer of the same size, bits of mantissa, bias of the exponent) of a floating-point dtype."""
    info = jnp.finfo(dtype)
    return jnp.dtype(f"int{info.bits}"), info.nmant, info.maxexp - 1
