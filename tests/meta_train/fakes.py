"""Task families whose optimum, best learning rate and defects are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.baselines import Setting
from meta_train.evaluation import Optimizer
from tasks.base import Card, Split, TaskFamily

SIZE = 4


def family(name="bowl", loss=None, data=None, noise=0.0):
    """A quadratic bowl with curvature 1: plain gradient descent with rate 1 is there in one step."""

    def bowl(params, batch, config):
        return 0.1 + 0.5 * jnp.sum((params["w"] - config["target"] - batch) ** 2)

    card = Card(
        kind="bowl",
        architecture="a vector",
        source="none",
        licence="none",
        batch_size=1,
        steps=30,
        axis="",
        shapes=lambda: {"w": jax.ShapeDtypeStruct((SIZE,), jnp.float32)},
    )
    return TaskFamily(
        name=name,
        data=data or (lambda: Split(np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32))),
        sample=lambda key: {"target": jax.random.uniform(key, minval=1.0, maxval=2.0)},
        init=lambda key, config: {"w": 0.1 * jax.random.normal(key, (SIZE,))},
        batch=lambda key, part, config: part + noise * jax.random.normal(key, (SIZE,)),
        loss=loss or bowl,
        card=card,
    )


def nan_family(name="nan"):
    return family(name, loss=lambda params, batch, config: jnp.nan * params["w"].sum())


def broken_family(name="broken"):
    def data():
        raise RuntimeError("the disk is on fire")

    return family(name, data=data)


def _sgd_build(weights, setting, steps):
    return optax.sgd(setting.rate)


def sgd(rates=(), name="sgd"):
    """Plain gradient descent; without rates it is "learned", and its rate of 1 is the best there is."""
    grid = tuple(Setting(rate) for rate in rates)
    return Optimizer(name, _sgd_build, grid=grid, fingerprint=name, learned=not rates)
