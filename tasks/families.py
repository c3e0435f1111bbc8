"""Constructors: a family of tasks from a data source, a network and a few settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import random

from tasks import batches, losses
from tasks.base import Batch, Card, Config, Key, Params, Part, Split, TaskFamily
from tasks.config import Vary, sampler
from tasks.models import Model

Objective = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Source:
    """Data with its provenance; `classes` is 0 unless rows have labels."""

    load: Callable[[], Split]
    origin: str
    licence: str
    classes: int = 0


def classifier(
    name: str,
    source: Source,
    model: Model,
    *,
    batch: int,
    steps: int,
    vary: Vary,
    axis: str = "",
    objective: Objective = losses.cross_entropy,
) -> TaskFamily:
    """Labels from rows; the logits are multiplied by `output`."""
    draw = batches.labelled(batch, source.classes, vary)
    return _family(
        "classification", name, source, model, draw, _on_logits(objective), batch, steps, vary, axis
    )


def taught(
    name: str,
    source: Source,
    model: Model,
    classes: int,
    *,
    batch: int,
    steps: int,
    vary: Vary,
    axis: str = "",
) -> TaskFamily:
    """Labels that a random network of the member's own gives to finitely many rows."""
    draw, objective = batches.taught(batch, classes, vary), _on_logits(losses.cross_entropy)
    return _family("classification", name, source, model, draw, objective, batch, steps, vary, axis)


def language_model(
    name: str,
    source: Source,
    model: Model,
    *,
    batch: int,
    length: int,
    steps: int,
    vary: Vary,
    axis: str = "",
) -> TaskFamily:
    """The next byte of a text; the logits are multiplied by `output`."""
    draw, objective = batches.windows(batch, length), _on_logits(losses.cross_entropy)
    return _family("language model", name, source, model, draw, objective, batch, steps, vary, axis)


def regressor(
    name: str,
    source: Source,
    model: Model,
    *,
    batch: int,
    steps: int,
    vary: Vary,
    axis: str = "",
    objective: Objective = losses.squared_error,
) -> TaskFamily:
    """Real targets from rows; the targets are multiplied by `output`."""
    draw = batches.regressed(batch, vary)
    return _family("regression", name, source, model, draw, _on_outputs(objective), batch, steps, vary, axis)


def function_fit(
    name: str,
    source: Source,
    model: Model,
    target: batches.Target,
    *,
    batch: int,
    steps: int,
    vary: Vary,
    axis: str = "",
) -> TaskFamily:
    """A function that the member draws; its values are multiplied by `output`."""
    draw = batches.computed(batch, target, vary)
    objective = _on_outputs(losses.squared_error)
    return _family("regression", name, source, model, draw, objective, batch, steps, vary, axis)


def autoencoder(
    name: str, source: Source, model: Model, *, batch: int, steps: int, vary: Vary, axis: str = ""
) -> TaskFamily:
    """Rows from themselves, or from a noisy copy if `input_noise` is positive."""
    draw, objective = batches.reconstructed(batch, vary), _on_outputs(losses.squared_error)
    return _family("autoencoder", name, source, model, draw, objective, batch, steps, vary, axis)


def variational_autoencoder(
    name: str,
    source: Source,
    model: Model,
    latent: int,
    *,
    batch: int,
    steps: int,
    vary: Vary,
    axis: str = "",
) -> TaskFamily:
    """Rows through a noisy code: squared error and the code's divergence, both a feature."""
    draw = batches.encoded(batch, latent, vary)

    def objective(outputs: tuple[jax.Array, jax.Array], y: jax.Array, config: Config) -> jax.Array:
        reconstruction, divergence = outputs
        return losses.squared_error(reconstruction, y) + 2 * divergence.mean() / y.shape[-1]

    return _family("autoencoder", name, source, model, draw, objective, batch, steps, vary, axis)


def contrastive(
    name: str, source: Source, model: Model, *, batch: int, steps: int, vary: Vary, axis: str = ""
) -> TaskFamily:
    """Codes that tell which two noisy views are of one row."""
    draw, objective = batches.views(batch, vary), _on_outputs(lambda codes, y: losses.contrastive(*codes))
    return _family("contrastive", name, source, model, draw, objective, batch, steps, vary, axis)


def diffusion(
    name: str, source: Source, model: Model, *, batch: int, steps: int, vary: Vary, axis: str = ""
) -> TaskFamily:
    """Rows and noise told apart, in mixtures of every proportion (Ho et al. 2020)."""
    draw, objective = batches.noised(batch), _on_outputs(losses.squared_error)
    return _family("diffusion", name, source, model, draw, objective, batch, steps, vary, axis)


