"""A policy that acts in a simulated world, and what its acts cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tasks.base import Config, Params
from tasks.models.layers import Model

TRACK, TILT = 2.4, 0.2095
"""How far the cart may be from the middle, in m, and the pole from upright, in rad (12 degrees)."""
UNITS = (1.0, 2.0, 0.2, 2.0)
"""What the network takes for 1: m, m/s, rad, rad/s."""


def cart_pole(state: jax.Array, force: jax.Array) -> jax.Array:
    """One step of 0.02 s, by Euler's method, of a pole that is hinged on a cart (Barto et al. 1983).

    `state` [..., 4] is place, speed, angle and its speed; `force` [...] is in units of 10 N.
    """
    gravity, cart, pole, half, strength, step = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
    _, speed, angle, turn = jnp.moveaxis(state, -1, 0)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    push = (strength * force + pole * half * jnp.square(turn) * sin) / (cart + pole)
    twist = (gravity * sin - cos * push) / (half * (4.0 / 3.0 - pole * jnp.square(cos) / (cart + pole)))
    pull = push - pole * half * twist * cos / (cart + pole)
    return state + step * jnp.stack([speed, pull, turn, twist], axis=-1)


def acting(model: Model) -> Model:
    """A policy for `cart_pole` from a network of 4 inputs and 1 output, the logit of a push to the right.

    Inputs are a pair: starts [batch, 4] and uniform numbers [batch, steps], which choose the pushes. Outputs,
    [batch, steps] both, are each step's costs, 1 / steps from the fall on, and the pushes' log-probabilities
    (0 after the fall), of which alone the gradient is taken.
    """

    def logits(params: Params, states: jax.Array, config: Config) -> jax.Array:
        scaled = states / jnp.array(UNITS, jnp.float32)
        return config["output"] * model.apply(params, scaled.reshape(-1, 4), config).reshape(
            states.shape[:-1]
        )

    def apply(params: Params, pair: Any, config: Config) -> tuple[jax.Array, jax.Array]:
        starts, draws = pair
        frozen = lax.stop_gradient(params)

        def step(carry: Any, draw: jax.Array) -> tuple[Any, Any]:
            state, stands = carry
            right = draw < jax.nn.sigmoid(logits(frozen, state, config))
            after = cart_pole(state, jnp.where(right, 1.0, -1.0))
            still = stands & (jnp.abs(after[:, 0]) < TRACK) & (jnp.abs(after[:, 2]) < TILT)
            # A fallen pole stays where it is: its numbers would grow without bound.
            return (jnp.where(still[:, None], after, state), still), (state, right, stands, still)

        carry = (starts, jnp.ones(starts.shape[0], bool))
        states, right, stood, stands = (
            jnp.swapaxes(each, 0, 1) for each in lax.scan(step, carry, draws.T)[1]
        )
        signs = jnp.where(right, 1.0, -1.0)
        chosen = jnp.where(stood, -jax.nn.softplus(-signs * logits(params, states, config)), 0.0)
        return (1.0 - stands) / draws.shape[1], chosen

    return Model(model.init, apply, f"{model.text} that balances a pole on a cart")
