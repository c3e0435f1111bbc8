"""Loaders: real data inside installed packages, and synthetic data. Nothing is ever downloaded.

Every loader returns the same numpy `Split` on each call. A part is a dict: `text` [characters] uint8, or

    x      [rows, features]   uint8, uint16 or float32; the network reads (x - mean) / std
    y      [rows] uint8 labels, or [rows, targets] float32 or uint8; a regression fits (y - y_mean) / y_std
    noisy  float32            1 in the training part and 0 in the other: whether noise is added
    start  parameters         where fine-tuning begins, if it is that
"""

from tasks.data.images import (
    digit_halves,
    digits,
    faces,
    frozen_digits,
    mnist,
    photo,
    photo_patches,
    textures,
)
from tasks.data.molecules import molecules
from tasks.data.pretrained import upper_digits
from tasks.data.signals import mnist1d, pulse
from tasks.data.synthetic import points, ratings
from tasks.data.tables import autompg, cancer, diabetes, iris, wine
from tasks.data.texts import bible, code, library, place_names, topics, tunes

__all__ = [
    "autompg",
    "bible",
    "cancer",
    "code",
    "diabetes",
    "digit_halves",
    "digits",
    "faces",
    "frozen_digits",
    "iris",
    "library",
    "mnist",
    "mnist1d",
    "molecules",
    "photo",
    "photo_patches",
    "place_names",
    "points",
    "pulse",
    "ratings",
    "textures",
    "topics",
    "tunes",
    "upper_digits",
    "wine",
]
