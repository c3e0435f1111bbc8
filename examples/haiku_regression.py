"""Disease progression of 442 patients with Haiku: an MLP with dropout, and a log of what the optimizer did.

python examples/haiku_regression.py
python examples/haiku_regression.py --log run.jsonl     # then: meta-train report run.jsonl
python examples/haiku_regression.py --adamw-rate 1e-2   # the same loop with optax.adamw and its schedule
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from learned_opt import diagnostics, flt_optimizer

BATCH, DROPOUT, LOGGED_EVERY = 32, 0.5, 5
WEIGHTS = "flt-v1"  # named, since the log names them: the default is the newest that ship


def optimizer_of(steps: int, adamw_rate: float | None) -> optax.GradientTransformation:
    if adamw_rate is None:
        return optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(weights=WEIGHTS, total_steps=steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, adamw_rate, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


def predict(x: jax.Array, dropout: float) -> jax.Array:
    return hk.nets.MLP([32, 32, 1])(x, dropout, hk.next_rng_key())[:, 0]


def train(
    steps: int, adamw_rate: float | None = None, seed: int = 0
) -> tuple[float, float, list[dict[str, Any]]]:
    """Returns the squared error on 100 other patients before and after, and the lines of a log."""
    features, targets = load_diabetes(return_X_y=True)
    split = train_test_split(features, targets, test_size=100, random_state=0)
    x_train, x_test, y_train, y_test = (jnp.asarray(part, jnp.float32) for part in split)
    x_train, x_test = ((x - x_train.mean(axis=0)) / x_train.std(axis=0) for x in (x_train, x_test))
    y_train, y_test = ((y - y_train.mean()) / y_train.std() for y in (y_train, y_test))
    network = hk.transform(predict)
    optimizer = optimizer_of(steps, adamw_rate)
    params = network.init(jax.random.key(seed), x_train[:1], 0.0)
    state = optimizer.init(params)
    names = [f"{module}/{name}" for module in sorted(params) for name in sorted(params[module])]
    log: list[dict[str, Any]] = []

    def loss_of(params: Any, key: Any, x: jax.Array, y: jax.Array, dropout: float) -> jax.Array:
        return jnp.mean((network.apply(params, key, x, dropout) - y) ** 2)

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array, rows: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, key, x_train[rows], y_train[rows], DROPOUT)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def test(params: Any) -> float:
        return float(loss_of(params, jax.random.key(0), x_test, y_test, 0.0))

    initial = test(params)
    keys = jax.random.split(jax.random.key(seed + 1), steps)
    batches = np.random.default_rng(seed).integers(len(x_train), size=(steps, BATCH))
    for index, (key, rows) in enumerate(zip(keys, batches, strict=True), start=1):
        params, state, loss = step(params, state, key, rows)
        if adamw_rate is None and (index % LOGGED_EVERY == 0 or index == steps):
            values = {name: np.asarray(value).tolist() for name, value in diagnostics(state).items()}
            log.append({"loss": float(loss), "tensors": names, "weights": WEIGHTS, **values})
    return initial, test(params), log


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="number of updates")
    parser.add_argument("--adamw-rate", type=float, help="use optax.adamw with this peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and batches")
    parser.add_argument("--log", help="write what the optimizer did to this file, one JSON object a line")
    options = parser.parse_args(argv)
    if options.log and options.adamw_rate is not None:
        parser.error("--log is of flt_optimizer: leave --adamw-rate out")
    initial, final, log = train(options.steps, options.adamw_rate, options.seed)
    print(f"test error {initial:.3f} before, {final:.3f} after {options.steps} steps")
    if options.log:
        with open(options.log, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in log)


if __name__ == "__main__":
    main()
