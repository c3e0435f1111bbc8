"""Handwritten digits with Flax NNX: a convolutional network with dropout, trained by `nnx.Optimizer`.

python examples/nnx_digits.py
python examples/nnx_digits.py --adamw-rate 3e-3     # the same loop with optax.adamw and its schedule
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from learned_opt import flt_optimizer

BATCH = 64


class Classifier(nnx.Module):
    """Two convolutions and a head for images of 8 by 8."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.strided_conv = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 32, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.strided_conv(nnx.relu(self.conv(images[..., None]))))
        return self.head(self.dropout(x.reshape(len(x), -1)))


def optimizer_of(steps: int, adamw_rate: float | None) -> optax.GradientTransformation:
    if adamw_rate is None:
        return optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(total_steps=steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, adamw_rate, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


def loss_of(model: Classifier, images: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


@nnx.jit
def step(model: Classifier, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
    optimizer.update(model, nnx.grad(loss_of)(model, images, labels))


def train(steps: int, adamw_rate: float | None = None, seed: int = 0) -> tuple[float, float]:
    """Returns loss and accuracy on 450 digits that were not trained on."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32) / 16
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=450, random_state=0)
    model = Classifier(nnx.Rngs(seed))
    # Two views of the same parameters: with dropout and without.
    training, testing = nnx.view(model, deterministic=False), nnx.view(model, deterministic=True)
    optimizer = nnx.Optimizer(training, optimizer_of(steps, adamw_rate), wrt=nnx.Param)
    for rows in np.random.default_rng(seed).integers(len(x_train), size=(steps, BATCH)):
        step(training, optimizer, x_train[rows], y_train[rows])
    accuracy = jnp.mean(testing(x_test).argmax(-1) == y_test)
    return float(loss_of(testing, x_test, y_test)), float(accuracy)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="number of updates")
    parser.add_argument("--adamw-rate", type=float, help="use optax.adamw with this peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of parameters, batches and dropout")
    options = parser.parse_args(argv)
    loss, accuracy = train(options.steps, options.adamw_rate, options.seed)
    print(f"test loss {loss:.4f}, accuracy {accuracy:.1%} after {options.steps} steps")


if __name__ == "__main__":
    main()
