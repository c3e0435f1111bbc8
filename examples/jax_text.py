"""The next byte of a text with plain JAX: a transformer with stacked layers, and checkpoints by Orbax.

python examples/jax_text.py
python examples/jax_text.py --folder /tmp/text --stop-at 270    # as if it were killed there
python examples/jax_text.py --folder /tmp/text                  # goes on, to the very same end
python examples/jax_text.py --adamw-rate 3e-3                   # the same loop with optax.adamw
"""

import argparse
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from learned_opt import describe, flt_optimizer

BATCH, PIECE, LAYERS, HEADS, SIZE, SAVED_EVERY = 16, 65, 2, 4, 16, 100


def init(key: jax.Array, width: int = HEADS * SIZE) -> Any:
    shapes = {
        "embed": {"bytes": (128, width), "places": (PIECE - 1, width)},
        "layers": {  # one array for all layers, and one scan over them
            **dict.fromkeys(("query", "key", "value"), (LAYERS, width, HEADS, SIZE)),
            "out": (LAYERS, HEADS, SIZE, width),
            "up": (LAYERS, width, width),
            "down": (LAYERS, width, width),
        },
        "head": (width, 128),
    }
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
    keys = jax.random.split(key, len(leaves))
    normal = [jax.random.normal(*each) / width**0.5 for each in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, normal)


def logits_of(params: Any, text: jax.Array) -> jax.Array:
    def layer(h: jax.Array, p: Any) -> tuple[jax.Array, None]:
        y = jax.nn.standardize(h)
        q, k, v = (jnp.einsum("btd,dhs->bths", y, p[name]) for name in ("query", "key", "value"))
        h += jnp.einsum("bths,hsd->btd", jax.nn.dot_product_attention(q, k, v, is_causal=True), p["out"])
        return h + jax.nn.gelu(jax.nn.standardize(h) @ p["up"]) @ p["down"], None

    h, _ = jax.lax.scan(layer, params["embed"]["bytes"][text] + params["embed"]["places"], params["layers"])
    return jax.nn.standardize(h) @ params["head"]


@jax.jit
def loss_of(params: Any, text: jax.Array) -> jax.Array:
    logits = logits_of(params, text[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]).mean()


def load() -> tuple[np.ndarray, np.ndarray]:
    """Pieces of 65 bytes of scikit-learn's linear models: all of each file but its last tenth, and that."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for file in sorted(files("sklearn.linear_model").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            text = file.read_bytes()
            parts[0].append(text[: len(text) * 9 // 10])
            parts[1].append(text[len(text) * 9 // 10 :])
    texts = [np.minimum(np.frombuffer(b"".join(part), np.uint8), 127).astype(np.int32) for part in parts]
    train, test = (text[: len(text) // PIECE * PIECE].reshape(-1, PIECE) for text in texts)
    return train, test


def optimizer_of(steps: int, adamw_rate: float | None) -> optax.GradientTransformation:
    if adamw_rate is None:
        return optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(total_steps=steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, adamw_rate, steps // 20, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


def train(
    steps: int,
    adamw_rate: float | None = None,
    seed: int = 0,
    folder: Path | None = None,
    stop_at: int | None = None,
) -> tuple[int, Any]:
    """Returns the step at which it began, 0 if there was no checkpoint, and the parameters."""
    text, _ = load()
    params = init(jax.random.key(seed))
    optimizer = optimizer_of(steps, adamw_rate)
    at = (params, optimizer.init(params))

    @jax.jit
    def step(at: Any, text: jax.Array) -> Any:
        params, state = at
        updates, state = optimizer.update(jax.grad(loss_of)(params, text), state, params)
        return optax.apply_updates(params, updates), state

    manager = ocp.CheckpointManager(folder.absolute()) if folder else None
    begun = (manager.latest_step() if manager else None) or 0
    if begun:
        at = manager.restore(begun, args=ocp.args.StandardRestore(at))
    for index in range(begun, min(steps, stop_at or steps)):
        rows = np.random.default_rng((seed, index)).integers(len(text), size=BATCH)
        at = step(at, text[rows])
        if manager and (index + 1) % SAVED_EVERY == 0:
            manager.save(index + 1, args=ocp.args.StandardSave(at))
    if manager:
        manager.close()
    return begun, at[0]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="number of updates")
    parser.add_argument("--adamw-rate", type=float, help="use optax.adamw with this peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and batches")
    parser.add_argument("--folder", type=Path, help="where checkpoints are kept, and looked for")
    parser.add_argument("--stop-at", type=int, help="stop before this step, as if killed")
    options = parser.parse_args(argv)
    begun, params = train(options.steps, options.adamw_rate, options.seed, options.folder, options.stop_at)
    print(describe(params))
    _, text = load()
    end = min(options.steps, options.stop_at or options.steps)
    print(f"test loss {float(loss_of(params, text)):.6f} nats a byte, steps {begun} to {end}")


if __name__ == "__main__":
    main()
