"""What a run starts from, and what is exported from it."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from learned_opt import load_weights, untrained
from learned_opt.config import FLTConfig
from learned_opt.weights import load_card, save_weights
from meta_train import cli
from meta_train.checkpoint import Checkpoints, config_of
from meta_train.config import LAWS_ONLY, PRESETS
from meta_train.outer import train
from meta_train.trained import load_trained
from meta_train.trainer import Trainer

from .bowls import run_of, saved
from .tiny import OPTIMIZER

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[FLTConfig], str]:
    def write(config: FLTConfig) -> str:
        path = tmp_path / "start.safetensors"
        theta, _ = untrained(config, jax.random.key(0))
        save_weights(path, jax.tree.map(lambda x: np.asarray(x) + 0.125, theta), config, {})
        return str(path)

    return write


@pytest.mark.slow
def test_a_run_can_start_from_a_weights_file(weights: Callable[[FLTConfig], str]) -> None:
    path = weights(OPTIMIZER)

    started = Trainer(run_of(start=path))

    np.testing.assert_array_equal(started.flat, ravel_pytree(load_weights(path)[0])[0])
    assert not np.array_equal(started.flat, Trainer(run_of()).flat)


def test_networks_that_weights_lack_begin_without_effect() -> None:
    config = run_of(start="flt-v0", optimizer=replace(LAWS_ONLY, rule_width=2, controller_width=2))
    theta, laws = Trainer(config).theta, load_weights("flt-v0")[0]

    for module, group in laws.items():
        for name, value in group.items():
            np.testing.assert_array_equal(theta[module][name], value)
    assert not np.any(theta["flt/~/rule"]["w3"])
    assert not np.any(theta["flt/~/controller"]["w2"])
    assert np.any(theta["flt/~/rule"]["w1"])


@pytest.mark.slow
def test_weights_of_another_structure_are_refused_and_leave_the_folder_free(
    weights: Callable[[FLTConfig], str], tmp_path: Path
) -> None:
    path, out = weights(FLTConfig(rule_width=3)), tmp_path / "run"

    with pytest.raises(ValueError, match=r"start\.safetensors was made for .*rule_width=3.*rule_width=2"):
        train(run_of(start=path), out)

    train(run_of(), out, time_limit_minutes=1e-9)
    assert int(saved(out).step) == 1


@pytest.mark.parametrize("measured", [True, False])
def test_what_was_best_is_loaded(tmp_path: Path, measured: bool) -> None:
    """Without a measurement, the average."""
    trainer = Trainer(run_of())
    state = trainer.start()._replace(
        step=jnp.int32(3),
        average=trainer.flat + 1,
        best=trainer.flat + 2,
        best_score=jnp.float32(-0.5 if measured else np.inf),
        seconds=jnp.float32(61.7),
    )
    with closing(Checkpoints(tmp_path, run_of())) as checkpoints:
        checkpoints.save(state)

    theta, config, card = load_trained(tmp_path)

    expected = trainer.unravel(state.best if measured else state.average)
    assert jax.tree.structure(theta) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, theta, expected)
    assert config == OPTIMIZER
    assert (card["outer_steps"], card["seconds"], card["settings"]["pairs"]) == (3, 62, 4)


def test_part_of_the_way_from_the_start_is_loaded(
    weights: Callable[[FLTConfig], str], tmp_path: Path
) -> None:
    config = run_of(start=weights(OPTIMIZER))
    trainer = Trainer(config)
    with closing(Checkpoints(tmp_path / "run", config)) as checkpoints:
        checkpoints.save(trainer.start()._replace(average=trainer.flat + 2))

    theta, _, card = load_trained(tmp_path / "run", share=0.25)

    np.testing.assert_allclose(ravel_pytree(theta)[0], trainer.flat + 0.5, rtol=1e-6)
    assert card["share"] == 0.25
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"share={share}: expected more than 0"):
            load_trained(tmp_path / "run", share)


def test_a_folder_without_a_checkpoint_cannot_be_loaded(tmp_path: Path) -> None:
    with closing(Checkpoints(tmp_path, run_of())):
        pass

    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        load_trained(tmp_path)


def test_what_started_from_a_file_is_loaded_without_it(
    weights: Callable[[FLTConfig], str], tmp_path: Path
) -> None:
    path = weights(OPTIMIZER)
    train(run_of(start=path), tmp_path / "run", time_limit_minutes=1e-9)
    Path(path).unlink()

    theta, _, _ = load_trained(tmp_path / "run")

    assert np.isfinite(ravel_pytree(theta)[0]).all()


def test_the_command_trains_and_exports_what_load_weights_reads(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "run", tmp_path / "exported.safetensors"

    assert cli.main(["train", "--preset", "tiny", "--out", str(out)]) == 0
    assert cli.main(["export", str(out), str(file)]) == 0

    printed = capsys.readouterr().out
    assert "step 4:" in printed
    theta, config = load_weights(str(file))
    assert config == OPTIMIZER
    np.testing.assert_array_equal(ravel_pytree(theta)[0], saved(finished).best)
    card = load_card(file)
    assert (card["outer_steps"], card["settings"]["families"]) == (4, ["bowl"])
    assert cli.main(["train", "--preset", "tiny", "--seed", "9", "--out", str(out)]) == 2
    assert "seed: 0 there, 9 here" in " ".join(capsys.readouterr().err.split())


def test_the_preset_of_shipped_weights_has_the_settings_on_their_card():
    """Settings that came later have the values that were fixed then."""
    assert config_of(load_card("flt-v0")["settings"]) == PRESETS["flt-v0"]
