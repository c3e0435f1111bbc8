"""The mixture: whole runs estimate the laws, truncations the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from learned_opt import untrained
from meta_train.config import SIGMA, TrainConfig
from meta_train.estimators import Keys, estimator_of, perturbation_scale
from meta_train.estimators.full import FullES
from meta_train.estimators.truncated import PersistentES

from .fakes import family as bowl
from .tiny import OPTIMIZER, settings

CONFIG = settings(network_estimator="pes", truncation=25)
PAIRS = jnp.arange(4)


@pytest.mark.slow
def test_each_half_is_the_estimator_that_it_is_made_of() -> None:
    theta, _ = untrained(OPTIMIZER, jax.random.key(0))
    flat, keys, family = ravel_pytree(theta)[0], Keys.of(0, 1, 0), bowl(noise=0.3)
    arguments = keys, jnp.int32(50), family.data()
    truncated = keys, jnp.int32(CONFIG.truncation), family.data()
    laws = FullES(family, CONFIG, theta, perturbation_scale(theta, networks=False))
    networks = PersistentES(family, CONFIG, theta, perturbation_scale(theta, laws=False))
    of_laws, _ = jax.jit(laws.evaluate)(flat, (PAIRS, ()), *arguments)
    of_networks, kept = jax.jit(networks.evaluate)(
        flat, (PAIRS, networks.workers(4, truncated[-1])), *truncated
    )

    mixture = estimator_of(family, CONFIG, theta)
    scores, workers = jax.jit(mixture.evaluate)(flat, (PAIRS, mixture.workers(4, arguments[-1])), *arguments)
    found = mixture.gradient(scores, mixture.weighed(workers), keys)

    of_law = ravel_pytree(perturbation_scale(theta, networks=False))[0] > 0
    expected = (laws.gradient(of_laws, (), keys), networks.gradient(of_networks, kept.direction, keys))
    np.testing.assert_allclose(found, np.where(of_law, *expected), rtol=1e-4, atol=1e-5)
    assert np.abs(found[of_law]).min() > 0
    assert np.abs(found[~of_law]).min() > 0


@pytest.mark.slow
def test_each_family_has_the_meta_gradient_of_its_own_estimator() -> None:
    theta, _ = untrained(OPTIMIZER, jax.random.key(0))
    own = (("linear_map", "pes"), ("wine", "nres"))
    flat, keys, families = ravel_pytree(theta)[0], Keys.of(0, 1, 0), ("linear_map", "wine", "waves")
    config = settings(families=families, family_estimators=own, truncation=25)

    def gradient(config: TrainConfig, name: str) -> jax.Array:
        family = bowl(name, noise=0.3)
        estimator = estimator_of(family, config, theta)
        members = PAIRS, estimator.workers(4, family.data())
        scores, workers = jax.jit(estimator.evaluate)(flat, members, keys, jnp.int32(25), family.data())
        return estimator.gradient(scores, estimator.weighed(workers), keys)

    for name, estimator in (*own, ("waves", "es")):
        alone = settings(families=families, estimator=estimator, truncation=25)
        found = gradient(config, name)
        np.testing.assert_array_equal(found, gradient(alone, name))
        assert np.linalg.norm(found) > 0


def test_laws_and_networks_are_all_of_the_meta_parameters() -> None:
    theta, _ = untrained(OPTIMIZER, jax.random.key(0))
    halves = perturbation_scale(theta, laws=False), perturbation_scale(theta, networks=False)

    jax.tree.map(
        lambda a, b, both: np.testing.assert_array_equal(a + b, both), *halves, perturbation_scale(theta)
    )
    for module, group in halves[0].items():
        for name, scale in group.items():
            assert (np.asarray(scale) == 0).all() == (name in SIGMA), (module, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_estimator": "es"}, "expected '' or one of truncated-es, pes, nres, backprop"),
        ({"network_estimator": "pes", "estimator": "nres"}, "expected 'es' for the laws"),
        (
            {"network_estimator": "pes", "family_estimators": (("linear_map", "nres"),)},
            "expected 'es' for the laws",
        ),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
