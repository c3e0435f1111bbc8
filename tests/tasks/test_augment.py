"""Augmented members: other coordinates and units, noise, low precision; the task is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from tasks.augment import Augmentation, augmented
from tasks.base import Card, Split, TaskFamily

PART = np.linspace(-1.0, 1.0, 24, dtype=np.float32).reshape(6, 4)
CARD = Card("regression", "a matrix", "none", "none", 6, 10, "", lambda: {})


def loss(params, batch, config):
    errors = batch["x"] @ params["w"] + params["b"] - config["target"]
    return 0.1 + jnp.mean(errors**2)


FAMILY = TaskFamily(
    name="line",
    data=lambda: Split(PART, PART),
    sample=lambda key: {"key": key, "target": random.normal(key)},
    init=lambda key, config: {"w": random.normal(key, (4, 3)), "b": jnp.ones(3)},
    batch=lambda key, part, config: {"x": part + random.normal(key, part.shape)},
    loss=loss,
    card=CARD,
)


def member(share, **how):
    """An augmented member: its config, start, loss and gradient, and the same of the plain family."""
    family, key = augmented(FAMILY, share, Augmentation(**how)), random.key(3)
    found = []
    for each in (family, FAMILY):
        config = family.sample(key)
        params = each.init(key, config)
        batch = each.batch(key, PART, config)
        found.append((params, *jax.value_and_grad(each.loss)(params, batch, config)))
    return config, *found


def test_without_a_share_nothing_changes():
    _, found, plain = member(0.0)

    jax.tree.map(np.testing.assert_array_equal, found, plain)


def test_coordinates_and_unit_change_but_not_the_network():
    config, found, plain = member(1.0, decades=0.5, noise=0.0, rounded=0.0)
    (params, loss, gradient), (start, expected, slope) = found, plain
    unit = float(config["unit"])

    assert abs(np.log10(unit)) > 0.1
    np.testing.assert_allclose(loss, unit * expected, rtol=1e-5)
    factors = {name: start[name] / params[name] for name in start}
    assert np.std(np.log10(factors["w"])) > 0.01
    for name in start:
        np.testing.assert_allclose(gradient[name], unit * factors[name] * slope[name], rtol=1e-4)


def test_noise_is_as_large_as_it_says_and_of_mean_zero():
    family = augmented(FAMILY, 1.0, Augmentation(decades=0.0, unit=0.0, rounded=0.0))
    config = family.sample(random.key(1))
    params = family.init(random.key(1), config)
    batch = family.batch(random.key(2), PART, config)

    def gradient(key):
        return jax.grad(family.loss)(params, {**batch, "noise": key}, config)["w"]

    found = jax.jit(jax.vmap(gradient))(random.split(random.key(3), 400))
    clean = jax.grad(FAMILY.loss)(params, batch, config)["w"]
    size = float(config["gradient_noise"] * jnp.sqrt(jnp.mean(clean**2)))

    assert size > 0
    errors = np.asarray(found - clean)
    assert np.std(errors) == pytest.approx(size, rel=0.05)
    assert np.abs(errors.mean(0)).max() < 5 * size / np.sqrt(400)


def test_rounded_members_see_bfloat16():
    config, (params, found, _), (_, plain, _) = member(1.0, decades=0.0, unit=0.0, noise=0.0, rounded=1.0)
    coarse = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    batch = FAMILY.batch(random.key(3), PART, config)

    np.testing.assert_allclose(found, loss(coarse, batch, config), rtol=1e-6)
    assert float(found) != float(plain)


def test_a_share_of_the_members_is_augmented():
    configs = jax.vmap(augmented(FAMILY, 0.3).sample)(random.split(random.key(0), 2000))

    assert 0.25 < float(configs["augmented"].mean()) < 0.35
    untouched = configs["augmented"] == 0
    assert (configs["unit"][untouched] == 1).all()
    assert (configs["gradient_noise"][untouched] == 0).all()
    assert (configs["rounded"][untouched] == 0).all()
    assert float(jnp.abs(jnp.log10(configs["unit"])).max()) <= 3.0


def test_a_share_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"share=1\.5: expected a number from 0 to 1"):
        augmented(FAMILY, 1.5)