def controller(
    name: str,
    source: Source,
    model: Model,
    *,
    batch: int,
    length: int,
    steps: int,
    vary: Vary,
    axis: str = "",
) -> TaskFamily:
    """The mean cost of a policy, from episodes of `length` steps; the logits are multiplied by `output`."""
    draw = batches.episodes(batch, length)
    model = model._replace(text=f"{model.text} for {length} steps")

    def objective(outputs: tuple[jax.Array, jax.Array], y: jax.Array, config: Config) -> jax.Array:
        return losses.policy_cost(*outputs)

    return _family("control", name, source, model, draw, objective, batch, steps, vary, axis)


def band_limited(x: jax.Array, part: Part, config: Config) -> tuple[jax.Array, jax.Array]:
    """Twelve plane waves; `condition` raises their frequencies. x [batch, 2] -> x, values [batch, 1]."""
    turn, phase, size = random.split(config["key"], 3)
    waves = random.normal(turn, (x.shape[-1], 12), jnp.float32) * (1.0 + config["condition"])
    shift = random.uniform(phase, (12,), jnp.float32, 0.0, 2.0 * jnp.pi)
    values = jnp.sin(x @ waves + shift) @ random.normal(size, (12, 1), jnp.float32)
    return x, values * 6.0**-0.5


def band_limited_slopes(x: jax.Array, part: Part, config: Config) -> tuple[jax.Array, jax.Array]:
    """`band_limited` beside its two derivatives, a fifth of them. x [batch, 2] -> x, [batch, 3]."""

    def value(row: jax.Array) -> jax.Array:
        return band_limited(row[None], part, config)[1][0, 0]

    values, slopes = jax.vmap(jax.value_and_grad(value))(x)
    return x, jnp.concatenate([values[:, None], 0.2 * slopes], axis=-1)


def checkerboard(x: jax.Array, part: Part, config: Config) -> tuple[jax.Array, jax.Array]:
    """+1 and -1 on a tilted checkerboard, at a random place. x [batch, 2] -> x, values [batch, 1]."""
    shift = random.uniform(config["key"], (2,), jnp.float32)
    cells = jnp.floor(x @ jnp.array([[1.8, -0.9], [0.9, 1.8]], jnp.float32) + shift).sum(-1, keepdims=True)
    return x, 1.0 - 2.0 * jnp.mod(cells, 2.0)


def linear_map(x: jax.Array, part: Part, config: Config) -> tuple[jax.Array, jax.Array]:
    """A random linear map to 4 targets, of rotated inputs whose scales spread over `condition` decades."""
    # Scales of at most 1, so that a step that is stable for the largest direction exists at the usual size.
    scales = batches.feature_scales(config, x.shape[-1]) * 10.0 ** (-0.5 * config["condition"])
    x = (x * scales) @ part["rotation"]
    weights = random.normal(random.fold_in(config["key"], 2), (x.shape[-1], 4), jnp.float32)
    return x, x @ weights * x.shape[-1] ** -0.5 + 0.5


def suite(*families: TaskFamily) -> dict[str, TaskFamily]:
    """The families by name."""
    return {family.name: family for family in families}


def with_targets(table: dict[str, TaskFamily], targets: dict[str, float]) -> dict[str, TaskFamily]:
    """The same families with a validation loss to reach on their cards; those not named keep none."""
    return {
        name: replace(family, card=replace(family.card, target=targets.get(name)))
        for name, family in table.items()
    }


def fine_tuned(family: TaskFamily) -> TaskFamily:
    """The same family, but the parameters that its data has under `start` begin there."""

    def init(key: Key, config: Config) -> Params:
        return {**family.init(key, config), **jax.tree.map(jnp.asarray, family.data().train["start"])}

    card = replace(family.card, architecture=f"{family.card.architecture}, pretrained")
    return replace(family, init=init, card=card)


def for_gpu(family: TaskFamily) -> TaskFamily:
    """The same family, marked as too large for a CPU."""
    return replace(family, card=replace(family.card, gpu=True))


def _on_logits(objective: Objective) -> Callable[[jax.Array, jax.Array, Config], jax.Array]:
    return lambda logits, y, config: objective(config["output"] * logits, y)


def _on_outputs(objective: Objective) -> Callable[[jax.Array, jax.Array, Config], jax.Array]:
    return lambda outputs, y, config: objective(outputs, y)


def _family(
    kind: str,
    name: str,
    source: Source,
    model: Model,
    draw: batches.Draw,
    objective: Callable[[Any, jax.Array, Config], jax.Array],
    batch: int,
    steps: int,
    vary: Vary,
    axis: str,
) -> TaskFamily:
    sample = sampler(vary)

    def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
        return objective(model.apply(params, batch["x"], config), batch["y"], config)

    def shapes() -> Params:
        return jax.eval_shape(lambda: model.init(random.key(0), sample(random.key(0))))

    recipe = ", ".join(f"{setting}: {tuple(span)}" for setting, span in sorted(vary.items()))
    card = Card(kind, model.text, source.origin, source.licence, batch, steps, axis, shapes, recipe)
    return TaskFamily(name, source.load, sample, model.init, draw, loss, card)
