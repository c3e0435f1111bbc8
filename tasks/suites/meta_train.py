"""What an optimizer is meta-trained on."""

from __future__ import annotations

from tasks import sources as on
from tasks.base import TaskFamily
from tasks.config import Span, Vary, factor, fixed
from tasks.families import (
    autoencoder,
    band_limited,
    band_limited_slopes,
    classifier,
    contrastive,
    function_fit,
    language_model,
    linear_map,
    regressor,
    suite,
    taught,
    variational_autoencoder,
)
from tasks.losses import binary_cross_entropy, huber, poisson
from tasks.models import (
    GRU,
    adapters,
    convnet,
    factors,
    language_recurrent,
    language_transformer,
    mixture,
    mlp,
    residual_mlp,
    text_classifier,
    twins,
    variational,
    with_slopes,
)

_ANY = Span(0.0, 1.0)  # of the three activations
_IMAGES: Vary = {
    "scale": factor(0.5, 2.0),
    "head": factor(0.1, 1.5),
    "activation": _ANY,
    "output": factor(0.5, 2.0),
    "label_noise": Span(-0.25, 0.5),
    "input_noise": Span(-0.3, 0.7),
}
# Without normalisation a deep net with kernels far from critical does not train with any optimizer.
_PLAIN: Vary = {**_IMAGES, "scale": factor(0.75, 1.4), "activation": Span(0.0, 2 / 3)}
_TEXT: Vary = {
    "scale": factor(0.5, 2.0),
    "embed": factor(0.125, 8.0),
    "head": factor(0.02, 1.0),
    "activation": _ANY,
    "output": factor(0.7, 1.4),
}
_FIT: Vary = {
    "scale": factor(0.5, 2.0),
    "head": factor(0.1, 1.5),
    "activation": _ANY,
    "output": factor(0.3, 3.0),
    "label_noise": Span(-0.2, 0.3),
    "condition": Span(0.0, 3.0),
}
# Large batches of examples that can all be known: gradients vanish.
_CLEAN: Vary = {key: _IMAGES[key] for key in ("scale", "activation", "output")}
_TABLE: Vary = {**_IMAGES, "condition": Span(-0.5, 2.0)}

