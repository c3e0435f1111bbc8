"""A learned optimizer for optax: the Fourier-Learner Transformer."""

from learned_opt.config import FLTConfig, Mode
from learned_opt.geometry import Geometry, describe, geometry_of
from learned_opt.optimizer import untrained
from learned_opt.optimizer.rounding import apply_updates
from learned_opt.optimizer.transform import FLTState, diagnostics, flt_optimizer, scale_by_flt
from learned_opt.weights import load_weights

__all__ = [
    "FLTConfig",
    "FLTState",
    "Geometry",
    "Mode",
    "apply_updates",
    "describe",
    "diagnostics",
    "flt_optimizer",
    "geometry_of",
    "load_weights",
    "scale_by_flt",
    "untrained",
]
