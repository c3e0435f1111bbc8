"""Estimators of the meta-gradient. A run chooses one by `TrainConfig.estimator`.

Noise is made from seeds wherever it is needed, and every device returns its share's scores, so that the
meta-gradient does not depend on how many devices there were.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from meta_train.config import TrainConfig
from meta_train.estimators.backprop import Backprop
from meta_train.estimators.base import Estimator, Keys, perturbation_scale
from meta_train.estimators.full import FullES, meta_gradient, pair_scores
from meta_train.estimators.mixture import Mixture
from meta_train.estimators.truncated import NoiseReuseES, PersistentES, TruncatedES
from tasks import TaskFamily

ESTIMATORS: Mapping[str, Callable[..., Estimator]] = MappingProxyType(
    {
        "es": FullES,
        "truncated-es": TruncatedES,
        "pes": PersistentES,
        "nres": NoiseReuseES,
        "backprop": Backprop,
    }
)
"""By name: (family, config, theta, scale of the perturbation or None) -> estimator."""

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Keys",
    "estimator_of",
    "meta_gradient",
    "pair_scores",
    "perturbation_scale",
]


def estimator_of(family: TaskFamily, config: TrainConfig, theta: Any) -> Estimator:
    """The estimator that a run's settings ask for."""
    if config.network_estimator:
        return Mixture(family, config, theta, ESTIMATORS[config.network_estimator])
    return ESTIMATORS[config.estimator_of(family.name)](family, config, theta)
