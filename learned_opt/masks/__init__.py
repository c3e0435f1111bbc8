"""Masks for linear attention that multiply in less than quadratic time (arXiv 2107.07999)."""

from learned_opt.masks.attention import (
    Attended,
    MaskedAttention,
    elu_features,
    masked_attention,
    relu_features,
)
from learned_opt.masks.base import Mask
from learned_opt.masks.diffusion import Diffusion
from learned_opt.masks.exponential import Exponential
from learned_opt.masks.fourier import Fourier
from learned_opt.masks.graph import Graph
from learned_opt.masks.kronecker import Kronecker
from learned_opt.masks.random_walk import RandomWalk
from learned_opt.masks.toeplitz import BlockToeplitz, Toeplitz
from learned_opt.masks.tree import Tree

__all__ = [
    "Attended",
    "BlockToeplitz",
    "Diffusion",
    "Exponential",
    "Fourier",
    "Graph",
    "Kronecker",
    "Mask",
    "MaskedAttention",
    "RandomWalk",
    "Toeplitz",
    "Tree",
    "elu_features",
    "masked_attention",
    "relu_features",
]
