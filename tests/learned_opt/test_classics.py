"""Classical optimizers are configurations of the same Haiku module: exact oracles from optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import FLTConfig, Mode, flt_optimizer, untrained

STEPS, RATE = 50, 1e-2


def classical(modes: tuple[Mode, ...], read_out: list[float], epsilon: float, dtype: jnp.dtype):
    """Weights under which the network is a classical optimizer: no law, no rule, a fixed read-out."""
    config = FLTConfig(modes=modes, law=False, rule_width=0, epsilon=epsilon)
    theta, _ = untrained(config)
    theta = jax.tree.map(lambda x: np.asarray(x, dtype), theta)
    log_rates = [np.log(-np.log(np.asarray(mode.decay, dtype))) for mode in modes]
    theta["flt/~/memory"]["log_rate"] = np.asarray(log_rates, dtype)
    theta["flt/~/rule"]["read_out"] = np.asarray([read_out], dtype)
    return theta, config


B1, B2, B3, ALPHA, EPS = 0.9, 0.99, 0.995, 3.0, 1e-8
SQUARES = Mode("g2", B2)
CLASSICS = {
    "trace": ((Mode("g", B1, corrected=False),), [0.0, 1 / (1 - B1)], optax.sgd(RATE, momentum=B1)),
    "adam": ((Mode("g", B1), SQUARES), [0.0, 1.0], optax.adam(RATE, B1, B2, EPS)),
    "nadam": ((Mode("g", B1, read_ahead=True), SQUARES), [0.0, 1.0], optax.nadam(RATE, B1, B2, EPS)),
    "ademamix": (
        (Mode("g", B1), Mode("g", B3, corrected=False), SQUARES),
        [0.0, 1.0, ALPHA],
        optax.contrib.ademamix(RATE, B1, B2, B3, ALPHA, eps=EPS, weight_decay=0.0),
    ),
}


def trajectory(optimizer: optax.GradientTransformation, dtype: jnp.dtype) -> jax.Array:
    """All parameters after each of STEPS steps on a fixed sequence of gradients."""
    key = jax.random.key(1)
    params = {"w": jnp.ones((5, 3), dtype), "b": jnp.zeros((3,), dtype), "scalar": jnp.ones((), dtype)}
    state = optimizer.init(params)

    def step(carry, t):
        params, state = carry
        keys = dict(zip(params, jax.random.split(jax.random.fold_in(key, t), 3), strict=True))
        gradients = jax.tree.map(lambda p, k: p + jax.random.normal(k, p.shape, dtype), params, keys)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.concatenate([x.ravel() for x in jax.tree.leaves(params)])

    return jax.lax.scan(step, (params, state), jnp.arange(STEPS))[1]


@pytest.mark.parametrize("name", CLASSICS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-10), (jnp.float32, 5e-5)])
def test_classical_optimizers_are_configurations(name, dtype, tolerance):
    modes, read_out, oracle = CLASSICS[name]
    with jax.enable_x64(dtype == jnp.float64):
        optimizer = optax.chain(
            flt_optimizer(1.0, weights=classical(modes, read_out, EPS, dtype)), optax.scale(RATE)
        )
        np.testing.assert_allclose(
            trajectory(optimizer, dtype), trajectory(oracle, dtype), rtol=0, atol=tolerance
        )
