"""A network trained on half of the classes, to be trained further on the others."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from tasks.base import Split
from tasks.data.images import mnist

RATE, MOMENTUM, BATCH, STEPS = 0.1, 0.9, 256, 60


@cache
def upper_digits(*sizes: int) -> Split:
    """The digits 5 to 9 of `mnist`, as classes 0 to 4: about 2,000 train and 500 validate.

    `start` is what a network of these sizes, inputs and hidden layers, has learned from the others.
    """
    train, valid = mnist()
    lower = train["y"] < 5
    x = (train["x"][lower] - train["mean"].astype(float)) / train["std"]
    start = {"hidden": trained(x, train["y"][lower], 5, *sizes)[:-1]}
    return Split(*({**_from_five(part), "start": start} for part in (train, valid)))


def _from_five(part: dict[str, Any]) -> dict[str, Any]:
    upper = part["y"] >= 5
    return {**part, "x": part["x"][upper], "y": part["y"][upper] - 5}


def trained(x: np.ndarray, y: np.ndarray, classes: int, *sizes: int) -> list[dict[str, np.ndarray]]:
    """The layers of a classifier of rows x, with relu, after a short run of gradient descent.

    All is computed in float64, and rounded to multiples of 1 / 4,096 at the end, so that rounding, which
    differs between machines, hardly ever shows.
    """
    random = np.random.RandomState(0)
    shapes = list(pairwise((*sizes, classes)))
    layers = [
        {"kernel": random.standard_normal((i, o)) * (2 / i) ** 0.5, "bias": np.zeros(o)} for i, o in shapes
    ]
    speeds = [{name: np.zeros_like(value) for name, value in layer.items()} for layer in layers]
    for _ in range(STEPS):
        rows = random.randint(len(x), size=BATCH)
        seen = [x[rows]]
        for layer in layers[:-1]:
            seen.append(np.maximum(seen[-1] @ layer["kernel"] + layer["bias"], 0.0))
        odds = np.exp(seen[-1] @ layers[-1]["kernel"] + layers[-1]["bias"])
        error = (odds / odds.sum(1, keepdims=True) - np.eye(classes)[y[rows]]) / BATCH
        for layer, speed, inputs in zip(layers[::-1], speeds[::-1], seen[::-1], strict=True):
            slopes = {"kernel": inputs.T @ error, "bias": error.sum(0)}
            error = (error @ layer["kernel"].T) * (inputs > 0)
            for name, slope in slopes.items():
                speed[name] = MOMENTUM * speed[name] - RATE * slope
                layer[name] = layer[name] + speed[name]
    return [
        {name: (np.round(4096 * value) / 4096).astype(np.float32) for name, value in layer.items()}
        for layer in layers
    ]
