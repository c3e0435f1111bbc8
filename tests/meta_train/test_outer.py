"""The outer loop: same seed, same bits, however often it was interrupted."""

import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tensorboardX.proto.event_pb2 import Event

from learned_opt import load_weights, untrained
from learned_opt.config import FLTConfig
from learned_opt.weights import load_card, save_weights
from meta_train import cli
from meta_train.checkpoint import Checkpoints, RunState
from meta_train.config import CHUNK, NETWORK_SIGMA, PRESETS, SIGMA, TrainConfig
from meta_train.outer import Gain, Trainer, load_trained, train
from meta_train.unroll import Score
from tasks.suites import META_TRAIN, VALIDATION

from .fakes import family
from .tiny import OPTIMIZER, settings

ROOT = Path(__file__).parents[2]
COMPILE = Trainer.compile
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


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Two bowls that are the same program, compiled once by the real `Trainer.compile`."""
    compiled: dict[str, Any] = {}

    def compile_once(self: Trainer, watch: Any) -> None:
        if not compiled:
            COMPILE(self, watch)
            compiled.update(programs=self.programs, data=self.data)
        names = {"twin": "bowl", **{name: name for name in compiled["programs"]}}
        self.programs = {name: compiled["programs"][same] for name, same in names.items()}
        self.data = {name: compiled["data"][same] for name, same in names.items()}

    patch = pytest.MonkeyPatch()
    for table, name in ((META_TRAIN, "bowl"), (META_TRAIN, "twin"), (VALIDATION, "bowl_valid")):
        patch.setitem(table, name, family(name, noise=0.3))
    patch.setattr(Trainer, "compile", compile_once)
    patch.setitem(PRESETS, "tiny", run_of())
    yield
    patch.undo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of `run_of()`."""
    out = tmp_path_factory.mktemp("finished")
    train(run_of(), out)
    return out


class Silent:
    """Watches nothing, but remembers the validation scores."""

    def __init__(self) -> None:
        self.means: list[float] = []

    def stepped(self, *_: Any) -> None: ...

    def validated(self, step: int, per_family: Any, mean: float) -> None:
        self.means.append(mean)


def run_of(**changes: Any) -> TrainConfig:
    return settings(**({"families": ("bowl",), "validation": ("bowl_valid",)} | changes))


def saved(out: Path, config: TrainConfig | None = None) -> RunState:
    config = config or run_of()
    with closing(Checkpoints(out, config)) as checkpoints:
        state = checkpoints.restore(Trainer(config).start())
    assert state is not None
    return state


def assert_same_run(left: RunState, right: RunState) -> None:
    """Bit for bit, but for the time that it took."""
    jax.tree.map(np.testing.assert_array_equal, left._replace(seconds=0), right._replace(seconds=0))


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
    assert int(saved(tmp_path).step) == (call - 1 if where == "step" else 2 * call - 1)

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
    found: dict[str, list[int]] = {}
    for file in (finished / "events").iterdir():
        for event in events_in(file.read_bytes()):
            for value in event.summary.value:
                assert np.isfinite(value.simple_value)
                found.setdefault(value.tag, []).append(event.step)

    assert all(found[tag] == [1, 2, 3, 4] for tag in ("meta_gradient_norm", "horizon", "log_loss/bowl"))
    assert found["inner_steps_per_second"] == [1, 2, 3, 4]
    assert found["validation/mean"] == found["validation/bowl_valid"] == [2, 4]
    laws = {tag for tag in found if tag.startswith("law/")}
    assert {"law/log_rate_0", "law/log_warmup", "law/log_decay_power", "law/log_anytime_scale"} <= laws


def events_in(content: bytes) -> Iterator[Event]:
    """The records of a TensorBoard file: length, its checksum, content, its checksum."""
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(run_of())


