"""Small tasks that no suite has, with tables of which a batch looks up a few rows; and a graph.

meta-train evaluate --task benchmarks/lookup_tasks.py:Ranking --baselines adamw muon --out runs/lookup
"""

import argparse
import collections
import doctest
import inspect
import optparse
import pickle
import re
import tarfile
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from odd_tasks import Rows, dense, split
from sklearn.datasets import load_breast_cancer

MODULES = (argparse, tarfile, typing, doctest, pickle, optparse, inspect)


def applied(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["w"] + layer["b"]


class Ranking:
    """Which of two items a user likes better: 15,000 noisy answers of 300 users about 200 items."""

    steps, batch_size = 1000, 256

    def data(self) -> tuple[Rows, Rows]:
        draw = np.random.default_rng(0)
        users, items = draw.normal(size=(300, 5)), draw.normal(size=(200, 5))
        u, a, b = (draw.integers(0, count, 20_000) for count in (300, 200, 200))
        first = (users[u] * (items[a] - items[b])).sum(1) + draw.logistic(size=20_000) > 0
        return split({"user": u, "liked": np.where(first, a, b), "other": np.where(first, b, a)})

    def init(self, key: jax.Array) -> Any:
        users, items = jax.random.split(key)
        return {
            "user_embedding": 0.1 * jax.random.normal(users, (300, 16)),
            "item_embedding": 0.1 * jax.random.normal(items, (200, 16)),
            "bias": jnp.zeros(200),
        }

    def loss(self, p: Any, batch: Any) -> jax.Array:
        items, liked, other = p["item_embedding"], batch["liked"], batch["other"]
        better = (p["user_embedding"][batch["user"]] * (items[liked] - items[other])).sum(1)
        return -jax.nn.log_sigmoid(better + p["bias"][liked] - p["bias"][other]).mean()


class SkipGram:
    """Vectors of 1,500 words of the standard library's source, by the words around them (word2vec)."""

    steps, batch_size = 1000, 256

    def data(self) -> tuple[Rows, Rows]:
        words = re.findall("[a-z]+", " ".join(map(inspect.getsource, MODULES)).lower())
        common = [word for word, _ in collections.Counter(words).most_common(1500)]
        number = {word: index for index, word in enumerate(common)}
        text = np.array([number[word] for word in words if word in number])
        near = [text[2 + shift : len(text) - 2 + shift] for shift in (1, 2, -1, -2)]
        noise = np.random.default_rng(0).choice(text, (4 * len(near[0]), 5))
        return split({"word": np.tile(text[2:-2], 4), "near": np.concatenate(near), "noise": noise})

    def init(self, key: jax.Array) -> Any:
        words = jax.random.uniform(key, (1500, 48), minval=-0.5, maxval=0.5) / 48
        return {"word_embedding": words, "context_embedding": jnp.zeros((1500, 48))}

    def loss(self, p: Any, batch: Any) -> jax.Array:
        word, context = p["word_embedding"][batch["word"]], p["context_embedding"]
        near = (word * context[batch["near"]]).sum(-1)
        noise = jnp.einsum("bd,bkd->bk", word, context[batch["noise"]])
        return -(jax.nn.log_sigmoid(near) + jax.nn.log_sigmoid(-noise).sum(-1)).mean()


class Bins:
    """A small table, each of 30 columns cut into eight bins with a vector each, and products of columns."""

    steps, batch_size = 1000, 64

    def data(self) -> tuple[Rows, Rows]:
        x, y = load_breast_cancer(return_X_y=True)
        edges = np.quantile(x, np.linspace(0, 1, 9)[1:-1], axis=0)
        return split({"x": (x[:, None] > edges).sum(1), "y": y.astype(float)})

    def init(self, key: jax.Array) -> Any:
        bins, *keys = jax.random.split(key, 5)
        shapes = ((120, 120), (120, 120), (120, 64), (64, 1))
        layers = [dense(k, *shape) for k, shape in zip(keys, shapes, strict=True)]
        return {"bin_embedding": 0.1 * jax.random.normal(bins, (30, 8, 4)), "layers": layers}

    def loss(self, p: Any, batch: Any) -> jax.Array:
        first = x = p["bin_embedding"][jnp.arange(30), batch["x"]].reshape(-1, 120)
        *crosses, hidden, last = p["layers"]
        for cross in crosses:
            x = x + 0.3 * first * applied(cross, x)
        logits = applied(last, jax.nn.relu(applied(hidden, x)))[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean()


class Graph:
    """Communities in a graph of 600 nodes by two graph convolutions; 450 labels, 100 noisy features."""

    steps, batch_size = 1000, 256

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.labels = draw.integers(0, 5, 600)
        likely = np.where(self.labels[:, None] == self.labels, 0.03, 0.004)
        edges = np.triu(draw.random((600, 600)) < likely, 1)
        joined = edges + edges.T + np.eye(600)
        degrees = joined.sum(1)
        self.joined = jnp.asarray(joined / np.sqrt(degrees[:, None] * degrees), jnp.float32)
        noise, centres = draw.normal(size=(600, 100)), draw.normal(size=(5, 100))
        self.features = jnp.asarray(noise + 0.25 * centres[self.labels], jnp.float32)

    def data(self) -> tuple[Rows, Rows]:
        return split({"node": np.arange(600), "label": self.labels})

    def init(self, key: jax.Array) -> Any:
        first, second = jax.random.split(key)
        return [dense(first, 100, 32), dense(second, 32, 5)]

    def loss(self, p: Any, batch: Any) -> jax.Array:
        hidden = jax.nn.relu(self.joined @ applied(p[0], self.features))
        logits = (self.joined @ applied(p[1], hidden))[batch["node"]]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
