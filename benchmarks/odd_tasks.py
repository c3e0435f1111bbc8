"""Small tasks that no suite has: parameters with far to go, linear models, functions fitted exactly.

    meta-train evaluate --task benchmarks/odd_tasks.py:Oscillation --baselines adamw muon --out runs/odd

What they have in common: the optimizer failed on one of them once, or somebody feared that it would.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

Rows = dict[str, np.ndarray]


def split(rows: Rows) -> tuple[Rows, Rows]:
    """Three quarters to train on, in random order, and the rest; as float32 and int32."""
    rows = {name: x.astype(np.float32 if x.dtype.kind == "f" else np.int32) for name, x in rows.items()}
    count = len(next(iter(rows.values())))
    order = np.random.default_rng(0).permutation(count)
    first, last = np.split(order, [3 * count // 4])
    return {name: x[first] for name, x in rows.items()}, {name: x[last] for name, x in rows.items()}


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, labels = load_digits(return_X_y=True)
    return x.astype(np.float32), labels.astype(np.int32)


def dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    return {
        "w": jax.random.normal(key, (inputs, outputs)) * (2 / inputs) ** 0.5,
        "b": jnp.zeros(outputs),
    }


def network(key: jax.Array, *widths: int) -> list[dict[str, jax.Array]]:
    keys = jax.random.split(key, len(widths) - 1)
    return [dense(*each) for each in zip(keys, widths[:-1], widths[1:], strict=True)]


def applied(params: Any, x: jax.Array, activation: Any = jax.nn.relu) -> jax.Array:
    for layer in params[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


class Oscillation:
    """Five scalars of a damped oscillation, its offset 80 from where they start."""

    steps, batch_size = 1000, 200

    def data(self) -> tuple[Rows, Rows]:
        t = np.linspace(0, 5, 200)
        noise = np.random.default_rng(0).normal(size=200)
        y = 30 * np.exp(-0.4 * t) * np.sin(3 * t + 0.5) + 80 + 0.1 * noise
        rows = {"t": t.astype(np.float32), "y": y.astype(np.float32)}
        return rows, rows

    def init(self, key: jax.Array) -> Any:
        start = {"height": 5.0, "frequency": 2.8, "decay": 0.1, "offset": 0.0}
        return jax.tree.map(jnp.float32, start) | {"phase": 0.1 * jax.random.normal(key)}

    def loss(self, p: Any, batch: Any) -> jax.Array:
        wave = jnp.exp(-p["decay"] * batch["t"]) * jnp.sin(p["frequency"] * batch["t"] + p["phase"])
        return jnp.mean((p["height"] * wave + p["offset"] - batch["y"]) ** 2)


class Factors:
    """A matrix of rank 6 with entries of about 60, from factors that start at 0.1."""

    steps, batch_size = 1000, 256

    def data(self) -> tuple[Rows, Rows]:
        draw = np.random.default_rng(0)
        u, v = 5 * draw.normal(size=(100, 6)), 5 * draw.normal(size=(80, 6))
        i, j = draw.integers(0, 100, 6000), draw.integers(0, 80, 6000)
        y = (u[i] * v[j]).sum(1)
        return split({"i": i, "j": j, "y": y})

    def init(self, key: jax.Array) -> Any:
        rows, columns = jax.random.split(key)
        return {"u": 0.1 * jax.random.normal(rows, (100, 6)), "v": 0.1 * jax.random.normal(columns, (80, 6))}

    def loss(self, p: Any, batch: Any) -> jax.Array:
        return jnp.mean(((p["u"][batch["i"]] * p["v"][batch["j"]]).sum(1) - batch["y"]) ** 2)


class RawTargets:
    """Regression on targets that nobody normalised: 500, give or take 150."""

    steps, batch_size = 1000, 64

    def data(self) -> tuple[Rows, Rows]:
        x = np.random.default_rng(0).normal(size=(4000, 6))
        y = 500 + 100 * (np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3])
        return split({"x": x, "y": y})

    def init(self, key: jax.Array) -> Any:
        return network(key, 6, 64, 64, 1)

    def loss(self, p: Any, batch: Any) -> jax.Array:
        return jnp.mean((applied(p, batch["x"])[:, 0] - batch["y"]) ** 2)


class IllConditioned:
    """Least squares on features of sizes 1 to 0.01, the weights of the small ones large."""

    steps, batch_size = 1000, 256

    def data(self) -> tuple[Rows, Rows]:
        draw = np.random.default_rng(0)
        x = draw.normal(size=(256, 20)) * np.logspace(0, -2, 20)
        w = draw.normal(size=(20, 1)) * np.logspace(0, 1, 20)[:, None]
        rows = {"x": x.astype(np.float32), "y": (x @ w).astype(np.float32)}
        return rows, rows

    def init(self, key: jax.Array) -> Any:
        return {"w": jnp.zeros((20, 1)), "b": jnp.zeros(1)}

    def loss(self, p: Any, batch: Any) -> jax.Array:
        return jnp.mean((batch["x"] @ p["w"] + p["b"] - batch["y"]) ** 2)


class RandomFeatures:
    """A linear classifier on 1,000 random features of scikit-learn's digits."""

    steps, batch_size = 1000, 128

    def data(self) -> tuple[Rows, Rows]:
        x, labels = digits()
        features = np.cos(x @ np.random.default_rng(0).normal(size=(64, 1000)) / 16)
        return split({"x": features, "y": labels})

    def init(self, key: jax.Array) -> Any:
        return {"w": jnp.zeros((1000, 10)), "b": jnp.zeros(10)}

    def loss(self, p: Any, batch: Any) -> jax.Array:
        logits = batch["x"] @ p["w"] + p["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


class Parts:
    """Nonnegative factors of scikit-learn's digits: one row of an embedding for each image."""

    steps, batch_size = 1000, 256

    def data(self) -> tuple[Rows, Rows]:
        x, _ = digits()
        rows = {"x": x / 16, "i": np.arange(len(x), dtype=np.int32)}
        return rows, rows

    def init(self, key: jax.Array) -> Any:
        images, parts = jax.random.split(key)
        return {
            "images": 0.1 * jax.random.normal(images, (1797, 12)) - 2,
            "parts": 0.1 * jax.random.normal(parts, (12, 64)) - 1,
        }

    def loss(self, p: Any, batch: Any) -> jax.Array:
        found = jax.nn.softplus(p["images"][batch["i"]]) @ jax.nn.softplus(p["parts"])
        return jnp.mean((found - batch["x"]) ** 2)


class OneByOne:
    """A perceptron on scikit-learn's digits, one image a step."""

    steps, batch_size = 2000, 1

    def data(self) -> tuple[Rows, Rows]:
        x, labels = digits()
        return split({"x": x / 8 - 1, "y": labels})

    def init(self, key: jax.Array) -> Any:
        return network(key, 64, 64, 10)

    def loss(self, p: Any, batch: Any) -> jax.Array:
        logits = applied(p, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


class Curve:
    """A function of one variable, all of its 64 points at every step."""

    steps, batch_size = 1000, 64

    def data(self) -> tuple[Rows, Rows]:
        x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        rows = {"x": x, "y": np.sin(6 * x) * np.exp(x)}
        return rows, rows

    def init(self, key: jax.Array) -> Any:
        return network(key, 1, 64, 64, 1)

    def loss(self, p: Any, batch: Any) -> jax.Array:
        return jnp.mean((applied(p, batch["x"], jnp.tanh) - batch["y"]) ** 2)
