"""A task of the user's: any object with `data`, `init` and `loss` becomes a family with one member."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax import random

from tasks.base import Batch, Card, Config, Key, Params, Part, Split, TaskFamily

BATCH_SIZE = 32
STEPS = 1000


@runtime_checkable
class OwnTask(Protocol):
    """What a task must have. It may also have `batch_size` (32), `steps` (1000) and `target` (a loss)."""

    def data(self) -> tuple[Part, Part]:
        """Training and validation data: two trees of arrays whose first axis is the examples."""

    def init(self, key: Key) -> Params:
        """Fresh parameters, a tree of floating-point arrays."""

    def loss(self, params: Params, batch: Batch) -> jax.Array:
        """The mean loss of a batch, a scalar; `batch` is a tree like the data with `batch_size` rows."""


def as_family(task: OwnTask, name: str) -> TaskFamily:
    """The family whose only member is `task`; batches are rows drawn uniformly, with replacement.

    Raises:
      TypeError: a method cannot be called as `OwnTask` says.
    """
    for method, arguments in (("data", ()), ("init", ("key",)), ("loss", ("params", "batch"))):
        try:
            inspect.signature(getattr(task, method)).bind(*arguments)
        except TypeError as error:
            raise TypeError(
                f"{name}: {method} is called as {method}({', '.join(arguments)}): {error}"
            ) from error
    size = int(getattr(task, "batch_size", BATCH_SIZE))
    splits: list[Split] = []

    def data() -> Split:
        if not splits:
            parts = task.data()
            if not isinstance(parts, tuple) or len(parts) != 2:
                raise TypeError(
                    f"{name}: data() must return a pair (training, validation), not {type(parts)}"
                )
            splits.append(Split(*(jax.tree.map(np.asarray, part) for part in parts)))
        return splits[0]

    def batch(key: Key, part: Part, config: Config) -> Batch:
        rows = {leaf.shape[:1] for leaf in jax.tree.leaves(part)}
        if len(rows) != 1 or () in rows:
            raise ValueError(f"{name}: the data's arrays differ in their number of rows: {sorted(rows)}")
        ((count,),) = rows
        index = random.randint(key, (size,), 0, count)
        return jax.tree.map(lambda leaf: leaf[index], part)

    card = Card(
        kind="own",
        architecture=type(task).__name__,
        source="own",
        licence="own",
        batch_size=size,
        steps=int(getattr(task, "steps", STEPS)),
        axis="",
        shapes=lambda: jax.eval_shape(task.init, random.key(0)),
        recipe=_source_hash(task),
        target=getattr(task, "target", None),
    )
    return TaskFamily(
        name=name,
        data=data,
        sample=lambda key: {},
        init=lambda key, config: task.init(key),
        batch=batch,
        loss=lambda params, batch, config: task.loss(params, batch),
        card=card,
    )


def _source_hash(task: OwnTask) -> str:
    """Of the file that defines the task and the neighbours it imports: an edited one makes another task."""
    loss = inspect.unwrap(task.loss)
    code = getattr(loss, "__code__", None)
    path = Path(code.co_filename if code else "").resolve()
    if not path.is_file():
        return ""
    files = [path, *_neighbours(path, loss.__globals__.values())]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _neighbours(path: Path, values: Iterable[Any]) -> list[Path]:
    """Files beside `path` that are modules among the values, or define one of them."""
    names = {
        value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "") for value in values
    }
    modules = [sys.modules.get(name) for name in names if isinstance(name, str)]
    files = {Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))}
    return sorted(file for file in files - {path} if file.parent == path.parent)


def broken_family(name: str, error: Exception) -> TaskFamily:
    """A family that raises `error` when it is used, so that it is reported beside those that work."""

    def raises(*_: Any) -> Any:
        raise error

    card = Card("own", "", "own", "own", 1, 1, "", raises)
    return TaskFamily(name, raises, raises, raises, raises, raises, card)
