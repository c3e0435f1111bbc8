"""Augmented members: other coordinates and units, noise, low precision; the task is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from tasks.augment import Augmentation, augmented
from tasks.suites import META_TRAIN

FAMILY = META_TRAIN["wine"]
TRAIN = FAMILY.data().train


@jax.jit
def seen(key, config, plain):
    """Loss and gradient of a family's member at its start, with its parameters, for `config` of `family`."""
    return jax.value_and_grad(FAMILY.loss)(plain, FAMILY.batch(key, TRAIN, config), config)


def member(share, seed=0, **how):
    """(key, config, parameters, loss, gradient) of an augmented member."""
    family, key = augmented(FAMILY, share, Augmentation(**how)), random.key(seed)

    @jax.jit
    def run(key):
        config = family.sample(key)
        params = family.init(key, config)
        batch = family.batch(key, TRAIN, config)
        return (config, params, *jax.value_and_grad(family.loss)(params, batch, config))

    return key, *run(key)


def plain_config(config):
    return {name: config[name] for name in FAMILY.sample(random.key(0))}


def test_without_a_share_nothing_changes():
    key, config, params, loss, gradient = member(0.0)
    start = jax.jit(FAMILY.init)(key, plain_config(config))
    expected, slope = seen(key, plain_config(config), start)

    jax.tree.map(np.testing.assert_array_equal, params, start)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient, slope)


def test_coordinates_and_unit_change_but_not_the_network():
    key, config, params, loss, gradient = member(1.0, decades=0.5, noise=0.0, rounded=0.0)
    start = jax.jit(FAMILY.init)(key, plain_config(config))
    expected, slope = seen(key, plain_config(config), start)
    unit = float(config["unit"])

    assert abs(np.log10(unit)) > 0.1
    np.testing.assert_allclose(loss, unit * expected, rtol=1e-5)
    kernel = params["hidden"][0]["kernel"]
    factors = start["hidden"][0]["kernel"] / kernel
    assert np.std(np.log10(factors)) > 0.01
    np.testing.assert_allclose(
        gradient["hidden"][0]["kernel"],
        unit * factors * slope["hidden"][0]["kernel"],
        rtol=1e-3,
        atol=1e-6 * unit,
    )


def test_noise_is_as_large_as_it_says_and_of_mean_zero():
    family = augmented(FAMILY, 1.0, Augmentation(decades=0.0, unit=0.0, rounded=0.0))
    config = family.sample(random.key(1))
    params = family.init(random.key(1), config)
    batch = family.batch(random.key(2), TRAIN, config)

    def gradient(key):
        return jax.grad(family.loss)(params, {**batch, "noise": key}, config)["hidden"][0]["kernel"]

    found = jax.jit(jax.vmap(gradient))(random.split(random.key(3), 400))
    clean = jax.grad(FAMILY.loss)(params, {k: batch[k] for k in "xy"}, config)["hidden"][0]["kernel"]
    size = float(config["gradient_noise"] * jnp.sqrt(jnp.mean(clean**2)))

    assert size > 0
    errors = np.asarray(found - clean)
    assert np.std(errors) == pytest.approx(size, rel=0.05)
    assert np.abs(errors.mean(0)).max() < 5 * size / np.sqrt(400)


def test_rounded_members_see_bfloat16():
    key, config, params, loss, _ = member(1.0, decades=0.0, unit=0.0, noise=0.0, rounded=1.0)
    coarse = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)

    np.testing.assert_allclose(loss, seen(key, plain_config(config), coarse)[0], rtol=1e-6)
    assert float(loss) != float(seen(key, plain_config(config), params)[0])


def test_a_share_of_the_members_is_augmented():
    family = augmented(FAMILY, 0.3)
    configs = jax.vmap(family.sample)(random.split(random.key(0), 2000))

    assert 0.25 < float(configs["augmented"].mean()) < 0.35
    untouched = configs["augmented"] == 0
    assert (configs["unit"][untouched] == 1).all()
    assert (configs["gradient_noise"][untouched] == 0).all()
    assert (configs["rounded"][untouched] == 0).all()
    assert float(jnp.abs(jnp.log10(configs["unit"])).max()) <= 3.0


def test_a_share_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"share=1\.5: expected a number from 0 to 1"):
        augmented(FAMILY, 1.5)
