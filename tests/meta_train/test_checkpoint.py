"""Checkpoints and settings of a run: what is saved comes back, other settings are refused."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.config import FLTConfig, Mode
from meta_train.checkpoint import KEPT, Checkpoints, RunState, config_of, recorded_settings
from meta_train.config import PRESETS, TrainConfig

from .tiny import settings

OUTER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(0.1)))


def state_at(step: int, best_score: float = 1.5) -> RunState:
    flat = jax.random.normal(jax.random.key(step), (7,))
    _, outer = OUTER.update(flat, OUTER.init(flat), flat)
    score, seconds = jnp.float32(best_score), jnp.float32(60.25 * step)
    counts = jnp.int32(step + 1), jnp.int32(step + 2)
    return RunState(
        jnp.int32(step),
        flat,
        outer,
        flat / 3,
        flat / 7,
        score,
        seconds,
        *counts,
        {"wine": {"t": jnp.arange(3)}},
    )


def steps_in(out: Path) -> list[int]:
    return sorted(int(folder.name) for folder in (out / "checkpoints").iterdir())


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Checkpoints]]:
    """Opens the checkpoints of a run in a temporary folder."""
    managers = []

    def open_(config: TrainConfig | None = None) -> Checkpoints:
        managers.append(Checkpoints(tmp_path, config or settings()))
        return managers[-1]

    yield open_
    for manager in managers:
        manager.close()


def assert_same(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("best_score", [1.5, np.inf])
def test_a_state_comes_back_as_it_was(opened: Callable[..., Checkpoints], best_score: float) -> None:
    state = state_at(3, best_score)
    opened().save(state)

    assert_same(opened().restore(state_at(0)), state)


def test_a_new_folder_holds_no_state(opened: Callable[..., Checkpoints]) -> None:
    assert opened().restore(state_at(0)) is None


def test_the_last_three_are_kept_and_the_newest_is_found(
    opened: Callable[..., Checkpoints], tmp_path: Path
) -> None:
    checkpoints = opened()
    for step in (1, 2, 5, 9, 12):
        checkpoints.save(state_at(step))

    assert KEPT == 3
    assert steps_in(tmp_path) == [5, 9, 12]
    assert_same(opened().restore(state_at(0)), state_at(12))


def test_a_checkpoint_is_written_once(opened: Callable[..., Checkpoints]) -> None:
    checkpoints = opened()
    checkpoints.save(state_at(4))
    checkpoints.save(state_at(4)._replace(best_score=jnp.float32(-9.0)))

    assert_same(checkpoints.restore(state_at(0)), state_at(4))


def test_other_settings_are_refused_with_the_differences(
    opened: Callable[..., Checkpoints], tmp_path: Path
) -> None:
    opened().save(state_at(1))
    before = (tmp_path / "config.json").read_bytes()
    other = settings(pairs=6, optimizer=FLTConfig(rule_width=3))

    with pytest.raises(ValueError, match="other settings") as refused:
        opened(other)

    message = str(refused.value)
    assert str(tmp_path) in message
    assert "pairs: 4 there, 6 here" in message
    assert "'rule_width': 2" in message
    assert "'rule_width': 3" in message
    assert "seed" not in message  # equal settings are not listed
    assert "--out" in message
    assert (tmp_path / "config.json").read_bytes() == before


def test_settings_of_a_run_without_a_checkpoint_may_be_replaced(
    opened: Callable[..., Checkpoints], tmp_path: Path
) -> None:
    opened(settings(pairs=5))
    opened(settings(pairs=6))

    assert recorded_settings(tmp_path)["pairs"] == 6


@pytest.mark.parametrize("name", PRESETS)
def test_recorded_settings_describe_each_preset(name: str, tmp_path: Path) -> None:
    with closing(Checkpoints(tmp_path, PRESETS[name])):
        pass

    assert config_of(recorded_settings(tmp_path)) == PRESETS[name]


def test_settings_come_back_whatever_they_are() -> None:
    modes = (Mode("g", 0.8, "complex", frequency=0.1), Mode("g2", 0.99))
    config = settings(
        anytime=0.35,
        objective=(0.1, 0.2, 0.7),
        start="some/file.safetensors",
        validation=(),
        optimizer=FLTConfig(modes=modes, signal_decays=(0.5,), epsilon=1e-8),
    )

    assert config_of(json.loads(config.to_json())) == config


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist: start a run with meta-train"):
        recorded_settings(tmp_path)


@pytest.mark.parametrize("change", [{"unheard_of": 1}, {"optimizer": None}, {"optimizer": {"version": 0}}])
def test_settings_of_another_release_are_refused(change: dict[str, Any]) -> None:
    recorded = json.loads(settings().to_json()) | change

    with pytest.raises(ValueError, match=r"this release|not a config|config version"):
        config_of(recorded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"families": ("linear_map", "mnist_huge")},
            r"families has \['mnist_huge'\]; known names are .*wine",
        ),
        ({"validation": ("wine",)}, r"validation has \['wine'\]; known names are .*iris"),
        ({"steps": 0}, "steps=0: expected at least 1"),
        ({"families_per_step": 0}, "families_per_step=0: expected at least 1"),
        ({"pairs": -1}, "pairs=-1: expected at least 1"),
        ({"validation_seeds": 0}, "validation_seeds=0: expected at least 1"),
        ({"validate_every": 0}, "validate_every=0: expected at least 1"),
        ({"horizons": (24, 100)}, r"horizons=\(24, 100\): expected 25 <= shortest <= longest"),
        ({"noise": "pink"}, "noise='pink': expected one of gaussian, orthogonal"),
        ({"noise": "orthogonal", "estimator": "nres"}, "noise='orthogonal' with nres: expected 'gaussian'"),
        ({"family_estimators": (("wine", "pes"),)}, r"family_estimators has \('wine', 'pes'\)"),
        ({"family_estimators": (("linear_map", "guess"),)}, "expected one of `families` and one of es, "),
        ({"last_truncation": 30}, "last_truncation=30: expected 0 or a multiple of 25"),
        ({"truncation": 50, "last_truncation": 25}, "last_truncation=25: expected .* from truncation on"),
        ({"estimator": "backprop", "last_truncation": 75}, "backprop and network_estimator have a fixed one"),
        ({"longest_at_first": 100}, r"longest_at_first=100: expected 0 or a number within \(25, 75\)"),
        ({"horizons": (100, 75)}, r"horizons=\(100, 75\): expected 25 <= shortest <= longest"),
    ],
)
def test_settings_that_could_not_run_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**change)
