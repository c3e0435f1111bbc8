"""The comparison of estimators: what every run starts from, and that its settings are a run's."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from learned_opt import load_weights
from meta_train.estimators import perturbation_scale


@pytest.mark.parametrize("moved", [0.0, 4.0])
def test_the_start_is_moved_by_so_many_perturbations(
    script: Callable[[str], ModuleType], tmp_path: Path, moved: float
) -> None:
    benchmark = script("estimators")
    options = benchmark.Options(out=tmp_path, moved=moved)
    benchmark.write_start(options)
    (theta, config), (before, same) = load_weights(tmp_path / benchmark.START), load_weights("flt-v1")
    assert config == same
    steps = jax.tree.map(lambda new, old, size: (new - old) / size, theta, before, perturbation_scale(before))
    size = np.std(np.concatenate([np.ravel(step) for step in jax.tree.leaves(steps)]))
    assert abs(size - moved) <= 0.2 * moved


def test_only_joined_estimators_have_networks(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    benchmark = script("estimators")
    options = benchmark.Options(out=tmp_path)
    found = {name: benchmark.settings(options, name) for name in options.estimators}
    assert {name: config.optimizer.rule_width for name, config in found.items()} == {
        "es": 0,
        "pes": 0,
        "nres": 0,
        "es+nres": 8,
    }
    assert found["es+nres"].network_estimator == "nres"
