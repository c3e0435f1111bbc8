"""Attention with learned Fourier relative positional encodings (arXiv 2302.01925)."""

from learned_opt.flt.attention import fourier_attention
from learned_opt.flt.draws import Draws, draw
from learned_opt.flt.encoding import Encodings, encode
from learned_opt.flt.kernels import Elu, FavorPlus, Features, Kernel, Relu, Softmax
from learned_opt.flt.layer import FourierAttention
from learned_opt.flt.spectra import GaussianMixture, LocalWindow, LorentzianMixture, ShiftInvariant
from learned_opt.flt.spectrum import Frequencies, Spectrum
from learned_opt.flt.streaming import attention_step, init_state
from learned_opt.flt.sums import State

__all__ = [
    "Draws",
    "Elu",
    "Encodings",
    "FavorPlus",
    "Features",
    "FourierAttention",
    "Frequencies",
    "GaussianMixture",
    "Kernel",
    "LocalWindow",
    "LorentzianMixture",
    "Relu",
    "ShiftInvariant",
    "Softmax",
    "Spectrum",
    "State",
    "attention_step",
    "draw",
    "encode",
    "fourier_attention",
    "init_state",
]
