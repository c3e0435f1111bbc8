"""What the experiments share: training under vmap over seeds, paired intervals, tables and a picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike
from scipy import stats

Params = Any


class Interval(NamedTuple):
    """A mean over seeds with its 95% interval."""

    mean: float
    low: float
    high: float

    def text(self, decimals: int, signed: bool = False) -> str:
        sign = "+" if signed else ""
        mean, low, high = (f"{value:{sign}.{decimals}f}".replace("-", "−") for value in self)
        return f"{mean} [{low}, {high}]"


def paired(differences: ArrayLike) -> Interval:
    """Mean of differences of the same seeds (or of values), with the 95% interval of Student's t."""
    values = np.asarray(differences, float)
    mean, error = values.mean(), stats.sem(values)
    half = stats.t.ppf(0.975, len(values) - 1) * error if error > 0 else 0.0
    return Interval(float(mean), float(mean - half), float(mean + half))


def table(rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first row is the header."""
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compare(
    scores: Mapping[str, ArrayLike],
    pairs: Sequence[tuple[str, str]],
    *,
    measure: str,
    decimals: int,
    higher_is_better: bool,
) -> str:
    """Two tables: each variant over seeds, and the differences of pairs of variants, paired by seed."""
    means = [["variant", f"{measure}, mean [95%]"]]
    means += [[name, paired(values).text(decimals)] for name, values in scores.items()]
    apart = differences(scores, pairs, decimals=decimals, higher_is_better=higher_is_better)
    return f"{table(means)}\n\n{apart}"


def differences(
    scores: Mapping[str, ArrayLike],
    pairs: Sequence[tuple[str, str]],
    *,
    decimals: int,
    higher_is_better: bool,
) -> str:
    """Differences of the pairs that have scores, paired by seed; a claim where the interval leaves out 0."""
    rows = [["difference", "mean [95%]", "claim"]]
    for first, second in pairs:
        if first in scores and second in scores:
            interval = paired(np.subtract(scores[first], scores[second]))
            apart = interval.low > 0 or interval.high < 0
            better = (interval.mean > 0) == higher_is_better
            claim = ("better" if better else "worse") if apart else "none"
            rows.append([f"{first} − {second}", interval.text(decimals, signed=True), claim])
    return table(rows)


def train(
    init: Callable[[jax.Array], Params],
    loss: Callable[..., jax.Array],
    seeds: int,
    *data: Any,
    steps: int,
    rate: float,
    decay: float = 1e-4,
) -> Params:
    """Trains one network for each seed, all in one compiled program, with AdamW and a cosine schedule.

    Args:
      init: of a random key.
      loss: of parameters, a random key and one slice of each of `data`.
      seeds: how many; seed s has the same keys whatever is trained.
      *data: arrays [seeds, ...].
      steps: number of updates.
      rate: peak learning rate.
      decay: decoupled weight decay.

    Returns:
      Parameters with a leading axis of seeds.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    # One vector of all parameters: a program of many small updates takes long to compile.
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.flatten(optax.adamw(schedule, weight_decay=decay))
    )

    def one(key: jax.Array, *own: Any) -> Params:
        first, rest = jax.random.split(key)
        params = init(first)

        def step(carry: tuple[Params, Any], key: jax.Array) -> tuple[tuple[Params, Any], None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key, *own), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(rest, steps))[0][0]

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return jax.block_until_ready(jax.jit(jax.vmap(one))(keys, *data))


def transformer(x: jax.Array, layers: int, attend: Callable[[int, jax.Array], jax.Array]) -> jax.Array:
    """Blocks of attention and a perceptron with residuals: call it within `hk.transform`. x: [..., L, D]."""

    def norm(x: jax.Array) -> jax.Array:
        return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

    for layer in range(layers):
        x = x + attend(layer, norm(x))
        x = x + hk.nets.MLP([2 * x.shape[-1], x.shape[-1]], activation=jax.nn.gelu)(norm(x))
    return norm(x)


def held_out(seeds: int, items: int, share: float) -> np.ndarray:
    """[seeds, items] booleans, true for the `share` of items that a seed is tested on."""
    ranks = [np.random.default_rng(seed).permutation(items) for seed in range(seeds)]
    return np.stack(ranks) < round(share * items)


def draw(scores: Mapping[str, ArrayLike], measure: str, path: Path, line: tuple[float, str]) -> None:
    """Variants side by side, lines joining the same seed; `line` is a reference and its name."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.stack([np.asarray(each, float) for each in scores.values()])
    figure, axes = plt.subplots(figsize=(1.5 + 1.4 * len(scores), 3), layout="constrained")
    axes.plot(values, ".-", color="tab:blue", lw=0.5, alpha=0.5)
    for place, each in enumerate(values):
        mean, low, high = paired(each)
        axes.errorbar(place, mean, [[mean - low], [high - mean]], fmt="ks", capsize=4)
    axes.axhline(line[0], color="grey", ls="--", lw=1, label=line[1])
    axes.set_xticks(range(len(scores)), [name.replace(", ", ",\n") for name in scores], fontsize=8)
    axes.set_ylabel(measure)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)
