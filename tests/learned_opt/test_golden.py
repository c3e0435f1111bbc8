"""Shipped weights never change what they do: golden trajectories, checked across releases and JAX versions.

In float64, because training amplifies the rounding of float32 to 1e-3 within 20 steps. The direction in the
state is bfloat16, one bit of which may still flip: hence no single updates after ten steps, only the loss.

`python tests/learned_opt/test_golden.py NAME` prints the row of newly shipped weights.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import flt_optimizer, weights

STEPS = 20
RECORDED = (0, 4, 9)  # steps whose updates are compared


class Golden(NamedTuple):
    """A trajectory of `STEPS` steps with the horizon known, and one with it unknown."""

    updates: tuple[dict[str, list[float]], ...]  # at RECORDED: the first three entries of each leaf
    loss: float  # after all steps
    anytime_loss: float  # after half of them: steps that do not decay amplify rounding tenfold in two steps


FIRST = {
    "bias": [0.018265209, 0.018263603, -0.018242253],
    "gain": [-0.015888507],
    "kernel": [-0.076894293, -0.04124326, -0.040288253],
    "out": [-0.063668547, -0.044755159, 0.043352826],
}  # no two weights differ before there is a history

GOLDEN = {
    "flt-v0": Golden(
        updates=(
            FIRST,
            {
                "bias": [0.012258223, 0.033474587, 0.033725319],
                "gain": [0.02700077],
                "kernel": [0.011192452, -0.084101267, -0.12561456],
                "out": [-0.084519579, -0.051024087, 0.073194514],
            },
            {
                "bias": [-0.018492905, 0.018097201, 0.029583863],
                "gain": [-0.0081298142],
                "kernel": [-0.042621787, -0.055231143, 0.033870851],
                "out": [-0.027641886, -0.016664851, 0.027770903],
            },
        ),
        loss=0.0076614319,
        anytime_loss=0.071737452,
    ),
    "flt-v1": Golden(
        updates=(
            FIRST,
            {
                "bias": [0.012258223, 0.033474587, 0.033725319],
                "gain": [0.02700077],
                "kernel": [0.011192452, -0.084101267, -0.12561456],
                "out": [-0.084519579, -0.051024087, 0.073194514],
            },
            {
                "bias": [-0.018648198, 0.018228695, 0.029812364],
                "gain": [-0.0081791749],
                "kernel": [-0.042392856, -0.055481824, 0.033634589],
                "out": [-0.027667151, -0.017169359, 0.028195845],
            },
        ),
        loss=0.0072965598,
        anytime_loss=0.071828573,
    ),
}


def _inputs() -> jax.Array:
    return jnp.sin(jnp.arange(48.0).reshape(8, 6) ** 1.5)


def _params() -> dict[str, jax.Array]:
    return {
        "bias": jnp.linspace(-0.2, 0.2, 5),
        "gain": jnp.asarray(0.8),
        "kernel": jnp.cos(jnp.arange(30.0).reshape(6, 5) * 1.7) / 2,
        "out": jnp.sin(jnp.arange(15.0).reshape(5, 3) * 2.3) / 2,
    }


def _loss(params: dict[str, jax.Array]) -> jax.Array:
    hidden = jnp.tanh(_inputs() @ params["kernel"] + params["bias"])
    targets = jnp.cos(jnp.arange(24.0).reshape(8, 3))
    return jnp.mean((params["gain"] * hidden @ params["out"] - targets) ** 2)


def _trajectory(
    step: Any, state: Any, total_steps: float, steps: int
) -> tuple[list[dict[str, jax.Array]], jax.Array]:
    params, history = _params(), []
    for _ in range(steps):
        params, state, updates = step(params, state, total_steps)
        history.append(updates)
    return history, _loss(params)


@jax.enable_x64(True)
def _measured(name: str) -> Golden:
    @jax.jit
    def step(params, state, total_steps):
        optimizer = flt_optimizer(weights=name, total_steps=total_steps)
        updates, state = optimizer.update(jax.grad(_loss)(params), state, params)
        return optax.apply_updates(params, updates), state, updates

    start = flt_optimizer(weights=name).init(_params())
    history, loss = _trajectory(step, start, float(STEPS), STEPS)
    updates = tuple(
        {leaf: [float(f"{x:.8g}") for x in np.ravel(history[at][leaf])[:3]] for leaf in history[at]}
        for at in RECORDED
    )
    _, anytime_loss = _trajectory(step, start, np.inf, STEPS // 2)
    return Golden(updates, float(f"{loss:.8g}"), float(f"{anytime_loss:.8g}"))


@pytest.mark.parametrize("name", weights.names())
def test_shipped_weights_repeat_their_golden_trajectory(name):
    measured, golden = _measured(name), GOLDEN[name]
    for step, at_step, expected in zip(RECORDED, measured.updates, golden.updates, strict=True):
        assert at_step.keys() == expected.keys()
        for leaf, values in expected.items():
            message = f"step {step}, {leaf}"
            np.testing.assert_allclose(at_step[leaf], values, rtol=0, atol=1e-6, err_msg=message)
    np.testing.assert_allclose(measured.loss, golden.loss, rtol=1e-3)
    np.testing.assert_allclose(measured.anytime_loss, golden.anytime_loss, rtol=1e-3)


if __name__ == "__main__":
    print(_measured(sys.argv[1]))
