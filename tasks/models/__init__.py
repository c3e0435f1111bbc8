"""The networks that tasks train, as pairs of pure functions."""

from tasks.models.conv import convnet
from tasks.models.layers import Model
from tasks.models.lowrank import adapters, factors
from tasks.models.mlp import mlp
from tasks.models.recurrent import GRU, LSTM, language_recurrent, row_classifier
from tasks.models.transformer import language_transformer, patch_transformer

__all__ = [
    "GRU",
    "LSTM",
    "Model",
    "adapters",
    "convnet",
    "factors",
    "language_recurrent",
    "language_transformer",
    "mlp",
    "patch_transformer",
    "row_classifier",
]
