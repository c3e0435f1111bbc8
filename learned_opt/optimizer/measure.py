"""One gradient enters the memory of each leaf, and what the controller needs of that is measured."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.config import FLTConfig
from learned_opt.optimizer.controller import Measures
from learned_opt.optimizer.leaf import Leaf, TensorState, join
from learned_opt.optimizer.memory import Memory, Reads, Slots, slot_powers
from learned_opt.optimizer.units import Units

RELATIVE_EPSILON = 1e-4  # added to the root of the squares, in units of its rms over the tensor
TINY = 1e-15  # in units of the memory: what zero is replaced by under a division
RECENT = 0.05  # weight of the newest gradient in the running moments of the log sizes


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
    finite: jax.Array,
) -> Written:
    """Moves the memory to the new unit and lets one gradient in; changes nothing unless `finite`.

    That is decided here, where the memory is written: later the old one would have to be kept as well.
    `down`, `shift` and `epsilon` hold one value for each logical tensor, `now` is `memory.at` this step.
    """
    shift = leaf.bare(leaf.row(shift))
    before = [leaf.bare(slot) for slot in leaf.slots]
    moved = tuple(
        slot * shift if power == 1 else slot * shift * shift
        for slot, power in zip(before, slot_powers(config), strict=True)
    )
    gradient = leaf.gradient * leaf.row(down)
    new = memory.write(moved, leaf.bare(gradient), now)
    slots = tuple(leaf.whole(jnp.where(finite, *pair)) for pair in zip(new, before, strict=True))
    reads = memory.read(slots, gradient, now)
    root = None if reads.square is None else jnp.sqrt(reads.square) + leaf.row(epsilon)
    return Written(slots, gradient, reads, root)


def measure(
    leaves: Sequence[Leaf],
    written: Sequence[Written],
    parameter_rms: jax.Array,
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
        parameter_rms=parameter_rms,
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
    mean, square = leaf.mean, new.reads.raw_square
    if square is None or new.root is None:
        raise TypeError("a law needs a mode on g2: FLTConfig refuses configs without one")
    inverse = 1 / new.root
    reads = [read * inverse for read in new.reads.gradient]
    fast, slow = reads[0], reads[min(1, len(reads) - 1)]
    whitened = jnp.clip(new.gradient * inverse, -5.0, 5.0)
    direction = jnp.zeros_like(fast) if leaf.direction is None else leaf.direction.astype(fast.dtype)
    rows = new.reads.correction * jnp.sum(square, axis=-1) / max(1, square.shape[-1])
    return {
        "square": mean(rows),
        "row_root": mean(jnp.sqrt(rows)),
        "fast": mean(fast * fast),
        "slow": mean(slow * slow),
        "whitened": mean(whitened * whitened),
        "whitened_fast": mean(whitened * fast),
        "gradient": mean(new.gradient * new.gradient),
        "direction": mean(direction * direction),
        "gradient_direction": mean(new.gradient * direction),
    }