META_TRAIN: dict[str, TaskFamily] = suite(
    classifier("digits_mlp", on.DIGITS, mlp(64, 32, 10), batch=64, steps=300, vary=_IMAGES),
    classifier("digits_clean", on.DIGITS, mlp(64, 128, 128, 10), batch=128, steps=300, vary=_CLEAN),
    classifier(
        "digits_clean_512", on.DIGITS, mlp(64, 64, 64, 64, 10, norms=True), batch=512, steps=300, vary=_CLEAN
    ),
    classifier("digits_thin", on.DIGITS, mlp(64, 12, 12, 10), batch=64, steps=300, vary=_IMAGES),
    classifier("digits_deep", on.DIGITS, mlp(64, 40, 40, 40, 40, 10), batch=32, steps=400, vary=_IMAGES),
    classifier("digits_plain", on.DIGITS, mlp(64, *[24] * 9, 10), batch=32, steps=500, vary=_PLAIN),
    classifier("digits_wide", on.DIGITS, mlp(64, 256, 256, 10), batch=64, steps=300, vary=_IMAGES),
    classifier("digits_shallow", on.DIGITS, mlp(64, 384, 10), batch=32, steps=300, vary=_IMAGES),
    classifier(
        "digits_norm",
        on.DIGITS,
        mlp(64, 48, 48, 10, norms=True),
        batch=32,
        steps=300,
        vary={**_IMAGES, "head": fixed(0)},
    ),
    classifier(
        "digits_conv",
        on.DIGITS,
        convnet((8, 8), (8,), 10, window=3, stride=1, groups=8),
        batch=32,
        steps=400,
        vary={**_IMAGES, "input_noise": fixed(0)},
    ),
    classifier(
        "digits_adapters",
        on.FROZEN_DIGITS,
        adapters(64, 64, 64, 10, rank=4),
        batch=32,
        steps=300,
        vary=_IMAGES,
    ),
    autoencoder(
        "digits_autoencoder",
        on.DIGITS,
        mlp(64, 48, 12, 48, 64),
        batch=32,
        steps=400,
        vary={**_IMAGES, "label_noise": fixed(0)},
    ),
    variational_autoencoder(
        "digits_variational",
        on.DIGITS,
        variational(64, 48, 6),
        latent=6,
        batch=32,
        steps=400,
        vary={
            "scale": factor(0.5, 2.0),
            "head": factor(0.1, 1.5),
            "activation": _ANY,
            "output": factor(0.5, 2.0),
        },
    ),
    classifier("digits_experts", on.DIGITS, mixture(64, 24, 4, 10), batch=64, steps=300, vary=_IMAGES),
    regressor(
        "digits_poisson",
        on.DIGIT_HALVES,
        mlp(32, 64, 32),
        batch=48,
        steps=400,
        vary={key: _IMAGES[key] for key in ("scale", "head", "activation", "input_noise")},
        objective=poisson,
    ),
    contrastive(
        "digits_contrastive",
        on.DIGITS,
        twins(mlp(64, 48, 16)),
        batch=64,
        steps=400,
        vary={"scale": factor(0.5, 2.0), "head": factor(0.3, 3.0), "activation": _ANY},
    ),
    classifier("digits_bottleneck", on.DIGITS, mlp(64, 8, 1024, 10), batch=8, steps=300, vary=_IMAGES),
    classifier("digits_512", on.DIGITS, mlp(64, 512, 10), batch=256, steps=300, vary=_IMAGES),
    classifier("digits_deepest", on.DIGITS, mlp(64, *[20] * 16, 10), batch=32, steps=500, vary=_PLAIN),
    classifier("patches_mlp", on.PATCHES, mlp(192, 96, 64, 8), batch=64, steps=600, vary=_IMAGES),
    classifier(
        "patches_conv",
        on.PATCHES,
        convnet((8, 8), (12,), 8, window=3, stride=1, groups=3, colours=3),
        batch=16,
        steps=600,
        vary={**_IMAGES, "input_noise": fixed(0)},
    ),
    classifier(
        "patches_residual",
        on.PATCHES,
        residual_mlp(192, 48, 5, 8),
        batch=128,
        steps=600,
        vary=_IMAGES,
    ),
    classifier(
        "faces_sigmoid",
        on.FACES,
        mlp(625, 32, 1),
        batch=16,
        steps=200,
        vary=_IMAGES,
        objective=binary_cross_entropy,
    ),
    classifier(
        "names_gru",
        on.NAMES,
        text_classifier(GRU, 32, 20, unroll=16),
        batch=32,
        steps=800,
        vary={
            "scale": factor(0.5, 2.0),
            "embed": factor(0.2, 3.0),
            "head": factor(0.1, 1.5),
            "label_noise": Span(-0.25, 0.5),
        },
    ),
    taught(
        "teacher",
        on.CLOUD,
        mlp(24, 64, 64, 6),
        classes=6,
        batch=48,
        steps=600,
        vary={**_IMAGES, "condition": Span(-1.0, 2.0)},
    ),
    taught(
        "teacher_residual",
        on.CLOUD,
        residual_mlp(24, 40, 8, 6),
        classes=6,
        batch=256,
        steps=600,
        vary=_IMAGES,
    ),
    language_model(
        "topics_transformer",
        on.TOPICS,
        language_transformer(32, 2, 32),
        batch=8,
        length=32,
        steps=600,
        vary=_TEXT,
    ),
    language_model(
        "topics_transformer_wide",
        on.TOPICS,
        language_transformer(48, 1, 24),
        batch=12,
        length=24,
        steps=600,
        vary=_TEXT,
    ),
    language_model(
        "topics_tied",
        on.TOPICS,
        language_transformer(32, 1, 32, tied=True),
        batch=4,
        length=32,
        steps=600,
        vary=_TEXT,
    ),
    language_model(
        "topics_gru",
        on.TOPICS,
        language_recurrent(GRU, 32, unroll=16),
        batch=16,
        length=16,
        steps=600,
        vary={**_TEXT, "embed": factor(0.2, 3.0)},
    ),
    function_fit(
        "waves", on.PLANE, mlp(2, 32, 32, 32, 1, bias=0.5), band_limited, batch=64, steps=500, vary=_FIT
    ),
    function_fit(
        "waves_slopes",
        on.PLANE,
        with_slopes(mlp(2, 32, 32, 1, bias=0.5)),
        band_limited_slopes,
        batch=64,
        steps=500,
        vary={**_FIT, "activation": Span(1 / 3, 1.0)},  # the derivatives of a relu network have steps
    ),
    function_fit(
        "linear_map",
        on.CLOUD,
        mlp(24, 4),
        linear_map,
        batch=16,
        steps=300,
        vary={
            "head": fixed(0),
            "output": factor(0.3, 3.0),
            "label_noise": Span(0.0, 0.5),
            "condition": Span(0.0, 2.0),
        },
    ),
    classifier(
        "cancer_sigmoid",
        on.CANCER,
        mlp(30, 24, 1),
        batch=32,
        steps=200,
        vary={**_TABLE, "label_noise": Span(0.0, 0.3)},
        objective=binary_cross_entropy,
    ),
    classifier("wine_clean", on.WINE, mlp(13, 32, 32, 3), batch=32, steps=300, vary=_CLEAN),
    classifier(
        "wine", on.WINE, mlp(13, 16, 3), batch=24, steps=200, vary={**_TABLE, "label_noise": Span(0.0, 0.3)}
    ),
    regressor(
        "diabetes_huber",
        on.DIABETES,
        mlp(10, 24, 1),
        batch=32,
        steps=300,
        vary={**_TABLE, "output": factor(0.3, 3.0)},
        objective=huber,
    ),
    regressor(
        "ratings",
        on.RATINGS,
        factors(200, 150, 8),
        batch=64,
        steps=600,
        vary={"embed": factor(0.1, 1.0), "output": factor(0.5, 2.0), "label_noise": Span(0.0, 0.5)},
    ),
)
"""Cheap families that vary what a user varies; every member draws its own settings."""
