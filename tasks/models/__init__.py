"""The networks that tasks train, as pairs of pure functions."""

from tasks.models.control import acting
from tasks.models.conv import convnet
from tasks.models.experts import mixture
from tasks.models.graph import point_network
from tasks.models.layers import Model
from tasks.models.lowrank import adapters, factors
from tasks.models.mlp import mlp, twins, variational, with_slopes
from tasks.models.recurrent import GRU, LSTM, language_recurrent, row_classifier, text_classifier
from tasks.models.residual import residual_mlp
from tasks.models.transformer import language_transformer, patch_transformer

__all__ = [
    "GRU",
    "LSTM",
    "Model",
    "acting",
    "adapters",
    "convnet",
    "factors",
    "language_recurrent",
    "language_transformer",
    "mixture",
    "mlp",
    "patch_transformer",
    "point_network",
    "residual_mlp",
    "row_classifier",
    "text_classifier",
    "twins",
    "variational",
    "with_slopes",
]
