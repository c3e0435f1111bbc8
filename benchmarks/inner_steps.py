"""How fast meta-training runs its inner loops on this machine.

    python benchmarks/inner_steps.py                                     # every family of META_TRAIN
    python benchmarks/inner_steps.py --families wine linear_map --pairs 4 --steps 25

One evaluation is what one outer step does with one family: `pairs` antithetic pairs of runs (two runs each),
shared equally by the devices of this machine, every run trained for `steps` steps by the untrained optimizer
(trained weights cost the same). One evaluation warms up, then the fastest of `repeats` counts.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import tyro
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table
from timing import fastest

from learned_opt import untrained
from meta_train.config import CHUNK, TrainConfig
from meta_train.devices import Population, replicate
from meta_train.estimators import Keys, pair_scores
from tasks.suites import META_TRAIN

KEYS = Keys.of(0, 0, 0)


@dataclass(frozen=True)
class Options:
    """Times the inner loops of meta-training."""

    families: tuple[str, ...] = tuple(META_TRAIN)
    """Names of META_TRAIN families."""
    pairs: int = 96
    """Antithetic pairs of each family: a multiple of the number of devices."""
    steps: int = 100
    """Inner steps of every run: a multiple of 25."""
    repeats: int = 3
    """Timed evaluations of each family; the fastest counts."""
    anytime: float = 0.2
    """Share of pairs that are not told their horizon."""

    def __post_init__(self) -> None:
        if self.steps < CHUNK or self.steps % CHUNK:
            raise SystemExit(f"--steps {self.steps}: expected a positive multiple of {CHUNK}")
        if self.repeats < 1:
            raise SystemExit(f"--repeats {self.repeats}: expected at least 1")


class Bench:
    """The compiled programs of some families."""

    def __init__(self, options: Options):
        self.options = options
        self.config = TrainConfig(
            steps=1, families=options.families, pairs=options.pairs, anytime=options.anytime
        )
        self.theta, _ = untrained(self.config.optimizer, jax.random.key(0))
        self.flat, _ = ravel_pytree(self.theta)
        self.steps = jnp.int32(options.steps)

    def compile(self, name: str) -> tuple[Population, float]:
        """The program of a family, and the seconds that it took to compile beside the others."""
        started = time.perf_counter()
        family = META_TRAIN[name]
        population = Population(pair_scores(family, self.config, self.theta), self.options.pairs)
        population.compile(self.flat, KEYS, self.steps, replicate(family.data()))
        return population, time.perf_counter() - started

    def seconds(self, name: str, population: Population) -> float:
        """Seconds of the fastest evaluation."""
        data = replicate(META_TRAIN[name].data())
        return fastest(lambda: population(self.flat, KEYS, self.steps, data), self.options.repeats)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    console = Console()
    try:
        bench = Bench(options)
        started = time.perf_counter()
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            programs = dict(zip(options.families, pool.map(bench.compile, options.families), strict=True))
        compiling = time.perf_counter() - started
    except ValueError as error:
        raise SystemExit(str(error)) from error

    table = Table(title=_conditions(options), title_justify="left")
    for column in ("family", "parameters", "compile s", "ms per inner step", "inner steps per s"):
        table.add_column(column, justify="left" if column == "family" else "right")
    runs, total = 2 * options.pairs, 0.0
    for name, (population, compile_seconds) in programs.items():
        seconds = bench.seconds(name, population)
        total += seconds
        _row(table, name, META_TRAIN[name].card.parameters, compile_seconds, seconds, runs, options.steps)
    table.add_section()
    parameters = sum(META_TRAIN[name].card.parameters for name in programs)
    _row(table, "all", parameters, compiling, total, runs * len(programs), options.steps)
    console.print(table)
    console.print(f"compiled in {os.cpu_count()} threads; 'all' is the time until every program was ready")


def _row(
    table: Table, name: str, parameters: int, compiling: float, seconds: float, runs: int, steps: int
) -> None:
    per_step, rate = 1e3 * seconds / steps, runs * steps / seconds
    table.add_row(name, f"{parameters:,}", f"{compiling:.1f}", f"{per_step:.2f}", f"{rate:,.0f}")


def _conditions(options: Options) -> str:
    devices = jax.local_devices()
    return (
        f"{len(devices)} x {devices[0].device_kind}, JAX {jax.__version__}\n"
        f"population: {options.pairs} antithetic pairs = {2 * options.pairs} runs a family\n"
        f"unroll: {options.steps} inner steps, forward only, in chunks of {CHUNK}\n"
        "estimator: full-unroll antithetic evolution strategies\n"
        "ms: of the whole population; inner steps: of all runs, two for a pair"
    )


if __name__ == "__main__":
    main()
