"""Where an optimizer's laws hold and where they break: width, size and horizon, one rung at a time.

    python benchmarks/ladders.py --ladder width --out ladders.json            # one GPU
    python benchmarks/ladders.py --ladder horizon --rungs 2 --steps 200       # something for a CPU
    python benchmarks/ladders.py --ladder width --out ladders.json --picture ladders.png

Every rung trains one network with the learned optimizer, untuned, and with AdamW and Muon at several rates
half a decade apart, more where the best is at an edge, with warm-up and cosine. The best rate counts: it is
chosen on the very runs that are reported, which favours the two. The last columns say when the learned
optimizer is first as low as the best of each. Run again with the same `--out`, it goes on
with what is missing. None of these tasks is in a suite: `width` fits a random network from endless data, the
others read Python's library.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro

from learned_opt import load_weights
from meta_train.baselines import BASELINES, Setting
from meta_train.evaluation.optimizers import Optimizer, baseline, learned
from meta_train.evaluation.runs import Runner
from meta_train.evaluation.tuning import choose, finals
from tasks import TaskFamily, data
from tasks import sources as on
from tasks.config import factor
from tasks.families import Source, function_fit, language_model
from tasks.models import language_transformer, mlp

FLOATS_AT_ONCE = 3_000_000  # parameters of all the runs that are trained side by side; larger ones run alone
LARGE = 15_000_000  # parameters from which on rates and seeds are few
CENTRES = {"adamw": -2.5, "muon": -2.0}  # of the rates, as powers of ten
POINTS = Source(partial(data.points, 32, "normal"), "synthetic", "none needed")


class Rung(NamedTuple):
    """One network and how long it is trained."""

    name: str
    family: TaskFamily
    steps: int

    @property
    def large(self) -> bool:
        """Whether trials are too dear to have many."""
        return self.family.card.parameters > LARGE


@dataclass(frozen=True)
class Options:
    """Trains the rungs of one ladder, and reports."""

    ladder: Literal["width", "size", "horizon"]
    """Width of a network of four layers, size of a transformer, or number of steps."""
    weights: str = "flt-v1"
    """Of the learned optimizer: a shipped name or a path."""
    rungs: int = 4
    """How many, from the lowest."""
    rates: int = 5
    """Learning rates of AdamW and of Muon, an odd number; 3 of networks above 15 million parameters."""
    seeds: int = 2
    """Of every rate; 1 of networks above 15 million parameters."""
    steps: int | None = None
    """Of every rung, in place of its own."""
    out: Path | None = None
    """JSON file of results; what is in it is not run again."""
    picture: Path | None = None
    """PNG of the ratios."""


def teacher(x: jax.Array, part: Any, config: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Fresh normal inputs in place of x, and four outputs of a random tanh network of width 64."""
    first, second = jax.random.split(config["key"])
    x = jax.random.normal(jax.random.key(jax.lax.bitcast_convert_type(x[0, 0], jnp.uint32)), x.shape)
    hidden = jnp.tanh(x @ jax.random.normal(first, (x.shape[-1], 64)) * 1.5 * x.shape[-1] ** -0.5)
    return x, hidden @ jax.random.normal(second, (64, 4)) / 5


def ladder(options: Options) -> list[Rung]:
    """The rungs, lowest first."""

    def wide(width: int) -> Rung:
        model = mlp(32, width, width, width, 4)
        family = function_fit(f"mlp_{width}", POINTS, model, teacher, batch=128, steps=1000, vary={})
        return Rung(f"width {width:,}", family, 1000)

    def transformer(width: int, depth: int, batch: int, length: int, steps: int) -> Rung:
        name = f"transformer_{width}_{depth}"
        model = language_transformer(width, depth, length)
        family = language_model(
            name, on.LIBRARY, model, batch=batch, length=length, steps=steps, vary={"embed": factor(1.0, 1.0)}
        )
        size = f"{family.card.parameters / 1e6:.1f} M"
        return Rung(f"{steps:,} steps" if options.ladder == "horizon" else size, family, steps)

    ladders: dict[str, Iterable[Rung]] = {
        "width": map(wide, (64, 256, 1024, 4096)),
        "size": (
            transformer(width, depth, 16, 256, 1000)
            for width, depth in ((64, 2), (256, 4), (512, 6), (768, 14))
        ),
        "horizon": (transformer(64, 2, 16, 128, steps) for steps in (500, 2000, 8000, 20_000)),
    }
    rungs = list(ladders[options.ladder])[: options.rungs]
    return [rung._replace(steps=options.steps or rung.steps) for rung in rungs]


