"""Points and matrices drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tasks.base import Split
from tasks.data.parts import UNCHANGED, split


@cache
def points(features: int, law: str) -> Split:
    """Inputs of functions that each member draws: `law` is "uniform" in [-1, 1] or "normal"."""
    random = np.random.default_rng(1)
    draw: Callable[..., Any] = (
        random.standard_normal if law == "normal" else lambda s: random.uniform(-1, 1, s)
    )
    x = draw((2560, features)).astype(np.float32)
    rotation = np.linalg.qr(random.standard_normal((features, features)))[0].astype(np.float32)
    return split(x, np.zeros(len(x), np.uint8), 2048, 2560, {**UNCHANGED, "rotation": rotation})


@cache
def ratings(rows: int, columns: int, rank: int) -> Split:
    """8,000 entries of a random matrix of this rank; low indices are common, high ones rare."""
    random = np.random.default_rng(2)
    left, right = random.standard_normal((rows, rank)), random.standard_normal((columns, rank))
    popular = random.uniform(size=(8000, 2)) ** 2
    x = (popular * [rows, columns]).astype(np.uint8)
    y = np.sum(left[x[:, 0]] * right[x[:, 1]], axis=1, keepdims=True).astype(np.float32)
    return split(x, y, 7200, 8000, {**UNCHANGED, "y_mean": np.float32(0), "y_std": np.float32(y.std())})
