"""Odd conditions are what they are called."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.baselines import Setting
from meta_train.evaluation import Optimizer


@pytest.fixture
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("robustness")


def told(benchmark: ModuleType, condition: Any, learned: bool) -> tuple[Setting, float]:
    """What an optimizer is told under a condition: its setting and the length of a run of 40 gradients."""
    seen: list[Any] = []

    def build(weights: Any, setting: Setting, total: Any) -> optax.GradientTransformation:
        seen.extend((setting, total))
        return optax.sgd(1.0)

    benchmark.under(condition, Optimizer("one", build, learned=learned)).build((), Setting(0.1, 0.01), 40)
    return seen[0], seen[1]


def test_what_optimizers_are_told(benchmark: ModuleType) -> None:
    rows = benchmark.CONDITIONS
    usual = Setting(0.1, 0.01)
    for learned in (True, False):
        assert told(benchmark, rows["as it is"], learned) == (usual, 40)
        assert told(benchmark, rows["planned for twice as long"], learned) == (usual, 80)
        assert told(benchmark, rows["weight decay 0.1"], learned)[0].weight_decay == 0.1
        assert told(benchmark, benchmark.Condition("four", every=4), learned) == (usual, 10)
    assert told(benchmark, rows["length unknown"], learned=True) == (usual, math.inf)
    assert told(benchmark, rows["length unknown"], learned=False) == (usual._replace(constant=1.0), 40)


def test_the_mean_of_several_gradients_makes_one_update(benchmark: ModuleType) -> None:
    plain = Optimizer("sgd", lambda weights, setting, total: optax.sgd(1.0))
    optimizer = benchmark.under(benchmark.Condition("four", every=4), plain).build((), Setting(), 8)
    state = optimizer.init(jnp.zeros(()))
    updates = []
    for gradient in (1.0, 2.0, 3.0, 6.0):
        update, state = optimizer.update(jnp.float32(gradient), state, jnp.zeros(()))
        updates.append(float(update))
    assert updates == [0.0, 0.0, 0.0, -3.0]


def test_dropout_leaves_out_inputs_in_training_alone(benchmark: ModuleType) -> None:
    family = benchmark.perceptron(1.0, 10)
    changed = benchmark.with_dropout(0.5)(family)
    assert changed.data() is changed.data()
    key = jax.random.key(0)
    config = family.sample(key)
    params = family.init(key, config)
    for part, before, same in zip(changed.data(), family.data(), (False, True), strict=True):
        plain = family.loss(params, family.batch(key, before, config), config)
        dropped = changed.loss(params, changed.batch(key, part, config), config)
        assert (abs(float(plain - dropped)) < 1e-6) == same

    gradient = jax.grad(changed.loss)(params, changed.batch(key, changed.data().train, config), config)
    unused = np.asarray(jnp.all(gradient["hidden"][1]["kernel"] == 0, axis=1)).mean()
    assert 0.3 < unused < 0.8


@pytest.mark.slow
def test_a_table(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ("gradients clipped to norm 1", "computation in bfloat16")
    benchmark.main(benchmark.Options(tmp_path, tasks=("perceptron",), only=only, steps=20))
    lines = capsys.readouterr().out.splitlines()[-2:]
    for line, name in zip(lines, only, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == name
        assert 0 < float(cells[1]) < 2.3  # less than a guess among ten digits
        assert cells[-1] == "0"
