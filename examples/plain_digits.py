"""A task of one's own for `meta-train evaluate`: the network that everybody tries first.

meta-train evaluate --task examples/plain_digits.py:Digits --baselines adamw muon --out runs/plain_digits
"""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

WIDTHS = (64, 128, 128, 10)
TRAINING_ROWS = 1300


class Digits:
    """A multilayer perceptron on the 1,797 digits of scikit-learn."""

    steps, batch_size = 3000, 128

    def data(self) -> tuple[Any, Any]:
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        rows = {"x": (x[order] / 8 - 1).astype(np.float32), "y": y[order].astype(np.int32)}
        train = {name: array[:TRAINING_ROWS] for name, array in rows.items()}
        return train, {name: array[TRAINING_ROWS:] for name, array in rows.items()}

    def init(self, key: jax.Array) -> Any:
        keys = jax.random.split(key, len(WIDTHS) - 1)
        kernels = [
            jax.random.normal(each, (i, o)) * (2 / i) ** 0.5
            for each, (i, o) in zip(keys, pairwise(WIDTHS), strict=True)
        ]
        return [{"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])} for kernel in kernels]

    def loss(self, params: Any, batch: Any) -> jax.Array:
        x = batch["x"]
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        logits = x @ params[-1]["kernel"] + params[-1]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
