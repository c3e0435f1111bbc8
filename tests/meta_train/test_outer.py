"""A run of the outer loop: same seed, same bits, however often it was interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.checkpoint import RunState
from meta_train.outer import train
from meta_train.report.trained import read_events
from meta_train.trainer import Trainer

from .bowls import assert_same_run, run_of, saved

ROOT = Path(__file__).parents[2]
UNTIL_INTERRUPTED = """
import signal, sys
from fakes import family
from tiny import settings
from meta_train.cli import main
from meta_train.config import PRESETS
from tasks.suites import META_TRAIN, VALIDATION

signal.signal(signal.SIGINT, signal.default_int_handler)
META_TRAIN["bowl"], VALIDATION["bowl_valid"] = family(noise=0.3), family(noise=0.1)
PRESETS["tiny"] = settings(
    steps=100_000, families=("bowl",), validation=("bowl_valid",), validate_every=1_000
)
sys.exit(main(["train", "--preset", "tiny", "--out", sys.argv[1]]))
"""

pytestmark = pytest.mark.usefixtures("quick_programs")


def test_the_same_seed_gives_the_same_bits(finished: Path, tmp_path: Path) -> None:
    train(run_of(), tmp_path / "again")
    train(run_of(seed=1), tmp_path / "other")

    state = saved(finished)
    assert int(state.step) == 4
    assert np.isfinite(state.flat).all()
    assert 0 < state.seconds < 600
    assert_same_run(saved(tmp_path / "again"), state)
    assert not np.array_equal(saved(tmp_path / "other", run_of(seed=1)).flat, state.flat)


def test_the_meta_parameters_move_and_their_average_follows(finished: Path) -> None:
    start, state = Trainer(run_of()).flat, saved(finished)

    moved, followed = (float(jnp.linalg.norm(x - start)) for x in (state.flat, state.average))

    assert 0 < followed < 0.5 * moved


def test_a_run_stopped_after_every_step_equals_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    for step in range(1, 5):
        train(run_of(), tmp_path, time_limit_minutes=1e-9)
        assert int(saved(tmp_path).step) == step

    assert_same_run(saved(tmp_path), saved(finished))


@pytest.mark.parametrize("where", ["step", "validate"])
@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch, finished: Path, tmp_path: Path, where: str, call: int
) -> None:
    method, calls = getattr(Trainer, where), []

    def interrupted(self: Trainer, *arguments: Any) -> RunState:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return method(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(run_of(), tmp_path)
    assert int(saved(tmp_path).step) == call - 1  # the start is validated, and then every second step

    train(run_of(), tmp_path)

    assert_same_run(saved(tmp_path), saved(finished))


def test_time_adds_up_over_interruptions(tmp_path: Path) -> None:
    seconds = []
    for _ in range(2):
        train(run_of(), tmp_path, time_limit_minutes=1e-9)
        seconds.append(float(saved(tmp_path).seconds))

    assert 0 < seconds[0] < seconds[1]


def test_a_finished_run_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = saved(finished)
    monkeypatch.setattr(Trainer, "compile", None)

    train(run_of(), finished)

    assert "finished run of 4 steps" in capsys.readouterr().out
    assert_same_run(saved(finished), before)


def test_a_folder_with_another_run_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings \(pairs: 4 there, 6 here; seed: 0 there, 3 here\)"):
        train(run_of(seed=3, pairs=6), finished)


def test_tensorboard_shows_progress_laws_and_validation(finished: Path) -> None:
    series = read_events(finished / "events")
    assert all(np.isfinite(value) for values in series.values() for value in values.values())
    found = {tag: sorted(values) for tag, values in series.items()}

    assert all(found[tag] == [1, 2, 3, 4] for tag in ("meta_gradient_norm", "horizon", "log_loss/bowl"))
    assert found["inner_steps_per_second"] == [1, 2, 3, 4]
    assert found["validation/mean"] == found["validation/bowl_valid"] == [0, 2, 4]
    laws = {tag for tag in found if tag.startswith("law/")}
    assert {"law/log_rate_0", "law/log_warmup", "law/log_decay_power", "law/log_anytime_scale"} <= laws


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-c", UNTIL_INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("step 2:"):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read()

    assert process.returncode == 130
    assert "interrupted; the same command again continues" in errors
    assert "Traceback" not in errors
    (step,) = (tmp_path / "checkpoints").iterdir()
    assert int(step.name) >= 1  # the second step was shown, and perhaps not yet taken over
