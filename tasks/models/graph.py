"""A network on points in space, such as the atoms of a molecule."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tasks.base import Config, Params
from tasks.models.layers import (
    Model,
    Normal,
    activate,
    dense,
    drawn,
    hidden_gain,
    kernel,
    linear,
    lookup,
    norm,
    rms_normalise,
)

CENTRES = 8
SPACING = 0.5


def point_network(points: int, kinds: int, width: int, depth: int, outputs: int) -> Model:
    """Continuous filters over the distances between points (Schütt et al. 2017), then a sum over points.

    Each block reads, at every point, sums of the others' states weighed by Gaussians of their distances, and
    itself among them. Inputs are [batch, points + points²]: kinds in 1 to `kinds`, 0 where there is no point,
    then distances. Outputs are [batch, outputs].
    """

    def block(config: Config) -> Params:
        return {
            "norm": norm(CENTRES * width, bias=False),
            "up": dense(CENTRES * width, width, hidden_gain(config)),
            "down": {"kernel": kernel(width, width, gain=depth**-0.5)},
        }

    def start(config: Config) -> Params:
        return {
            "embed": Normal((kinds + 1, width), config["embed"]),
            "blocks": [block(config) for _ in range(depth)],
            "head": dense(width, outputs, config["head"]),
        }

    def apply(params: Params, x: jax.Array, config: Config) -> jax.Array:
        index = x[:, :points].astype(jnp.int32)
        there = (index > 0).astype(x.dtype)[..., None]
        distances = x[:, points:].reshape(-1, points, points, 1)
        offsets = distances / SPACING - jnp.arange(CENTRES, dtype=x.dtype)
        filters = jnp.exp(-0.5 * jnp.square(offsets))
        states = lookup(params["embed"], index)
        for layer in params["blocks"]:
            sums = jnp.einsum("bijc,bjw->bicw", filters, states * there)
            messages = rms_normalise(layer["norm"], sums.reshape(*states.shape[:2], -1))
            hidden = activate(linear(layer["up"], messages), config)
            states = states + hidden @ layer["down"]["kernel"]
        # A sum over atoms, as energies are, in a unit that keeps it of about unit size at the start.
        return (linear(params["head"], states) * there).sum(1) / points

    return Model(drawn(start), apply, f"continuous filters on {points} points, width {width}, {depth} blocks")
