"""Tables of measurements."""

from __future__ import annotations

from functools import cache

import numpy as np

from tasks.base import Split
from tasks.cache import checked, missing
from tasks.data.parts import split


@cache
def cancer() -> Split:
    """569 x 30 measurements, benign or malignant."""
    from sklearn.datasets import load_breast_cancer

    return _table(
        "cancer",
        load_breast_cancer(return_X_y=True),
        "25e2eb7b7a8745b1bde5ba18bc4969983d2e2f403291ecd5bde4a29ef30c3859",
        labels=True,
    )


@cache
def wine() -> Split:
    """178 x 13 measurements, 3 classes."""
    from sklearn.datasets import load_wine

    return _table(
        "wine",
        load_wine(return_X_y=True),
        "3a28849ef2366c4b9d4e382b3fa5624a66f693c04d7fdcf43c529bbb0bb338d7",
        labels=True,
    )


@cache
def iris() -> Split:
    """150 x 4 measurements, 3 classes."""
    from sklearn.datasets import load_iris

    return _table(
        "iris",
        load_iris(return_X_y=True),
        "aa06b8008ceba42efc654be0f83fdafc786239c9e8f13146044d078f5aab8f23",
        labels=True,
    )


@cache
def diabetes() -> Split:
    """442 x 10 measurements and a disease score."""
    from sklearn.datasets import load_diabetes

    return _table(
        "diabetes",
        load_diabetes(return_X_y=True, scaled=False),
        "e9c1f7559552854a24dc45b41c446ce5f79f96e5da081bcce24b57492720b3f7",
        labels=False,
    )


@cache
def autompg() -> Split:
    """392 x 7 properties of cars and their miles per gallon."""
    try:
        from mlxtend.data import autompg_data
    except ImportError as error:
        raise missing("mlxtend==0.25.0") from error
    x, y = autompg_data()
    return _table(
        "autompg",
        (x[:, :7], y),
        "1d1cf0bb70fb30529a7893b27516bcc61732cfb70b3c225c716fc9e092f63f22",
        labels=False,
    )


def _table(name: str, pair: tuple[np.ndarray, np.ndarray], sha: str, labels: bool) -> Split:
    arrays = checked(name, dict(zip("xy", pair, strict=True)), sha)
    order = np.random.RandomState(0).permutation(len(arrays["x"]))
    x = arrays["x"][order].astype(np.float32)
    train = len(x) * 4 // 5
    facts = {"mean": x[:train].mean(0), "std": x[:train].std(0)}
    if labels:
        return split(x, arrays["y"][order].astype(np.uint8), train, len(x), facts)
    y = arrays["y"][order, None].astype(np.float32)
    facts |= {"y_mean": np.asarray(y[:train].mean()), "y_std": np.asarray(y[:train].std())}
    return split(x, y, train, len(x), facts)