def optimizers(options: Options, rung: Rung) -> list[Optimizer]:
    """The learned optimizer and its rivals, each with the rates that are tried first."""
    rates = min(options.rates, 3) if rung.large else options.rates
    places = 0.5 * (np.arange(rates) - rates // 2)
    rivals = []
    for name, centre in CENTRES.items():
        grid = BASELINES[name].grid(tuple(float(f"{10 ** (centre + at):.3g}") for at in places))
        rivals.append(dataclasses.replace(baseline(name), grid=grid))
    return [learned(options.weights, *load_weights(options.weights)), *rivals]


def job(options: Options, rung: Rung, optimizer: Optimizer) -> Callable[[], dict[str, Any]]:
    """Compiles; what is returned trains, and returns what becomes of every rate."""
    seeds = range(1 if rung.large else options.seeds)
    first = [(seed, setting) for setting in optimizer.grid or (Setting(),) for seed in seeds]
    most = max(1, FLOATS_AT_ONCE // rung.family.card.parameters)
    runner = Runner(rung.family, rung.steps, min(len(first), most))
    runner.run(optimizer, first, runner.length)  # the horizon is data: a short run compiles all programs

    def run() -> dict[str, Any]:
        before, steps = runner.run_seconds, runner.trained_steps
        curve: dict[str, Any] = {}
        if optimizer.tuned:
            found = choose(runner, optimizer, seeds).trials
            trials = [
                {"rate": one.setting.rate, "valid": one.valid, "diverged": one.diverged} for one in found
            ]
        else:
            curves = runner.run(optimizer, first)
            end = finals(curves)
            trials = [{"rate": 1.0, "valid": float(end.valid.mean()), "diverged": int(end.diverged.sum())}]
            curve = {"points": curves.points, "valid": curves.valid.mean(axis=0).tolist()}
        milliseconds = 1e3 * (runner.run_seconds - before) / (runner.trained_steps - steps)
        return {"trials": trials, "ms": milliseconds, "alone": most == 1, "curve": curve}

    return run


def train(options: Options, results: dict[str, Any], keep: Callable[[], None]) -> None:
    """Adds what `results` lack, by rung and optimizer."""
    todo = [
        (rung, optimizer)
        for rung in ladder(options)
        for optimizer in optimizers(options, rung)
        if optimizer.name not in results.get(key(options, rung), {})
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(lambda each: job(options, *each), todo))
    print(f"compiled {len(compiled)} programs", flush=True)
    for (rung, optimizer), run in zip(todo, compiled, strict=True):
        result = run()
        results.setdefault(key(options, rung), {})[optimizer.name] = result
        loss, rate = best(result)
        print(
            f"{rung.name}: {optimizer.name} {loss:.4f} at {rate:.3g}, {result['ms']:.2f} ms a step",
            flush=True,
        )
        keep()


def key(options: Options, rung: Rung) -> str:
    """Of a rung in the file of results."""
    return f"{options.ladder}: {rung.name}: {rung.steps}"


def best(result: dict[str, Any]) -> tuple[float, float]:
    """(loss, rate) of the best rate."""
    return min((trial["valid"], trial["rate"]) for trial in result["trials"])


def sooner(own: dict[str, Any], rival: dict[str, Any]) -> str:
    """When a learned optimizer is first as low as a rival's best: in percent of its steps, and of its time.

    The time is known only where both ran alone; losses are measured 20 times a run.
    """
    points, losses = own["curve"]["points"], own["curve"]["valid"]
    reached = [at for at, loss in zip(points, losses, strict=True) if loss <= best(rival)[0]]
    if not reached:
        return "–"
    steps = 100 * reached[0] / points[-1]
    return f"{steps:.0f}" + f", {steps * own['ms'] / rival['ms']:.0f}" * (own["alone"] and rival["alone"])


def complete(options: Options, results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, the rungs that every optimizer has finished."""
    names = {options.weights, *CENTRES}
    rows = ((rung.name, results.get(key(options, rung), {})) for rung in ladder(options))
    return {name: row for name, row in rows if names <= row.keys()}


def report(options: Options, results: dict[str, Any]) -> str:
    """One row a rung."""
    rivals = [f"{name} (rate)" for name in CENTRES]
    ratios = [f"{options.weights} / {name}" for name in CENTRES]
    times = [f"% of {name}'s steps, time" for name in CENTRES]
    header = ["", options.weights, *rivals, *ratios, *times, "diverged"]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for name, row in complete(options, results).items():
        own = best(row[options.weights])[0]
        others = [best(row[rival]) for rival in CENTRES]
        cells = [f"{loss:.4f} ({rate:.3g})" for loss, rate in others] + [
            f"{own / loss:.2f}" for loss, _ in others
        ]
        cells += [sooner(row[options.weights], row[name]) for name in CENTRES]
        diverged = sum(trial["diverged"] for trial in row[options.weights]["trials"])
        lines.append("| " + " | ".join([name, f"{own:.4f}", *cells, str(diverged)]) + " |")
    return "\n".join(lines)


def draw(options: Options, results: dict[str, Any], path: Path) -> None:
    """Loss over that of each rival at its best rate, against the rungs."""
    rows = complete(options, results)
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name, style in zip(CENTRES, ("o-", "s--"), strict=True):
        ratios = [best(row[options.weights])[0] / best(row[name])[0] for row in rows.values()]
        axes.plot(list(rows), ratios, style, label=f"over {name}, best rate")
    axes.axhline(1.0, color="0.6", linewidth=1)
    axes.set_ylabel(f"validation loss of {options.weights}")
    axes.legend()
    figure.savefig(path, dpi=120)


def main(options: Options) -> None:
    known = options.out and options.out.exists()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out and known else {}

    def keep() -> None:
        if options.out:
            part = options.out.with_suffix(".part")
            part.write_text(json.dumps(results, indent=1))
            part.replace(options.out)

    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}", flush=True)
    train(options, results, keep)
    print(report(options, results))
    if options.picture:
        draw(options, results, options.picture)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
