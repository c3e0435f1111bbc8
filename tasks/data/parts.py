"""The forms of data that several loaders make."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.base import Split
from tasks.cache import Arrays

UNCHANGED = {"mean": np.float32(0), "std": np.float32(1)}  # what standardising should do


def split(x: np.ndarray, y: np.ndarray, train: int, end: int, facts: dict[str, Any]) -> Split:
    """Rows of one order: the first train, those from there to `end` validate."""
    return Split(
        {"x": x[:train], "y": y[:train], "noisy": np.float32(1), **facts},
        {"x": x[train:end], "y": y[train:end], "noisy": np.float32(0), **facts},
    )


def images(arrays: Arrays, train: int, end: int) -> Split:
    """Images [rows, pixels], standardised as a whole."""
    x = arrays["x"]
    facts = {"mean": np.float32(x[:train].mean()), "std": np.float32(x[:train].std())}
    return split(x, arrays["y"], train, end, facts)


def text_split(text: np.ndarray) -> Split:
    """Text [characters]: the first nine tenths train, the rest validates."""
    cut = len(text) * 9 // 10
    return Split({"text": text[:cut]}, {"text": text[cut:]})
