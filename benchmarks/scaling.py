"""How meta-training scales with the number of devices.

    python benchmarks/scaling.py                               # every local device
    python benchmarks/scaling.py --families wine --pairs 4 --steps 25 --pieces

One meta-step of some families is timed on 1, 2, 4, ... devices: with as many pairs on each (weak scaling: the
ideal is a constant time) and with as many in all (strong scaling: the ideal is a time that halves). The
efficiency is the share of the ideal that is reached. `gather` is the share of a step in which scores are
brought together and made a meta-gradient. `from one` and `from two` are the differences of the meta-gradient
of all pairs from that of one device and of two, relative to its norm, after 25 inner steps: rounding grows
exponentially with their number.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree
from timing import fastest

from learned_opt import untrained
from meta_train.config import CHUNK, TrainConfig
from meta_train.devices import Population, replicate
from meta_train.estimators import Keys, meta_gradient, pair_scores
from meta_train.unroll import Score
from tasks.suites import META_TRAIN

KEYS = Keys.of(0, 0, 0)


@dataclass(frozen=True)
class Options:
    """Times meta-steps on growing numbers of devices."""

    families: tuple[str, ...] = ("digits_mlp", "digits_conv", "topics_transformer")
    """Names of META_TRAIN families, evaluated in turn."""
    pairs: int = 96
    """Antithetic pairs of a family on each device; in strong scaling, when all devices work."""
    steps: int = 200
    """Inner steps of every run: a multiple of 25."""
    repeats: int = 3
    """Timed meta-steps; the fastest counts."""
    pieces: bool = False
    """Whether a device evaluates `pairs` pairs at a time, whatever its share: then the meta-gradient should
    not depend on the number of devices."""

    def __post_init__(self) -> None:
        if self.steps < CHUNK or self.steps % CHUNK:
            raise SystemExit(f"--steps {self.steps}: expected a positive multiple of {CHUNK}")


class Case(NamedTuple):
    """How many pairs run on how many devices."""

    devices: int
    pairs: int


class Measured(NamedTuple):
    """One meta-step of all families."""

    seconds: float
    alone: float  # of which the runs themselves, the scores left where they are
    gradient: np.ndarray  # [families, meta-parameters]


class Bench:
    """The compiled programs of every case."""

    def __init__(self, options: Options, cases: list[Case]):
        self.options = options
        self.config = TrainConfig(steps=1, families=options.families, pairs=options.pairs)
        theta, _ = untrained(self.config.optimizer, jax.random.key(0))
        self.flat, _ = ravel_pytree(theta)
        self.combine = jax.jit(meta_gradient, static_argnums=(2, 3))
        self.scores = {name: pair_scores(META_TRAIN[name], self.config, theta) for name in options.families}
        self.data = {
            (name, n): replicate(META_TRAIN[name].data(), jax.local_devices()[:n])
            for name in options.families
            for n in {case.devices for case in cases}
        }
        jobs = [(name, case) for case in cases for name in options.families]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            self.programs = dict(zip(jobs, pool.map(self.compile, jobs), strict=True))

    def compile(self, job: tuple[str, Case]) -> Population:
        name, case = job
        devices = jax.local_devices()[: case.devices]
        piece = self.options.pairs if self.options.pieces else 0
        population = Population(self.scores[name], case.pairs, devices, piece)
        return population.compile(self.flat, KEYS, jnp.int32(CHUNK), self.data[name, case.devices])

    def measure(self, case: Case) -> Measured:
        def run(name: str, steps: int = self.options.steps) -> Score:
            return self.programs[name, case](self.flat, KEYS, jnp.int32(steps), self.data[name, case.devices])

        def gradient(name: str, steps: int = self.options.steps) -> jax.Array:
            scores = jax.device_get(run(name, steps))
            return self.combine(scores, KEYS, self.flat.size, self.config.objective)

        def timed(part: Callable[[str], Any]) -> float:
            names, repeats = self.options.families, self.options.repeats
            return fastest(lambda: [jax.block_until_ready(part(name)) for name in names], repeats)

        gradients = np.stack([gradient(name, CHUNK) for name in self.options.families])
        return Measured(timed(gradient), timed(run), gradients)


def main(options: Options) -> None:
    available = jax.local_devices()
    counts = [2**i for i in range(len(available).bit_length())]
    most = counts[-1] * options.pairs
    weak, strong = [Case(n, n * options.pairs) for n in counts], [Case(n, most) for n in counts]
    bench = Bench(options, list(dict.fromkeys(weak + strong)))
    measured = {case: bench.measure(case) for case in dict.fromkeys(weak + strong)}

    print(f"{len(available)} x {available[0].device_kind}, JAX {jax.__version__}")
    print(f"{', '.join(options.families)}; {options.steps} inner steps\n")
    header = "| | devices | pairs | meta-step, s | inner steps / s | efficiency | gather |"
    references = dict(zip(("from one", "from two"), strong[:2], strict=False))
    print(header, *(f"{name} |" for name in references))
    print("|---" * (7 + len(references)) + "|")
    for label, cases in (("weak", weak), ("strong", strong)):
        first = cases[0]
        for case in cases:
            seconds, alone, gradient = measured[case]
            rate = 2 * case.pairs * options.steps * len(options.families) / seconds
            work = case.pairs / first.pairs
            efficiency = measured[first].seconds * work / (seconds * case.devices)
            gather = max(0.0, 1 - alone / seconds)
            whole = list(references.values()) if case.pairs == most else []
            differences = [f"{difference(gradient, measured[it].gradient):.1e}" for it in whole]
            cells = (
                label,
                case.devices,
                case.pairs,
                f"{seconds:.2f}",
                f"{rate:,.0f}",
                f"{efficiency:.0%}",
                f"{gather:.1%}",
                *(differences or ["–"] * len(references)),
            )
            print(f"| {' | '.join(map(str, cells))} |")


def difference(gradient: np.ndarray, reference: np.ndarray) -> float:
    """Relative to the norm of the reference."""
    return float(np.linalg.norm(gradient - reference) / np.linalg.norm(reference))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
