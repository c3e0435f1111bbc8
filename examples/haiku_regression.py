"""Disease progression of 442 patients with Haiku: no rate to choose, and a look into the optimizer.

python examples/haiku_regression.py
"""

import argparse
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes

from learned_opt import diagnostics, flt_optimizer

BATCH = 32


def train(steps: int, seed: int = 0) -> tuple[float, float, Any]:
    """Returns the mean squared error (the targets have variance 1) before and after, and the diagnostics."""
    features, targets = load_diabetes(return_X_y=True)
    x = jnp.asarray(features / features.std(axis=0), jnp.float32)
    y = jnp.asarray((targets - targets.mean()) / targets.std(), jnp.float32)
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([32, 32, 1])(x)[:, 0]))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(total_steps=steps))
    params = network.init(jax.random.key(seed), x[:1])
    state = optimizer.init(params)

    def loss_of(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((network.apply(params, x) - y) ** 2)

    @jax.jit
    def step(params: Any, state: Any, rows: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss_of)(params, x[rows], y[rows]), state, params)
        return optax.apply_updates(params, updates), state

    initial = float(loss_of(params, x, y))
    for rows in np.random.default_rng(seed).integers(len(x), size=(steps, BATCH)):
        params, state = step(params, state, rows)
    return initial, float(loss_of(params, x, y)), diagnostics(state)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="number of updates")
    options = parser.parse_args(argv)
    initial, final, seen = train(options.steps)
    print(f"squared error {initial:.3f} before, {final:.3f} after {options.steps} steps")
    print(f"orthogonal share of each tensor: {np.round(seen['blend'], 2)}")
    print(f"signal to noise of each tensor:  {np.round(seen['signal_to_noise'], 2)}")


if __name__ == "__main__":
    main()
