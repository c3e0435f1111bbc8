"""Estimators of the meta-gradient. A run chooses one by `TrainConfig.estimator`.

Noise is made from seeds wherever it is needed, and every device returns its share's scores, so that the
meta-gradient does not depend on how many devices there were.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from meta_train.estimators.backprop import Backprop
from meta_train.estimators.base import Estimator, Keys, perturbation_scale
from meta_train.estimators.full import FullES, meta_gradient, pair_scores
from meta_train.estimators.truncated import NoiseReuseES, PersistentES, TruncatedES

ESTIMATORS: Mapping[str, Callable[..., Estimator]] = MappingProxyType(
    {
        "es": FullES,
        "truncated-es": TruncatedES,
        "pes": PersistentES,
        "nres": NoiseReuseES,
        "backprop": Backprop,
    }
)
"""By name: (family, config, theta) -> estimator."""

__all__ = ["ESTIMATORS", "Estimator", "Keys", "meta_gradient", "pair_scores", "perturbation_scale"]