def test_one_step_moves_each_meta_parameter_in_proportion_to_its_perturbation(trainer: Trainer) -> None:
    """Adam's first step is its rate, whatever the gradient; the unit is a perturbation of 0.1."""
    gradient = jnp.linspace(-1.0, 1.0, trainer.flat.size + 1)[:-1] + 1e-3

    state = trainer.advance(trainer.start(), gradient)

    moved = trainer.unravel(state.flat - trainer.flat)
    signs = trainer.unravel(-jnp.sign(gradient))
    for module, group in moved.items():
        for name, change in group.items():
            expected = 0.03 * SIGMA.get(name, NETWORK_SIGMA) / 0.1 * signs[module][name]
            np.testing.assert_allclose(change, expected, rtol=2e-3, atol=2e-6)
    np.testing.assert_allclose(state.average, 0.9 * trainer.flat + 0.1 * state.flat, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 1


def test_the_outer_rate_decays_to_a_tenth(trainer: Trainer) -> None:
    state, moved = trainer.start(), []
    for _ in range(5):  # one more than the run has steps
        after = trainer.advance(state, jnp.ones(trainer.flat.size))
        moved.append(np.linalg.norm(after.flat - state.flat))
        state = after

    assert moved == sorted(moved, reverse=True)
    assert moved[-1] / moved[0] == pytest.approx(0.1, rel=0.02)


def test_a_long_meta_gradient_is_clipped(trainer: Trainer) -> None:
    """Ten times as long a step back does not outweigh: both are cut to the same length."""
    down = jnp.ones(trainer.flat.size)
    small = trainer.advance(trainer.advance(trainer.start(), down), -down)
    large = trainer.advance(trainer.advance(trainer.start(), down), -10 * down)

    assert float(jnp.linalg.norm(down)) > trainer.config.clip
    np.testing.assert_allclose(small.flat, large.flat, rtol=1e-6, atol=1e-7)


def test_the_average_with_the_best_validation_score_is_remembered(trainer: Trainer) -> None:
    scores = iter([3.0, 1.0, 2.0])  # the weights of the objective sum to one
    trainer.data = {"bowl_valid": None}
    trainer.programs = {"bowl_valid": lambda *_: Score(*[jnp.full(2, next(scores))] * 3)}
    watch, state, averages = Silent(), trainer.start(), []

    for _ in range(3):
        state = trainer.advance(state, jnp.ones(trainer.flat.size))
        averages.append(state.average)
        state = trainer.validate(state, watch)

    np.testing.assert_allclose(watch.means, [3.0, 1.0, 2.0])
    assert float(state.best_score) == pytest.approx(1.0)
    np.testing.assert_array_equal(state.best, averages[1])


def test_the_gain_is_a_paired_comparison() -> None:
    before, after = np.asarray([1.0, 5.0, 3.0, 7.0]), np.asarray([0.0, 4.5, 1.5, 6.0])
    gain = Gain.of(before, after)

    assert (gain.before, gain.after) == (4.0, 3.0)
    assert gain.standard_error == pytest.approx(np.sqrt(np.var([1.0, 0.5, 1.5, 1.0], ddof=1) / 4))
    assert str(gain).endswith("4.000 at the start, 3.000 now: it fell by 1.000, 4.9 standard errors")
    assert str(Gain.of(before[:1], after[:1])).endswith("it fell by 1.000")
    assert str(Gain.of(before, before)).endswith("it fell by 0.000")


def test_a_finished_run_says_what_it_gained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run_of(), tmp_path)
    state, trainer = saved(tmp_path), Trainer(run_of())
    trainer.compile(Silent())

    assert str(trainer.gain(state)) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("families", "per_step", "steps"), [(5, 2, 25), (6, 3, 10), (4, 9, 6), (7, 6, 14)])
def test_every_family_is_used_equally_often(families: int, per_step: int, steps: int) -> None:
    names = tuple(META_TRAIN)[:families]
    trainer = Trainer(run_of(families=names, families_per_step=per_step))
    chosen = [trainer.chosen(step) for step in range(steps)]
    counts = Counter(name for step in chosen for name in step)

    assert {len(step) for step in chosen} == {min(per_step, families)}
    assert counts == dict.fromkeys(names, steps * min(per_step, families) // families)
    rounds = [tuple(name for step in chosen for name in step)[i : i + families] for i in (0, families)]
    assert rounds[0] != rounds[1]  # an order drawn anew for each round
    assert chosen == [trainer.chosen(step) for step in range(steps)]


@pytest.mark.parametrize("bounds", [(25, 25), (25, 75), (100, 1500)])
def test_horizons_are_multiples_of_the_chunk_within_bounds(bounds: tuple[int, int]) -> None:
    trainer = Trainer(run_of(horizons=bounds))

    horizons = [trainer.horizon(step) for step in range(500)]

    assert {horizon % CHUNK for horizon in horizons} == {0}
    assert (min(horizons), max(horizons)) == bounds
    if bounds == (100, 1500):
        assert np.exp(np.mean(np.log(horizons))) == pytest.approx(np.sqrt(100 * 1500), rel=0.15)


def test_every_preset_has_horizons_that_are_whole_chunks() -> None:
    for name, preset in PRESETS.items():
        assert {steps % CHUNK for steps in (*preset.horizons, preset.validation_steps)} == {0}, name


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[FLTConfig], str]:
    def write(config: FLTConfig) -> str:
        path = tmp_path / "start.safetensors"
        theta, _ = untrained(config, jax.random.key(0))
        save_weights(path, jax.tree.map(lambda x: np.asarray(x) + 0.125, theta), config, {})
        return str(path)

    return write


def test_a_run_can_start_from_a_weights_file(weights: Callable[[FLTConfig], str]) -> None:
    path = weights(OPTIMIZER)

    started = Trainer(run_of(start=path))

    np.testing.assert_array_equal(started.flat, ravel_pytree(load_weights(path)[0])[0])
    assert not np.array_equal(started.flat, Trainer(run_of()).flat)


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


@pytest.mark.slow
def test_real_families_train_on_two_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Trainer, "compile", COMPILE)
    config = settings(steps=2, families=("linear_map", "wine"), families_per_step=2)
    train(config, tmp_path)

    state = saved(tmp_path, config)
    assert np.isfinite(state.best_score)
    assert np.isfinite(state.flat).all()
