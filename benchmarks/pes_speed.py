"""How fast persistent evolution strategies run their inner loops, beside plain SGD on the same runs.

    python benchmarks/pes_speed.py                                                      # one device
    XLA_FLAGS=--xla_force_host_platform_device_count=2 python benchmarks/pes_speed.py   # one for each core

A multilayer perceptron 64-32-10 learns the digits, batches of 128. An outer step of `pairs` antithetic pairs
takes `truncation` inner steps of two runs a pair, by an optimizer of the structure of `flt-v1`. SGD takes as
many steps on the same networks and batches. The programs take turns, so that all meet the same machine; the
fastest call of each counts, and the median of the turns' ratios is printed beside it.
"""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree

from learned_opt import load_weights
from meta_train.config import CHUNK, TrainConfig
from meta_train.devices import Population, replicate
from meta_train.estimators import ESTIMATORS, Keys
from meta_train.estimators.truncated import TruncatedES, Worker
from tasks import TaskFamily, sources
from tasks.families import classifier
from tasks.models import mlp

FAMILY = classifier("digits", sources.DIGITS, mlp(64, 32, 10), batch=128, steps=1000, vary={})
RATE = 0.1


@dataclass(frozen=True)
class Options:
    """Times an outer step of an estimator that truncates, and SGD."""

    estimator: str = "pes"
    """pes, nres or truncated-es."""
    pairs: int = 16
    """Antithetic pairs, two runs each: a multiple of the number of devices."""
    truncation: int = 50
    """Inner steps of an outer step, a multiple of 25."""
    repeats: int = 20
    """Turns; the fastest counts."""
    weights: str = "flt-v1"
    """Whose structure and laws are used."""

    def __post_init__(self) -> None:
        if self.truncation < CHUNK or self.truncation % CHUNK:
            raise SystemExit(f"--truncation {self.truncation}: expected a positive multiple of {CHUNK}")
        if self.repeats < 1:
            raise SystemExit(f"--repeats {self.repeats}: expected at least 1")


class Program:
    """A compiled outer step that goes on where it stopped."""

    def __init__(self, function: Any, shared: Any, workers: Any, options: Options, data: Any):
        self._population = Population(function, options.pairs)
        self._workers, self._truncation = self._population.placed(workers), jnp.int32(options.truncation)
        self._shared, self._data, self._step = shared, data, 0
        self.seconds: list[float] = []
        self()

    def __call__(self) -> None:
        keys = Keys.of(0, self._step, 0)
        started = time.perf_counter()
        found = self._population(self._shared, keys, self._truncation, self._data, workers=self._workers)
        _, self._workers = jax.block_until_ready(found)
        if self._step:  # the first compiles
            self.seconds.append(time.perf_counter() - started)
        self._step += 1


def sgd_of(family: TaskFamily, truncation: int) -> Any:
    """An outer step of plain SGD: two runs of each member, on the batches that the estimator draws too."""

    def one(rate: jax.Array, pair: jax.Array, params: Any, keys: Keys, data: Any) -> tuple[jax.Array, Any]:
        member_key, _, key_run, _ = jax.random.split(jax.random.fold_in(keys.run, pair), 4)
        member = family.sample(member_key)

        def step(params: Any, t: jax.Array) -> tuple[Any, jax.Array]:
            batch = family.batch(jax.random.fold_in(key_run, t), data.train, member)
            loss, gradient = jax.value_and_grad(family.loss)(params, batch, member)
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient), loss

        params, losses = jax.lax.scan(step, params, jnp.arange(truncation))
        return losses.mean(), params

    def many(rate: jax.Array, members: Any, keys: Keys, _: Any, data: Any) -> tuple[jax.Array, Any]:
        pairs, params = members
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), params)
        found = jax.vmap(one, (None, 0, 0, None, None))(rate, jnp.repeat(pairs, 2), flat, keys, data)
        return jax.tree.map(lambda x: x.reshape(len(pairs), 2, *x.shape[1:]), found)

    return many


def programs(options: Options) -> tuple[Program, Program]:
    """The estimator's and SGD's."""
    theta, structure = load_weights(options.weights)
    config = TrainConfig(
        steps=1, pairs=options.pairs, truncation=options.truncation, horizons=(500, 2000), optimizer=structure
    )
    estimator: TruncatedES = ESTIMATORS[options.estimator](FAMILY, config, theta)  # type: ignore[assignment]
    data = FAMILY.data()
    workers: Worker = estimator.workers(options.pairs, data)
    many = options, replicate(data)
    starts = jax.random.split(jax.random.key(0), (options.pairs, 2))
    params = jax.vmap(jax.vmap(lambda key: FAMILY.init(key, FAMILY.sample(key))))(starts)
    learned = Program(estimator.evaluate, ravel_pytree(theta)[0], workers, *many)
    return learned, Program(sgd_of(FAMILY, options.truncation), jnp.float32(RATE), params, *many)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    learned, sgd = programs(options)
    for _ in range(options.repeats):
        learned()
        sgd()
    steps, ratios = 2 * options.pairs * options.truncation, np.divide(sgd.seconds, learned.seconds)
    count, kind = jax.local_device_count(), jax.local_devices()[0].device_kind
    print(f"{count} x {kind}, JAX {jax.__version__}, {2 * options.pairs} runs, {options.truncation} steps")
    for name, program in ((options.estimator, learned), ("SGD", sgd)):
        print(f"{name:>12}: {steps / min(program.seconds):,.0f} inner steps a second at best")
    best = min(sgd.seconds) / min(learned.seconds)
    print(
        f"{options.estimator} reaches {best:.0%} of SGD at best, {np.median(ratios):.0%} in the median turn"
    )


if __name__ == "__main__":
    main()
