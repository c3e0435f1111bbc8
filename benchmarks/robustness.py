"""What an optimizer should not notice, and what it has to bear: two networks under odd conditions.

    python benchmarks/robustness.py --out runs/robustness                  # an hour on two cores
    python benchmarks/robustness.py --out runs/robustness --tasks transformer --only "dropout 0.1"

Every row trains the same two networks under one condition: with the learned optimizer, untuned, and with
AdamW at the best of five learning rates or more, which are tuned anew for every row. Losses are those of
validation data, without dropout and at their usual size, over fresh seeds. Neither network is in a suite.
Run again with the same `--out`, it goes on with what is missing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from learned_opt import load_weights
from meta_train.baselines import Scalar, Setting
from meta_train.evaluation import Optimizer, Protocol, Result, baseline, evaluate, learned
from tasks import TaskFamily
from tasks import sources as on
from tasks.base import Batch, Config, Key, Params, Part, Split
from tasks.config import GELU, RELU
from tasks.families import classifier, language_model
from tasks.models import language_transformer, mlp

Change = Callable[[optax.GradientTransformation], optax.GradientTransformation]


@dataclass(frozen=True)
class Condition:
    """What differs from an ordinary run.

    Attributes:
      name: of its row.
      batch: how many examples a gradient sees, of the usual number.
      every: gradients whose mean makes one update; the run has as many more steps.
      planned: the length of the run that the optimizer is told, of the true one; infinity tells it none.
      weight_decay: in AdamW's units; None is each optimizer's own.
      arguments: of the learned optimizer, beside the usual.
      chain: what is done to the optimizer.
      family: what is done to the task.
    """

    name: str
    batch: float = 1.0
    every: int = 1
    planned: float = 1.0
    weight_decay: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    chain: Change = lambda optimizer: optimizer
    family: Callable[[TaskFamily], TaskFamily] = lambda family: family


def before(transformation: optax.GradientTransformation) -> Change:
    """Puts a transformation in front of an optimizer."""
    return lambda optimizer: optax.chain(transformation, optimizer)


def in_bfloat16(family: TaskFamily) -> TaskFamily:
    """Parameters and inputs are rounded to bfloat16 inside the loss, as in mixed-precision training."""

    def half(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
        )

    def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
        return family.loss(half(params), half(batch), half(config)).astype(jnp.float32)

    return dataclasses.replace(family, loss=loss)


def with_dropout(rate: float) -> Callable[[TaskFamily], TaskFamily]:
    """A share `rate` of the inputs of every matrix is left out, others at each training step."""

    def change(family: TaskFamily) -> TaskFamily:
        @functools.cache
        def data() -> Split:
            train, valid = family.data()
            return Split({"rows": train, "rate": np.float32(rate)}, {"rows": valid, "rate": np.float32(0)})

        def batch(key: Key, part: Part, config: Config) -> Batch:
            return {"own": family.batch(key, part["rows"], config), "key": key, "rate": part["rate"]}

        def loss(params: Params, batch: Batch, config: Config) -> jax.Array:
            def dropped(place: int, leaf: jax.Array) -> jax.Array:
                if leaf.ndim < 2:
                    return leaf
                draws = jax.random.uniform(jax.random.fold_in(batch["key"], place), (leaf.shape[0], 1))
                return leaf * (draws >= batch["rate"]) / (1 - batch["rate"])

            leaves, structure = jax.tree.flatten(params)
            left = [dropped(place, leaf) for place, leaf in enumerate(leaves)]
            return family.loss(jax.tree.unflatten(structure, left), batch["own"], config)

        return dataclasses.replace(family, data=data, batch=batch, loss=loss)

    return change


CONDITIONS = {
    row.name: row
    for row in (
        Condition("as it is"),
        Condition("loss times 1e6", chain=before(optax.scale(1e6))),
        Condition("loss times 1e-6", chain=before(optax.scale(1e-6))),
        Condition("gradients clipped to norm 1", chain=before(optax.clip_by_global_norm(1.0))),
        Condition("gradients clipped to norm 0.01", chain=before(optax.clip_by_global_norm(0.01))),
        Condition("weight decay 0.1", weight_decay=0.1),
        Condition("an eighth of the batch", batch=1 / 8),
        Condition("8 times the batch", batch=8),
        Condition("4 gradients of a quarter of the batch averaged", batch=1 / 4, every=4),
        Condition("dropout 0.1", family=with_dropout(0.1)),
        Condition("computation in bfloat16", family=in_bfloat16),
        Condition("memory in bfloat16", arguments={"state_dtype": "bfloat16"}),
        Condition("orthogonalised every 2nd step", arguments={"orthogonalize": 2}),
        Condition("orthogonalised every 4th step", arguments={"orthogonalize": 4}),
        Condition("planned for twice as long", planned=2.0),
        Condition("length unknown", planned=math.inf),
    )
}


def perceptron(share: float, steps: int) -> TaskFamily:
    """784-64-64-10 on 5,000 handwritten digits, usually 64 a batch."""
    model, batch = mlp(784, 64, 64, 10), round(64 * share)
    return classifier("perceptron", on.MNIST, model, batch=batch, steps=steps, vary={"activation": RELU})


def transformer(share: float, steps: int) -> TaskFamily:
    """Of width 64 and depth 2, on 48 bytes of the Bible at a time, usually 16 a batch."""
    model, batch = language_transformer(64, 2, 48), round(16 * share)
    varied = {"activation": GELU}
    return language_model("transformer", on.BIBLE, model, batch=batch, length=48, steps=steps, vary=varied)


TASKS = {task.__name__: task for task in (perceptron, transformer)}


@dataclass(frozen=True)
class Options:
    """Compares a learned optimizer with AdamW under odd conditions."""

    out: Path
    """Folder of results."""
    weights: str = "flt-v1"
    """Of the learned optimizer: a shipped name or a path."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of the networks."""
    only: tuple[str, ...] = tuple(CONDITIONS)
    """Names of the conditions."""
    steps: int = 500
    """Updates of every run."""


