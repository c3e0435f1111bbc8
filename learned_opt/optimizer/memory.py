"""Temporal memory: attention over a parameter's gradient history, in constant memory.

A causal mask that is a sum of damped exponentials needs no history. Mode m keeps one running state,

    S_m <- rho_m S_m + (1 - |rho_m|) v_t,       rho_m = exp(-lambda_m + 2 pi i xi_m),

and the read-out `sum_m Re(conj(w_m) S_m) / Z_m` is attention with the mask

    M(delta) = sum_m (1 - |rho_m|) |w_m| exp(-lambda_m delta) cos(2 pi xi_m delta - arg w_m) / Z_m:

the inverse Fourier transform of a rational spectral density, learned through its poles (after Choromanski,
Li, Likhosherstov et al., "Learning a Fourier Transform for Linear Relative Positional Encodings in
Transformers", arXiv 2302.01925).
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import haiku as hk
import jax
import jax.numpy as jnp

from learned_opt.config import FLTConfig, Mode
from learned_opt.flt.lorentzian import lorentzian_mask

Slots = tuple[jax.Array, ...]


class Reads(NamedTuple):
    """What one parameter array remembers: arrays of its shape, in the units in which the memory is kept."""

    gradient: tuple[jax.Array, ...]  # one array for each real or alternating mode on g, two for a complex one
    raw_square: jax.Array | None  # the mode on g2 before its correction, None without one
    correction: jax.Array | float = 1.0  # of `raw_square`: multiplied in late, it costs no array of its own

    @property
    def square(self) -> jax.Array | None:
        """The mode on g2, None without one."""
        return None if self.raw_square is None else self.raw_square * self.correction


class Memory(Protocol):
    """The interface of a temporal memory. Its state is a tuple of arrays shaped like the parameter."""

    def slots(self) -> int:
        """Number of arrays of state."""

    def at(self, count: jax.Array, dtype: jnp.dtype) -> Any:
        """What a step needs that all leaves share; `count` is the number of gradients before it."""

    def write(self, slots: Slots, gradient: jax.Array, now: Any) -> Slots:
        """The state after one more gradient."""

    def read(self, slots: Slots, gradient: jax.Array, now: Any) -> Reads:
        """The reads after that write."""


def read_count(modes: tuple[Mode, ...]) -> int:
    """Number of gradient reads that these modes give."""
    return sum(1 + (mode.kind == "complex") for mode in modes if mode.value == "g")


def slot_powers(config: FLTConfig) -> tuple[int, ...]:
    """For each slot the power of the gradient's unit in which it is kept: 1 for g, 2 for its square."""
    if config.memory == "window":
        return (1,) * config.window
    return tuple(
        2 if mode.value == "g2" else 1 for mode in config.modes for _ in range(1 + (mode.kind == "complex"))
    )


class Beat(NamedTuple):
    """One mode at one step, scalars."""

    real: jax.Array  # multiplier rho
    imag: jax.Array
    gain: jax.Array  # 1 - |rho|
    correction: jax.Array  # 1 / Z after this step's gradient
    ahead: jax.Array  # 1 / Z one step later


class ModalMemory(hk.Module):
    """One running state for each mode, forgetting at its own learned rate and frequency."""

    def __init__(self, modes: tuple[Mode, ...], name: str = "memory"):
        super().__init__(name=name)
        self.modes = modes
        self.rates = jnp.exp(hk.get_parameter("log_rate", (len(modes),), init=_log_rates(modes)))
        start = [mode.frequency for mode in modes if mode.kind == "complex"]
        self.frequencies: list[jax.Array] = []
        if start:
            init = hk.initializers.Constant(jnp.asarray(start))
            self.frequencies = list(hk.get_parameter("frequency", (len(start),), init=init))

    def slots(self) -> int:
        """One array for each real mode, two for each complex one."""
        return sum(1 + (mode.kind == "complex") for mode in self.modes)

    def at(self, count: jax.Array, dtype: jnp.dtype) -> tuple["Beat", ...]:
        """The multipliers and corrections of every mode."""
        time, frequencies = count.astype(dtype) + 1, iter(self.frequencies)
        beats = []
        for mode, rate in zip(self.modes, self.rates.astype(dtype), strict=True):
            modulus, gain = jnp.exp(-rate), -jnp.expm1(-rate)
            real, imag = -modulus if mode.kind == "alternating" else modulus, jnp.zeros_like(modulus)
            if mode.kind == "complex":
                angle = 2 * jnp.pi * next(frequencies).astype(dtype)
                real, imag = modulus * jnp.cos(angle), modulus * jnp.sin(angle)
            one = jnp.ones_like(modulus)
            correction, ahead = (
                -1 / jnp.expm1(-rate * steps) if mode.corrected else one for steps in (time, time + 1)
            )
            beats.append(Beat(real, imag, gain, correction, ahead))
        return tuple(beats)

    def write(self, slots: Slots, gradient: jax.Array, now: tuple["Beat", ...]) -> Slots:
        """S <- rho S + (1 - |rho|) v for each mode."""
        new: list[jax.Array] = []
        for mode, (real, imag), beat in self._zip(slots, now, gradient.dtype):
            value = beat.gain * gradient
            if mode.value == "g2":
                value = value * gradient
            if imag is None:
                new.append(beat.real * real + value)
            else:
                new.append(beat.real * real - beat.imag * imag + value)
                new.append(beat.imag * real + beat.real * imag)
        return tuple(new)

    def read(self, slots: Slots, gradient: jax.Array, now: tuple["Beat", ...]) -> Reads:
        """The states, bias-corrected where the mode says so, one step ahead where it says so."""
        reads: list[jax.Array] = []
        square: jax.Array | None = None
        correction: jax.Array | float = 1.0
        for mode, (real, imag), beat in self._zip(slots, now, gradient.dtype):
            if mode.value == "g2":
                square, correction = real, beat.correction
                continue
            value = real * beat.correction
            if mode.read_ahead:
                value = beat.real * real * beat.ahead + beat.gain * gradient * beat.correction
            reads.append(value)
            if imag is not None:
                reads.append(imag * beat.correction)
        return Reads(tuple(reads), square, correction)

    def kernels(self, lags: jax.Array) -> list[jax.Array]:
        """The mask over lags (in steps) behind each uncorrected gradient read, in the order of `read`."""
        masks: list[jax.Array] = []
        frequencies = iter(self.frequencies)
        for mode, rate in zip(self.modes, self.rates, strict=True):
            if mode.value == "g2":
                continue
            xi = next(frequencies) if mode.kind == "complex" else 0.5 * (mode.kind == "alternating")
            gain = -jnp.expm1(-rate)
            masks.append(gain * lorentzian_mask(lags, 1.0, rate, xi, 0.0))
            if mode.kind == "complex":
                masks.append(gain * lorentzian_mask(lags, 1.0, rate, xi, -jnp.pi / 2))
        return masks

    def _zip(
        self, slots: Slots, now: tuple["Beat", ...], dtype: jnp.dtype
    ) -> Iterator[tuple[Mode, tuple[jax.Array, jax.Array | None], "Beat"]]:
        remaining = iter(slots)
        for mode, beat in zip(self.modes, now, strict=True):
            state = next(remaining), next(remaining) if mode.kind == "complex" else None
            yield mode, state, Beat(*(x.astype(dtype) for x in beat))


