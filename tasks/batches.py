"""How a minibatch is drawn: (key, part of the data, config) -> {"x": inputs, "y": targets}."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import random

from tasks.base import Batch, Config, Key, Part
from tasks.config import Vary, ranges

Draw = Callable[[Key, Part, Config], Batch]
Target = Callable[[jax.Array, Part, Config], tuple[jax.Array, jax.Array]]
"""(x [batch, features], part, config) -> inputs, unit-variance targets [batch, targets]."""


def labelled(size: int, classes: int, vary: Vary) -> Draw:
    """Rows and integer labels; a wrong label is the same at each draw of its row, so it can be memorised."""
    wrong_labels = ranges(vary)["label_noise"].positive

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, noise = random.split(key)
        index = _index(pick, size, part)
        y = _rows(part, "y", index).astype(jnp.int32)
        if wrong_labels:
            y = _mislabel(y, index, classes, config["label_noise"] * part["noisy"], config["key"])
        x = _inputs(noise, index, part, config, vary)
        return {"x": (x, part["frozen"]) if "frozen" in part else x, "y": y}

    return draw


def taught(size: int, classes: int, vary: Vary) -> Draw:
    """Rows and the classes that a network of the member's own, the teacher, gives them."""
    wrong_labels = ranges(vary)["label_noise"].positive

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, noise = random.split(key)
        index = _index(pick, size, part)
        y = _teach(_standardised(index, part), classes, config["key"])
        if wrong_labels:
            y = _mislabel(y, index, classes, config["label_noise"] * part["noisy"], config["key"])
        return {"x": _inputs(noise, index, part, config, vary), "y": y}

    return draw


def regressed(size: int, vary: Vary) -> Draw:
    """Rows and real targets [batch, targets]: unit variance, plus noise, times `output`."""

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, noise, label = random.split(key, 3)
        index = _index(pick, size, part)
        y = (_rows(part, "y", index).astype(jnp.float32) - part["y_mean"]) / part["y_std"]
        return {"x": _inputs(noise, index, part, config, vary), "y": _targets(label, y, part, config, vary)}

    return draw


def computed(size: int, target: Target, vary: Vary) -> Draw:
    """Points and the values there of a function that belongs to the member."""

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, label = random.split(key)
        x, y = target(_rows(part, "x", _index(pick, size, part)), part, config)
        return {"x": x, "y": _targets(label, y, part, config, vary)}

    return draw


def reconstructed(size: int, vary: Vary) -> Draw:
    """Rows as targets and, as inputs, the same rows with `input_noise`, in validation too: it is the task."""
    noisy = ranges(vary)["input_noise"].positive

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, noise = random.split(key)
        clean = _standardised(_index(pick, size, part), part)
        x = clean + config["input_noise"] * random.normal(noise, clean.shape, jnp.float32) if noisy else clean
        return {"x": x, "y": config["output"] * clean}

    return draw


def encoded(size: int, latent: int, vary: Vary) -> Draw:
    """Rows beside standard normal noise [batch, latent] as inputs, and the rows times `output` as targets."""

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, noise = random.split(key)
        x = _inputs(pick, _index(pick, size, part), part, config, vary)
        return {"x": (x, random.normal(noise, (size, latent), jnp.float32)), "y": config["output"] * x}

    return draw


def windows(size: int, length: int) -> Draw:
    """Stretches of text [batch, length] and the same one byte later, int32."""

    def draw(key: Key, part: Part, config: Config) -> Batch:
        start = _below(key, (size, 1), part["text"].size - length)
        text = _rows(part, "text", start + jnp.arange(length + 1)).astype(jnp.int32)
        return {"x": text[:, :-1], "y": text[:, 1:]}

    return draw


def _index(key: Key, size: int, part: Part) -> jax.Array:
    return _below(key, (size,), part["x"].shape[0])


def _below(key: Key, shape: tuple[int, ...], limit: int) -> jax.Array:
    # Half the work of `random.randint`; the bias is at most limit / 2^32.
    return (random.bits(key, shape, jnp.uint32) % jnp.uint32(limit)).astype(jnp.int32)


def _rows(part: Part, name: str, index: jax.Array) -> jax.Array:
    return jnp.asarray(part[name])[index]  # a numpy array cannot be indexed by a traced one


