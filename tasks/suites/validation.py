"""What chooses checkpoints and settings."""

from __future__ import annotations

from tasks import sources as on
from tasks.base import TaskFamily
from tasks.config import GELU, RELU, TANH, fixed
from tasks.families import checkerboard, classifier, function_fit, language_model, suite, with_targets
from tasks.models import GRU, convnet, language_recurrent, language_transformer, mlp, patch_transformer

# The final validation loss of a tuned AdamW, rounded up to two digits, at the card's steps.
TARGETS = {
    "signal_mlp": 1.1,
    "signal_conv": 0.17,
    "signal_plain": 1.5,
    "signal_wide": 1.3,
    "signal_patches": 0.68,
    "code_transformer": 2.1,
    "code_gru": 2.0,
    "checkerboard": 0.33,
    "iris": 0.2,
}

_FAMILIES: dict[str, TaskFamily] = suite(
    classifier(
        "signal_mlp",
        on.MNIST1D,
        mlp(40, 96, 96, 10),
        batch=64,
        steps=800,
        vary={"activation": RELU},
        axis="data: signals, not images",
    ),
    classifier(
        "signal_conv",
        on.MNIST1D,
        convnet((40,), (16, 32), 10, window=5, stride=2, groups=4),
        batch=32,
        steps=800,
        vary={"activation": RELU},
        axis="architecture: strided 1-d convolutions, group norm",
    ),
    classifier(
        "signal_plain",
        on.MNIST1D,
        mlp(40, *[32] * 12, 10),
        batch=32,
        steps=1000,
        vary={"activation": TANH},
        axis="width and data: 13 layers of 32 without normalisation, on signals",
    ),
    classifier(
        "signal_wide",
        on.MNIST1D,
        mlp(40, 512, 512, 10),
        batch=64,
        steps=600,
        vary={"activation": GELU, "label_noise": fixed(0.2)},
        axis="width: 512 by 512, with label noise",
    ),
    classifier(
        "signal_patches",
        on.MNIST1D,
        patch_transformer((40,), 5, 32, 2, 10),
        batch=32,
        steps=800,
        vary={"activation": GELU},
        axis="architecture: attention over continuous patches",
    ),
    language_model(
        "code_transformer",
        on.CODE,
        language_transformer(64, 3, 32),
        batch=8,
        length=32,
        steps=1000,
        vary={"activation": GELU},
        axis="data and size: program text, width 64, depth 3",
    ),
    language_model(
        "code_gru",
        on.CODE,
        language_recurrent(GRU, 64),
        batch=16,
        length=32,
        steps=800,
        vary={},
        axis="size and data: GRU of width 64 on program text",
    ),
    function_fit(
        "checkerboard",
        on.PLANE,
        mlp(2, 48, 48, 48, 1, bias=0.5),
        checkerboard,
        batch=128,
        steps=1000,
        vary={"activation": TANH},
        axis="target: discontinuous, so not band-limited",
    ),
    classifier(
        "iris",
        on.IRIS,
        mlp(4, 16, 16, 3),
        batch=16,
        steps=300,
        vary={"activation": TANH},
        axis="data: 120 training rows",
    ),
)

VALIDATION: dict[str, TaskFamily] = with_targets(_FAMILIES, TARGETS)
"""Chooses checkpoints and settings; each family differs from `META_TRAIN` on its card's `axis`."""