class WindowMemory(hk.Module):
    """The last H gradients, read by softmax attention with an additive relative positional encoding.

    Each read is `sum_s a_s v_s` with `a = softmax_s(q k_s / sqrt(d) + f(t - s))`, d = 1, over the gradients
    that are there. f is a mixture of Lorentzians (arXiv 2302.01925 with a rational spectrum) plus a linear
    slope, which makes every bias-corrected exponential average a special case. Query and key are the size of
    the gradient relative to the window's root mean square, times a learned coefficient that starts at zero.
    """

    def __init__(self, config: FLTConfig, name: str = "memory"):
        super().__init__(name=name)
        self.modes, self.window = config.modes, config.window
        n = len(self.modes)
        self.slope = jnp.exp(hk.get_parameter("log_rate", (n,), init=_log_rates(self.modes)))
        self.amplitude = hk.get_parameter("amplitude", (n,), init=jnp.zeros)
        self.frequency = hk.get_parameter("frequency", (n,), init=hk.initializers.Constant(0.1))
        self.content = hk.get_parameter("content", (n,), init=jnp.zeros)

    def slots(self) -> int:
        """One array for each remembered gradient."""
        return self.window

    def at(self, count: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The count: all else depends on the gradients."""
        del dtype
        return count

    def write(self, slots: Slots, gradient: jax.Array, now: jax.Array) -> Slots:
        """Overwrites the oldest gradient."""
        oldest = now % self.window
        return tuple(jnp.where(oldest == i, gradient, slot) for i, slot in enumerate(slots))

    def read(self, slots: Slots, gradient: jax.Array, now: jax.Array) -> Reads:
        """One softmax average for each mode, of the gradients or of their squares."""
        dtype = gradient.dtype
        ages = [(now - i) % self.window for i in range(self.window)]
        present = [age <= now for age in ages]
        power = sum(jnp.where(there, slot * slot, 0) for there, slot in zip(present, slots, strict=True))
        number = jnp.minimum(now + 1, self.window).astype(dtype)
        scale = jax.lax.rsqrt(power / number + jnp.finfo(dtype).tiny)
        reads, square = [], None
        for index, mode in enumerate(self.modes):
            query = self.content[index].astype(dtype) * jnp.abs(gradient) * scale
            encodings = [self.encoding(index, age.astype(dtype)) for age in ages]
            logits = [
                jnp.where(there, query * jnp.abs(slot) * scale + encoding, -jnp.inf)
                for there, encoding, slot in zip(present, encodings, slots, strict=True)
            ]
            weights = jax.nn.softmax(jnp.stack(logits), axis=0)
            values = jnp.stack(slots)
            average = jnp.sum(weights * (values if mode.value == "g" else values**2), axis=0)
            if mode.value == "g2":
                square = average
            else:
                reads.append(average)
        return Reads(tuple(reads), square)

    def encoding(self, index: int, age: jax.Array) -> jax.Array:
        """The additive encoding f(age) of one mode, age in steps."""
        learned = (self.slope, self.amplitude, self.frequency)
        slope, amplitude, xi = (x[index].astype(age.dtype) for x in learned)
        return -slope * age + lorentzian_mask(age, amplitude, slope, xi, 0.0)


def build_memory(config: FLTConfig) -> ModalMemory | WindowMemory:
    """The memory that a config asks for."""
    return WindowMemory(config) if config.memory == "window" else ModalMemory(config.modes)


def _log_rates(modes: tuple[Mode, ...]) -> hk.initializers.Initializer:
    return hk.initializers.Constant(jnp.asarray([math.log(-math.log(mode.decay)) for mode in modes]))