def _standardised(index: jax.Array, part: Part) -> jax.Array:
    return (_rows(part, "x", index).astype(jnp.float32) - part["mean"]) / part["std"]


def _inputs(key: Key, index: jax.Array, part: Part, config: Config, vary: Vary) -> jax.Array:
    spans = ranges(vary)
    x = _standardised(index, part)
    if spans["input_noise"].positive:
        x += config["input_noise"] * part["noisy"] * random.normal(key, x.shape, jnp.float32)
    if spans["condition"].positive:
        x *= feature_scales(config, x.shape[-1])
    return x


def feature_scales(config: Config, features: int) -> jax.Array:
    """Scales [features] spread over `condition` decades around 1, the member's own."""
    exponents = random.uniform(random.fold_in(config["key"], 1), (features,), jnp.float32, -0.5, 0.5)
    return 10.0 ** (config["condition"] * exponents)


def _targets(key: Key, y: jax.Array, part: Part, config: Config, vary: Vary) -> jax.Array:
    if ranges(vary)["label_noise"].positive:
        y += config["label_noise"] * part["noisy"] * random.normal(key, y.shape, jnp.float32)
    return config["output"] * y


def _teach(x: jax.Array, classes: int, key: Key) -> jax.Array:
    first, second, bend = random.split(random.fold_in(key, 3), 3)
    units = 32
    gain = jnp.exp(random.uniform(bend, (), jnp.float32, 0.0, 1.5)) * x.shape[-1] ** -0.5
    hidden = jnp.sin(gain * x @ random.normal(first, (x.shape[-1], units), jnp.float32) + jnp.arange(units))
    return jnp.argmax(hidden @ random.normal(second, (units, classes), jnp.float32), axis=-1)


def _mislabel(y: jax.Array, index: jax.Array, classes: int, rate: jax.Array, key: Key) -> jax.Array:
    draws = jax.vmap(lambda i: random.uniform(random.fold_in(key, i), (2,), jnp.float32))(index)
    other = jnp.floor(draws[:, 1] * classes).astype(jnp.int32)
    return jnp.where(draws[:, 0] < rate, other, y)


LEVELS = 8


def noised(size: int) -> Draw:
    """Rows mixed with noise at an angle of their own: cos a · row + sin a · noise, beside waves of a.

    The targets are the mixtures' derivatives by the angle (Salimans and Ho 2022), times `output`; both are
    [batch, features], and inputs have `LEVELS` columns more. In validation too: it is the task.
    """

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, level, noise = random.split(key, 3)
        clean = _standardised(_index(pick, size, part), part)
        other = random.normal(noise, clean.shape, jnp.float32)
        angle = random.uniform(level, (size, 1), jnp.float32, 0.0, 0.5 * jnp.pi)
        waves = angle * 2.0 ** jnp.arange(LEVELS // 2, dtype=jnp.float32)
        mixed = jnp.cos(angle) * clean + jnp.sin(angle) * other
        turned = jnp.cos(angle) * other - jnp.sin(angle) * clean
        x = jnp.concatenate([mixed, jnp.cos(waves), jnp.sin(waves)], axis=-1)
        return {"x": x, "y": config["output"] * turned}

    return draw


def episodes(size: int, length: int) -> Draw:
    """Starts [batch, features], a tenth of the rows, beside uniform numbers [batch, length] to act by.

    As the numbers come with the batch, policies that are compared on it meet the same luck.
    """

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, luck = random.split(key)
        starts = 0.1 * _standardised(_index(pick, size, part), part)
        draws = random.uniform(luck, (size, length), jnp.float32)
        return {"x": (starts, draws), "y": jnp.zeros(size, jnp.float32)}

    return draw


def views(size: int, vary: Vary) -> Draw:
    """Each row twice: in both views other noise, of half the size of the data, and a quarter blanked."""

    def draw(key: Key, part: Part, config: Config) -> Batch:
        pick, noise, blank = random.split(key, 3)
        x = _inputs(pick, _index(pick, size, part), part, config, vary)
        pair = x + 0.5 * random.normal(noise, (2, *x.shape), jnp.float32)
        pair *= random.bernoulli(blank, 0.75, pair.shape)
        return {"x": (pair[0], pair[1]), "y": jnp.zeros(size, jnp.float32)}

    return draw
