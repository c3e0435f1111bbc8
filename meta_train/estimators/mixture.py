"""Two estimators at once: one for the laws, another for the networks."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from meta_train.config import TrainConfig
from meta_train.estimators.base import Estimator, Keys, perturbation_scale
from meta_train.estimators.full import FullES
from meta_train.unroll import Score
from tasks import TaskFamily


class Mixture:
    """Whole runs estimate the meta-gradient of the laws, truncations that of the networks.

    A few exponents decide how a run ends, which only whole runs show, and evolution strategies see few
    numbers well. The hundreds of weights of the networks need an estimate that is less noisy, even if it is
    biased. Neither estimator perturbs what the other one estimates.

    Args:
      family: whose members are trained.
      config: of the run.
      theta: meta-parameters, for their structure.
      networks: makes the estimator of the networks: (family, config, theta, perturbation scale) -> it.
    """

    def __init__(self, family: TaskFamily, config: TrainConfig, theta: Any, networks: Any):
        self._laws = FullES(family, config, theta, perturbation_scale(theta, networks=False))
        scale = perturbation_scale(theta, laws=False)
        self._networks: Estimator = networks(family, config, theta, scale)
        self._is_network = ravel_pytree(scale)[0] > 0
        self._truncation = jnp.int32(config.truncation)

    def workers(self, pairs: int, data: Any) -> Any:
        """Those of the networks' estimator, beside its latest scores."""
        return self._networks.workers(pairs, data), Score(*[jnp.zeros((pairs, 2))] * len(Score._fields))

    def evaluate(
        self, flat: jax.Array, members: tuple[jax.Array, Any], keys: Keys, steps: jax.Array, data: Any
    ) -> tuple[Score, Any]:
        """See `Estimator`; the scores are those of whole runs."""
        pairs, (workers, _) = members
        scores, _ = self._laws.evaluate(flat, (pairs, ()), keys, steps, data)
        truncated, workers = self._networks.evaluate(flat, (pairs, workers), keys, self._truncation, data)
        return scores, (workers, truncated)

    def weighed(self, workers: Any) -> Any:
        """See `Estimator`."""
        kept, truncated = workers
        return self._networks.weighed(kept), truncated

    def gradient(self, scores: Score, weighed: Any, keys: Keys) -> jax.Array:
        """See `Estimator`."""
        directions, truncated = weighed
        laws = self._laws.gradient(scores, (), keys)
        return jnp.where(self._is_network, self._networks.gradient(truncated, directions, keys), laws)