def under(condition: Condition, optimizer: Optimizer) -> Optimizer:
    """The optimizer as it is used under a condition."""
    unplanned = math.isinf(condition.planned) and not optimizer.learned  # then its rate is constant

    def setting_of(setting: Setting) -> Setting:
        decay = setting.weight_decay if condition.weight_decay is None else condition.weight_decay
        return setting._replace(weight_decay=decay, constant=1.0 if unplanned else setting.constant)

    def build(weights: Any, setting: Setting, total: Scalar) -> optax.GradientTransformation:
        told = 1.0 if unplanned else condition.planned
        whole = optimizer.build(weights, setting_of(setting), told * total / condition.every)
        one = condition.chain(whole)
        if condition.every == 1:
            return one
        return optax.MultiSteps(one, condition.every).gradient_transformation()

    return dataclasses.replace(
        optimizer, build=build, fingerprint=f"{optimizer.fingerprint} {condition.name}", watch=None
    )


def results(options: Options, condition: Condition) -> list[Result]:
    """Of both optimizers on every task, under one condition."""
    updates = options.steps * condition.every
    families = {name: condition.family(TASKS[name](condition.batch, updates)) for name in options.tasks}
    own = learned(options.weights, *load_weights(options.weights), **condition.arguments)
    optimizers = [under(condition, optimizer) for optimizer in (own, baseline("adamw", rates=5))]
    folder = options.out / "-".join(condition.name.split())
    return evaluate(families, optimizers, Protocol(steps=updates), folder, log=print)[0]


def row(options: Options, condition: Condition, found: list[Result]) -> str:
    """One line of the table: of each task both losses, their ratio, and what diverged."""
    by_name = {(result.task, result.optimizer): result for result in found}
    cells, diverged = [], 0
    for task in options.tasks:
        own, rival = (by_name[task, name] for name in (options.weights, "adamw"))
        mean, other = np.mean(own.valid), np.mean(rival.valid)
        rate = Setting(*rival.setting or ()).rate
        cells += [f"{mean:.3f}", f"{other:.3f} ({rate:.3g})", f"{mean / other:.2f}"]
        diverged += sum(own.diverged)
    return f"| {condition.name} | " + " | ".join(cells) + f" | {diverged} |"


def main(options: Options) -> None:
    for given, known in ((options.only, CONDITIONS), (options.tasks, TASKS)):
        unknown = set(given) - known.keys()
        if unknown:
            raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; choose from: {', '.join(known)}")
    chosen = [CONDITIONS[name] for name in options.only]
    rows = [row(options, condition, results(options, condition)) for condition in chosen]
    columns = [
        f"{task}: {name}" for task in options.tasks for name in (options.weights, "adamw (rate)", "ratio")
    ]
    print("| | " + " | ".join(columns) + " | diverged |\n| --- |" + " ---: |" * (len(columns) + 1))
    print("\n".join(rows))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
