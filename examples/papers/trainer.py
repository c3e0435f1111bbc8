"""Training of one kind of attention, all seeds in one program, with its masks recorded over training."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import blocks
import jax
import jax.numpy as jnp
import numpy as np
import optax

SNAPSHOTS = 10  # of the masks, beside the one before training


@dataclass
class Training:
    """What to train on what. Weights and batches of a seed are the same for all kinds of attention.

    Attributes:
      attention: of every layer.
      init: of a key; gives parameters, with stacked `layers`, and draws.
      loss: of parameters, draws and a batch.
      batch: of `data` and random numbers below `choices`, one for each item.
      score: of parameters, draws and `valid`; one number.
      lags: differences of positions [n, l], in tokens, at which masks are recorded.
      cycles: frequencies [n, l], per token, at which densities are.
    """

    attention: blocks.Attention
    init: Callable[[jax.Array], tuple[Any, Any]]
    loss: Callable[..., jax.Array]
    batch: Callable[..., Any]
    score: Callable[..., jax.Array]
    data: Any
    valid: Any
    choices: int
    items: int
    seeds: int
    steps: int
    rate: float
    lags: jax.Array
    cycles: jax.Array

    def compile(self) -> "Training":
        """Makes all programs."""
        self.optimizer = blocks.optimizer(self.rate, self.steps)

        def start(seed: int) -> Any:
            params, draws = self.init(jax.random.key(seed))
            return params, draws, self.optimizer.init(params)

        # Not compiled as a whole: random numbers take long to compile, and kinds share these small programs.
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start, range(self.seeds)))
        shape = (self.seeds, max(1, self.steps // SNAPSHOTS), self.items)
        chosen = jax.ShapeDtypeStruct(shape, jnp.int32)
        chunk = jax.jit(jax.vmap(self._chunk, in_axes=(0, 0, None)), donate_argnums=0)
        scores = jax.jit(jax.vmap(lambda state, valid: self.score(*state[:2], valid), in_axes=(0, None)))
        self.state, self.shape = state, (SNAPSHOTS, *shape)
        self.train = chunk.lower(state, chosen, self.data).compile()
        self.scores = scores.lower(state, self.valid).compile()
        self.traces = jax.jit(self._trace).lower(state).compile()
        return self

    def _chunk(self, state: Any, chosen: jax.Array, data: Any) -> tuple[Any, jax.Array]:
        def step(state: Any, chosen: jax.Array) -> tuple[Any, jax.Array]:
            params, draws, optimizer = state
            loss, slopes = jax.value_and_grad(self.loss)(params, draws, self.batch(data, chosen))
            updates, optimizer = self.optimizer.update(slopes, optimizer, params)
            return (optax.apply_updates(params, updates), draws, optimizer), loss

        return jax.lax.scan(step, state, chosen)

    def _trace(self, state: Any) -> dict[str, jax.Array]:
        """Masks f [layers, heads, n] of seed 0, and densities of their spectra."""
        masks, draws = jax.tree.map(lambda x: x[0], (state[0]["layers"]["mask"], state[1]))
        if not masks:
            return {}
        attention, unit = self.attention, self.attention.unit
        trace = {"mask": jax.vmap(jax.vmap(lambda m, d: attention.used(m, d, self.lags)))(masks, draws)}
        if attention.mask != "table":
            densities = jax.vmap(jax.vmap(lambda m: attention.spectrum(m).density(self.cycles * unit)))
            trace["density"] = densities(masks) * unit ** len(attention.grid)
        return trace

    def run(self, left: float = float("inf")) -> dict[str, Any] | None:
        """Trains; None if it would take more than the seconds `left`."""
        chosen = np.random.default_rng(0).integers(self.choices, size=self.shape, dtype=np.int32)
        state, traces = self.state, [self.traces(self.state)]
        times, curve = [], []
        for chunk in chosen:
            started = time.perf_counter()
            state, losses = self.train(state, chunk, self.data)
            curve.append(np.asarray(losses).mean(1).round(4).tolist())
            times.append(time.perf_counter() - started)
            if times[0] * SNAPSHOTS > left:
                return None
            traces.append(self.traces(state))
        memory = self.train.memory_analysis()
        return {
            "score": np.asarray(self.scores(state, self.valid)).tolist(),
            "ms": 1e3 * min(times) / self.shape[2],
            "train_loss": curve,
            "temporary_mb": memory.temp_size_in_bytes / 1e6 if memory else None,
            "device": jax.devices()[0].device_kind,
            "traces": {key: np.stack([t[key] for t in traces]).round(3).tolist() for key in traces[0]},
        }


def distances(length: int) -> jax.Array:
    """Some distances in bytes, log-spaced, each once."""
    return jnp.asarray(np.unique(np.geomspace(1, length, 64).astype(int)) - 1, jnp.float32)


def frequencies(length: int) -> jax.Array:
    """Cycles per byte."""
    return jnp.geomspace(0.25 / length, 1.0, 64)


def layer_memory(attention: blocks.Attention) -> float | None:
    """MB of temporaries of a gradient through one layer's attention, one sequence."""
    learned, draws = attention.start()[0], attention.draws(jax.random.key(0))
    x = jnp.zeros((1, attention.heads, *attention.grid, attention.head_size))
    slope = jax.grad(lambda q, k, v, learned: attention(q, k, v, learned, draws).sum(), argnums=(0, 1, 2, 3))
    analysis = jax.jit(slope).lower(x, x, x, learned).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 1e6 if analysis else None
