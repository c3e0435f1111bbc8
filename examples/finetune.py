"""Fine-tuning with plain JAX: a network that knows the digits 0 to 4 learns 5 to 9 by low-rank adapters.

python examples/finetune.py                     # adapters and a new head; the trunk is frozen
python examples/finetune.py --bfloat16          # adapters and head kept in bfloat16, rounded stochastically
python examples/finetune.py --adamw-rate 1e-2   # the same adapters with optax.adamw and its schedule
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from learned_opt import apply_updates, flt_optimizer

BATCH, WIDTH, RANK = 64, 64, 4  # an image has 64 pixels, too
FREE = ("adapters", "head")  # all else is frozen


def load(new: bool) -> tuple[Any, Any]:
    """Images, and labels from 0: of the digits 5 to 9 if `new`, else 0 to 4. 200 are for the test."""
    images, labels = load_digits(return_X_y=True)
    wanted = (labels >= 5) == new
    images, labels = (images[wanted] / 16).astype(np.float32), labels[wanted] % 5
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=200, random_state=0)
    return (x_train, y_train), (x_test, y_test)


def init(key: jax.Array) -> Any:
    keys = jax.random.split(key)
    trunk = jax.random.normal(keys[0], (2, WIDTH, WIDTH))
    down = jax.random.normal(keys[1], (2, WIDTH, RANK))
    return {
        "trunk": list(trunk * (2 / WIDTH) ** 0.5),
        "adapters": [{"down": each / WIDTH**0.5, "up": jnp.zeros((RANK, WIDTH))} for each in down],
        "head": jnp.zeros((WIDTH, 5)),
    }


def loss_of(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = images
    for kernel, adapter in zip(params["trunk"], params["adapters"], strict=True):
        x = jax.nn.relu(x @ kernel + x @ adapter["down"] @ adapter["up"])
    logits = (x @ params["head"]).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def only(free: Sequence[str], optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` for these entries of the parameters; the others get zeros, and no state."""

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key in free, params)

    return optax.partition({True: optimizer, False: optax.set_to_zero()}, labels)


def fit(params: Any, optimizer: optax.GradientTransformation, data: Any, steps: int, seed: int) -> Any:
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        updates, state = optimizer.update(jax.grad(loss_of)(params, images, labels), state, params)
        # As optax.apply_updates, but small updates of bfloat16 parameters are not lost.
        return apply_updates(params, updates, key), state

    images, labels = data
    batches = np.random.default_rng(seed).integers(len(images), size=(steps, BATCH))
    for key, rows in zip(jax.random.split(jax.random.key(seed), steps), batches, strict=True):
        params, state = step(params, state, key, images[rows], labels[rows])
    return params


def optimizer_of(steps: int, adamw_rate: float | None = None) -> optax.GradientTransformation:
    if adamw_rate is None:
        return optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(total_steps=steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, adamw_rate, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


def pretrain(steps: int, seed: int = 0) -> tuple[float, Any]:
    """Returns the loss on 200 digits from 0 to 4, and the parameters with a new head."""
    data, test = load(new=False)
    params = fit(init(jax.random.key(seed)), only(("trunk", "head"), optax.adam(3e-3)), data, steps, seed)
    return float(loss_of(params, *test)), params | {"head": jnp.zeros_like(params["head"])}


def train(
    params: Any, steps: int, adamw_rate: float | None = None, bfloat16: bool = False, seed: int = 0
) -> tuple[float, Any]:
    """Returns the loss on 200 digits from 5 to 9, and the parameters."""
    data, test = load(new=True)
    if bfloat16:
        cast = {name: jax.tree.map(lambda p: p.astype(jnp.bfloat16), params[name]) for name in FREE}
        params = params | cast
    params = fit(params, only(FREE, optimizer_of(steps, adamw_rate)), data, steps, seed + 1)
    return float(loss_of(params, *test)), params


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="number of updates of the adapters")
    parser.add_argument("--adamw-rate", type=float, help="use optax.adamw with this peak learning rate")
    parser.add_argument("--bfloat16", action="store_true", help="keep adapters and head in bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and batches")
    options = parser.parse_args(argv)
    known, params = pretrain(200, options.seed)
    new, tuned = train(params, options.steps, options.adamw_rate, options.bfloat16, options.seed)
    same = all(map(np.array_equal, params["trunk"], tuned["trunk"]))
    print(f"test loss {known:.4f} on 0 to 4 before, {new:.4f} on 5 to 9 after {options.steps} steps")
    print(f"the trunk is {'as it was, bit for bit' if same else 'CHANGED'}")


if __name__ == "__main__":
    main()
