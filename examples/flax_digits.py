"""Handwritten digits with Flax: the one line that differs from a loop with Adam is the optimizer.

python examples/flax_digits.py
python examples/flax_digits.py --adamw-rate 3e-3     # the same loop with optax.adamw and its schedule
"""

import argparse
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from learned_opt import flt_optimizer

BATCH = 64


class Classifier(nn.Module):
    """A small multilayer perceptron with layer norm."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1)
        for width in (128, 128):
            x = nn.relu(nn.LayerNorm()(nn.Dense(width)(x)))
        return nn.Dense(10)(x)


def optimizer(steps: int, adamw_rate: float | None) -> optax.GradientTransformationExtraArgs:
    if adamw_rate is None:
        return optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(total_steps=steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, adamw_rate, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


def train(steps: int, adamw_rate: float | None = None, seed: int = 0) -> tuple[float, float]:
    """Returns loss and accuracy on 450 digits that were not trained on."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images.astype(np.float32) / 16, labels, test_size=450, random_state=0)
    x_train, x_test, y_train, y_test = map(jnp.asarray, split)
    model, chain = Classifier(), optimizer(steps, adamw_rate)
    params = model.init(jax.random.key(seed), x_train[:1])
    state = chain.init(params)

    def loss_of(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        rows = jax.random.randint(key, (BATCH,), 0, len(x_train))
        grads = jax.grad(loss_of)(params, x_train[rows], y_train[rows])
        updates, state = chain.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for key in jax.random.split(jax.random.key(seed + 1), steps):
        params, state = step(params, state, key)
    accuracy = jnp.mean(model.apply(params, x_test).argmax(-1) == y_test)
    return float(loss_of(params, x_test, y_test)), float(accuracy)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="number of updates")
    parser.add_argument("--adamw-rate", type=float, help="use optax.adamw with this peak learning rate")
    options = parser.parse_args(argv)
    loss, accuracy = train(options.steps, options.adamw_rate)
    print(f"test loss {loss:.4f}, accuracy {accuracy:.1%} after {options.steps} steps")


if __name__ == "__main__":
    main()
