"""What a task is: a family of them, one member, its data and its card."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

Key = jax.Array
"""A typed JAX random key, shape []."""
Config = dict[str, jax.Array]
"""What differs between the members of a family: a flat dict of float32 scalars and one "key"."""
Params = Any
Batch = Any
Part = Any
"""Half of a `Split`: a pytree of numpy or JAX arrays."""


class Split(NamedTuple):
    """A family's data; an argument of jitted code, so that it is never a constant of the program."""

    train: Part
    valid: Part


@dataclass(frozen=True)
class Card:
    """What a reader of a results table needs to know about a family.

    Attributes:
      kind: classification, regression, autoencoder, language model, contrastive, diffusion or control.
      architecture: the network, in words.
      source: where the data comes from.
      licence: the licence of the data.
      batch_size: examples per gradient step.
      steps: the default horizon, in gradient steps.
      axis: for validation and held-out families, how they differ from those trained on; else empty.
      shapes: returns the parameters as a tree of shapes.
      recipe: what else determines a run, so that results of another recipe are not taken for this one's.
      target: a validation loss that is worth reaching: what a tuned AdamW ended with; None without one.
      gpu: whether it is too large for a CPU; suites are evaluated there without it.
    """

    kind: str
    architecture: str
    source: str
    licence: str
    batch_size: int
    steps: int
    axis: str
    shapes: Callable[[], Params] = field(repr=False, compare=False)
    recipe: str = ""
    target: float | None = None
    gpu: bool = False

    @cached_property
    def parameters(self) -> int:
        """The number of trained scalars."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes()))


@dataclass(frozen=True)
class TaskFamily:
    """Many related tasks that share data, batch shapes and parameter shapes.

    All functions but `data` can be jitted, and mapped by `jax.vmap` over (config, key), the data unbatched.

    Attributes:
      name: unique over all suites.
      data: loads the data (numpy arrays); repeated calls return the same object.
      sample: key -> config of one member.
      init: (key, config) -> float32 parameters, a tree of dicts and lists.
      batch: (key, data.train or data.valid, config) -> one minibatch. Label and input noise touch `train`.
      loss: (parameters, batch, config) -> float32 scalar > 0.
      card: the description.
    """

    name: str
    data: Callable[[], Split]
    sample: Callable[[Key], Config]
    init: Callable[[Key, Config], Params]
    batch: Callable[[Key, Part, Config], Batch]
    loss: Callable[[Params, Batch, Config], jax.Array]
    card: Card

    def task(self, config: Config) -> Task:
        """The member of this family that `config` describes."""
        return Task(self, config)

    def fingerprint(self) -> str:
        """The SHA-256 of the data; some of it follows the Python version, and then so do results."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.data()):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Task:
    """One member of a family: what a user would train."""

    family: TaskFamily
    config: Config

    @property
    def name(self) -> str:
        """The name of the family."""
        return self.family.name

    @cached_property
    def data(self) -> Split:
        """The family's data, on the default device."""
        return jax.device_put(self.family.data())

    def init(self, key: Key) -> Params:
        """Fresh float32 parameters."""
        return self.family.init(key, self.config)

    def train_batch(self, key: Key) -> Batch:
        """A minibatch of training data."""
        return self.family.batch(key, self.data.train, self.config)

    def valid_batch(self, key: Key) -> Batch:
        """A minibatch of validation data, without label or input noise."""
        return self.family.batch(key, self.data.valid, self.config)

    def loss(self, params: Params, batch: Batch) -> jax.Array:
        """The mean loss of a minibatch: float32, shape [], > 0."""
        return self.family.loss(params, batch, self.config)
