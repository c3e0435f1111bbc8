"""The next pixel of a photograph with Equinox: a GRU reads the rows of a picture from left to right.

python examples/equinox_photo.py
python examples/equinox_photo.py --adamw-rate 3e-3     # the same loop with optax.adamw and its schedule
"""

import argparse
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_sample_image

from learned_opt import flt_optimizer

BATCH, LENGTH, WIDTH = 32, 32, 48


class Model(eqx.Module):
    """Predicts each pixel of a row from those before it."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(3, WIDTH, key=keys[0])
        self.head = eqx.nn.Linear(WIDTH, 3, key=keys[1])

    def __call__(self, pixels: jax.Array) -> jax.Array:
        def read(hidden: jax.Array, pixel: jax.Array) -> tuple[jax.Array, jax.Array]:
            hidden = self.cell(pixel, hidden)
            return hidden, hidden

        _, states = jax.lax.scan(read, jnp.zeros(WIDTH), pixels)
        return jax.vmap(self.head)(states)


def load() -> tuple[np.ndarray, np.ndarray]:
    """Pieces of rows, 32 pixels and one, in deviations; the lowest tenth of the rows is for the test."""
    photo = load_sample_image("china.jpg").astype(np.float32)
    rows, columns, _ = photo.shape
    pieces = photo[:, : columns // (LENGTH + 1) * (LENGTH + 1)].reshape(rows, -1, LENGTH + 1, 3)
    train, test = map(np.concatenate, np.split(pieces, [rows * 9 // 10]))
    return (train - train.mean()) / train.std(), (test - train.mean()) / train.std()


def optimizer_of(steps: int, adamw_rate: float | None) -> optax.GradientTransformation:
    if adamw_rate is None:
        return optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(total_steps=steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, adamw_rate, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


@eqx.filter_jit
def loss_of(model: Model, pieces: jax.Array) -> jax.Array:
    return jnp.mean((jax.vmap(model)(pieces[:, :-1]) - pieces[:, 1:]) ** 2)


def train(steps: int, adamw_rate: float | None = None, seed: int = 0) -> tuple[float, float]:
    """Returns the squared error on rows that were not trained on, and that of copying the pixel before."""
    train_pieces, test_pieces = load()
    model, optimizer = Model(jax.random.key(seed)), optimizer_of(steps, adamw_rate)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all")
    def step(model: Model, state: optax.OptState, pieces: jax.Array) -> tuple[Model, optax.OptState]:
        grads = eqx.filter_grad(loss_of)(model, pieces)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    for rows in np.random.default_rng(seed).integers(len(train_pieces), size=(steps, BATCH)):
        model, state = step(model, state, train_pieces[rows])
    copied = np.mean((test_pieces[:, :-1] - test_pieces[:, 1:]) ** 2)
    return float(loss_of(model, test_pieces)), float(copied)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="number of updates")
    parser.add_argument("--adamw-rate", type=float, help="use optax.adamw with this peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and batches")
    options = parser.parse_args(argv)
    loss, copied = train(options.steps, options.adamw_rate, options.seed)
    print(f"test error {loss:.4f} after {options.steps} steps; copying the pixel before: {copied:.4f}")


if __name__ == "__main__":
    main()
