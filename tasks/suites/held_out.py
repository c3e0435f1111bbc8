"""What is reported, and what nobody may choose by."""

from __future__ import annotations

from tasks import sources as on
from tasks.base import TaskFamily
from tasks.config import GELU, RELU, TANH, fixed
from tasks.families import autoencoder, classifier, for_gpu, language_model, regressor, suite
from tasks.losses import huber
from tasks.models import (
    GRU,
    LSTM,
    convnet,
    language_recurrent,
    language_transformer,
    mlp,
    patch_transformer,
    residual_mlp,
    row_classifier,
)

HELD_OUT: dict[str, TaskFamily] = suite(
    language_model(
        "bible_transformer",
        on.BIBLE,
        language_transformer(96, 4, 64),
        batch=16,
        length=64,
        steps=2000,
        vary={"activation": GELU},
        axis="size, length and data: width 96, depth 4, 64 bytes of another text",
    ),
    language_model(
        "bible_lstm",
        on.BIBLE,
        language_recurrent(LSTM, 128),
        batch=16,
        length=48,
        steps=2000,
        vary={},
        axis="architecture and length: LSTM of width 128 through 48 steps",
    ),
    classifier(
        "mnist_conv",
        on.MNIST,
        convnet((28, 28), (16, 32, 48), 10, window=3, stride=2, groups=4),
        batch=64,
        steps=1000,
        vary={"activation": RELU},
        axis="architecture and data: three strided stages, group norm, 28x28 images",
    ),
    classifier(
        "mnist_wide",
        on.MNIST,
        mlp(784, 1024, 1024, 10),
        batch=128,
        steps=1000,
        vary={"activation": RELU},
        axis="width: 1,024; batch: 128",
    ),
    classifier(
        "mnist_patches",
        on.MNIST,
        patch_transformer((28, 28), 7, 64, 4, 10),
        batch=64,
        steps=1500,
        vary={"activation": GELU},
        axis="architecture: attention over image patches, depth 4",
    ),
    classifier(
        "mnist_plain",
        on.MNIST,
        mlp(784, *[64] * 16, 10),
        batch=64,
        steps=1500,
        vary={"activation": TANH},
        axis="depth: 17 layers without normalisation",
    ),
    autoencoder(
        "mnist_denoise",
        on.MNIST,
        mlp(784, 256, 32, 256, 784),
        batch=64,
        steps=1000,
        vary={"activation": RELU, "input_noise": fixed(0.7)},
        axis="loss and size: denoising, 784 inputs",
    ),
    regressor(
        "photo",
        on.PHOTO,
        mlp(2, 128, 128, 128, 3, octaves=6),
        batch=256,
        steps=2000,
        vary={"activation": RELU},
        axis="data: a photograph from sine features; batch: 256",
    ),
    regressor(
        "autompg_huber",
        on.AUTOMPG,
        mlp(7, 32, 32, 1),
        batch=32,
        steps=500,
        vary={"activation": RELU},
        axis="data: cars; small",
        objective=huber,
    ),
    classifier(
        "mnist_small",
        on.MNIST,
        mlp(784, 16, 10),
        batch=32,
        steps=600,
        vary={"activation": TANH, "label_noise": fixed(0.3)},
        axis="data and shape: 784 inputs to 16 units, 30% wrong labels; small",
    ),
    classifier(
        "mnist_rows_gru",
        on.MNIST,
        row_classifier(GRU, 28, 28, 32, 10),
        batch=32,
        steps=800,
        vary={},
        axis="task: a recurrent net that classifies at the end of 28 steps; small",
    ),
    classifier(
        "mnist_wider",
        on.MNIST,
        mlp(784, 2048, 2048, 10),
        batch=64,
        steps=1000,
        vary={"activation": RELU},
        axis="width: 2,048; the widest layer of training has 384",
    ),
    classifier(
        "mnist_deep",
        on.MNIST,
        residual_mlp(784, 64, 32, 10),
        batch=64,
        steps=1500,
        vary={"activation": GELU},
        axis="depth: 32 residual blocks, 4 times the deepest of training",
    ),
    for_gpu(
        language_model(
            "bible_large",
            on.BIBLE,
            language_transformer(256, 4, 128),
            batch=32,
            length=128,
            steps=4000,
            vary={"activation": GELU},
            axis="size and length: 3.3 million parameters, width 256, depth 4, 128 bytes",
        )
    ),
)
"""Reported, never used to choose anything; each family differs from the other suites on its card's `axis`."""
