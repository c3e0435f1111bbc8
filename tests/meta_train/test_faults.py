"""What may happen to a run: damage, a full disk, signals, families that break, a second process."""

import gc
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.checkpoint import Checkpoints, RunState, recorded_settings
from meta_train.cli import main
from meta_train.ending import TERMINATED
from meta_train.folder import last_session, occupied
from meta_train.outer import train
from meta_train.trainer import Trainer

from .bowls import Silent, assert_same_run, run_of, saved

pytestmark = pytest.mark.usefixtures("quick_programs")


class Noting(Silent):
    """Remembers what was left out."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: list[tuple[int, str]] = []

    def excluded(self, step: int, family: str) -> None:
        self.left_out.append((step, family))


def damage(checkpoint: Path) -> None:
    """Cuts every file in half."""
    for file in filter(Path.is_file, checkpoint.rglob("*")):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does, for every file of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run with checkpoints of its steps 1, 2 and 3."""
    for _ in range(3):
        train(run_of(), tmp_path, time_limit_minutes=1e-9)
    return tmp_path


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(stopped: Path, finished: Path) -> None:
    damage(stopped / "checkpoints" / "3")

    with pytest.warns(RuntimeWarning, match=r"checkpoint of step 3 in .* cannot be read"):
        assert int(saved(stopped).step) == 2
    assert not (stopped / "checkpoints" / "3").exists()
    train(run_of(), stopped)

    assert_same_run(saved(stopped), saved(finished))


def test_a_run_whose_every_checkpoint_is_damaged_is_refused(stopped: Path) -> None:
    for step in (1, 2, 3):
        damage(stopped / "checkpoints" / str(step))

    with (
        pytest.warns(RuntimeWarning, match="cannot be read"),
        pytest.raises(ValueError, match=r"no checkpoint in .* can be read: they are damaged"),
    ):
        train(run_of(), stopped)

    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == ["1", "2", "3"]


def test_a_checkpoint_that_cannot_be_written_is_an_error_that_says_what_is_kept(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    with closing(Checkpoints(stopped, run_of())) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(OSError, match=r"step 4 could not .*No space left.*that of step 3 is kept"):
            checkpoints.save(saved(stopped)._replace(step=jnp.int32(4)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's event loops
def test_a_full_disk_leaves_the_checkpoint_before(stopped: Path) -> None:
    state = saved(stopped)
    large = state._replace(step=jnp.int32(4), flat=jax.random.normal(jax.random.key(0), (50_000,)))
    message = rf"step 4 could not be written to {stopped} .*that of step 3 is kept"
    with (
        closing(Checkpoints(stopped, run_of())) as checkpoints,
        files_of_at_most(20_000),
        pytest.raises(OSError, match=message),
    ):
        checkpoints.save(large)
    gc.collect()  # what orbax left behind is this test's

    assert_same_run(saved(stopped), state)


def test_sigterm_saves_and_exits(monkeypatch: pytest.MonkeyPatch, finished: Path, tmp_path: Path) -> None:
    step, before = Trainer.step, signal.getsignal(signal.SIGTERM)

    def terminated(self: Trainer, state: RunState, watch: Any) -> RunState:
        if int(state.step) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, state, watch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", terminated)
        with pytest.raises(SystemExit) as left:
            train(run_of(), tmp_path)

    assert left.value.code == TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert int(saved(tmp_path).step) == 2
    train(run_of(), tmp_path)
    assert_same_run(saved(tmp_path), saved(finished))


def test_a_meta_gradient_that_is_not_finite_is_left_out_and_counted() -> None:
    trainer, watch = Trainer(run_of(families=("bowl", "twin"), families_per_step=2)), Noting()
    trainer.compile(watch)  # type: ignore[arg-type]
    first, second = trainer.turns[0]
    combine, found = trainer.combine[first], []
    trainer.combine[first] = lambda *arguments: found.append(combine(*arguments)) or found[0]
    trainer.combine[second] = lambda *arguments: jnp.full_like(trainer.flat, jnp.nan)
    state = trainer.step(trainer.placed(trainer.start()), watch)  # type: ignore[arg-type]

    assert watch.left_out == [(1, second)]
    assert int(state.excluded) == 1
    expected = trainer.advance(trainer.start(), found[0], 1)
    np.testing.assert_allclose(state.flat, expected.flat, rtol=1e-6)


def test_outliers_are_counted(trainer: Trainer) -> None:
    ones = jnp.ones_like(trainer.flat) / trainer.flat.size**0.5

    state = trainer.start()
    for length in (0.5, 2.0, 7.0):
        state = trainer.advance(state, ones * length * trainer.config.clip, 0)

    assert int(state.clipped) == 2
    assert int(state.excluded) == 0


def test_a_folder_in_use_is_refused(finished: Path) -> None:
    with occupied(finished), pytest.raises(BlockingIOError, match="is in use by another run: wait for it"):
        train(run_of(), finished)

    train(run_of(), finished)  # free again


def test_a_folder_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    assert main(["train", "--preset", "tiny", "--out", str(file / "run")]) == 2

    assert f"meta-train: --out {file / 'run'}" in " ".join(capsys.readouterr().err.split())


def test_other_settings_can_be_forced(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)

    assert main(["train", "--preset", "tiny", "--steps", "5", "--out", str(out)]) == 2
    assert main(["train", "--preset", "tiny", "--steps", "5", "--out", str(out), "--override"]) == 0

    assert recorded_settings(out)["steps"] == 5
    assert int(saved(out, run_of(steps=5)).step) == 5


def test_every_session_is_recorded(stopped: Path) -> None:
    lines = (stopped / "sessions.jsonl").read_text().splitlines()

    assert len(lines) == 3
    assert last_session(stopped) == json.loads(lines[-1])
    assert last_session(stopped)["device"] == f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
