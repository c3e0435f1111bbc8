"""The command line: what it does, what it says about mistakes, and its exit codes."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest

from learned_opt import FLTConfig, untrained
from learned_opt.weights import save_weights
from meta_train import cli, lookup
from meta_train.baselines import BASELINES
from meta_train.commands import evaluate as command
from meta_train.config import PRESETS
from tasks import suites
from tasks.families import for_gpu

from .fakes import nan_family, sgd

OWN_TASK = """
import jax, jax.numpy as jnp, numpy as np

class Bowl:
    steps, batch_size = 20, 2

    def data(self):
        return np.zeros((4, 3), np.float32), np.zeros((2, 3), np.float32)

    def init(self, key):
        return {"w": jax.random.normal(key, (3,))}

    def loss(self, params, batch):
        return 0.1 + jnp.sum((params["w"] - batch - 1) ** 2)

class Crooked(Bowl):
    def loss(self, params):
        return 0.0
"""
DOCUMENTED = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.fixture
def own_task(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN_TASK)
    return file


@pytest.fixture
def fast_weights(monkeypatch):
    """Gradient descent in the place of the learned optimizer, which takes long to compile."""
    monkeypatch.setattr(command, "load_weights", lambda name: untrained())
    monkeypatch.setattr(command, "learned", lambda name, theta, config: sgd(name=name))


def fails(capsys, *argv):
    """The message of a command that is refused."""
    assert cli.main(argv) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return " ".join(message.split())


def test_unknown_names_exit_with_2_and_list_the_valid_ones(capsys, tmp_path):
    out = str(tmp_path)
    message = fails(capsys, "evaluate", "--out", out, "--task", "mnist_huge")
    assert "'mnist_huge'" in message
    assert all(name in message for table in suites.SUITES.values() for name in table)
    message = fails(capsys, "evaluate", "--out", out, "--weights", "untrained", "--baselines", "sgd")
    assert "'sgd'" in message
    assert all(name in message for name in BASELINES)
    message = fails(capsys, "evaluate", "--out", out, "--weights", "no-such-weights")
    assert "no-such-weights" in message
    assert "untrained" in message
    message = fails(capsys, "train", "--out", out, "--preset", "huge")
    assert "'huge'" in message
    assert all(name in message for name in PRESETS)


def test_an_unknown_suite_or_command_exits_with_2(capsys, tmp_path):
    for argv in (["evaluate", "--out", str(tmp_path), "--suite", "everything"], ["reduce"], []):
        with pytest.raises(SystemExit) as stopped:
            cli.main(argv)
        assert stopped.value.code == 2
    assert "held_out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--suite", "demo", "--task", "wine"], "not both"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--rates", "2"], "between 3 and 9 rates"),
        (["--speed-up", "--speed-up-over", "muon"], "speed-up over muon: not evaluated"),
        (["--speed-up", "--stretches", "0"], "stretches must be positive"),
        (["--report-seeds", "0"], "report_seeds must be at least 1"),
        (["--task", "nowhere.py:BOWL"], "no file 'nowhere.py'"),
    ],
)
def test_impossible_requests_exit_with_2(capsys, tmp_path, fast_weights, flags, words):
    assert words in fails(capsys, "evaluate", "--out", str(tmp_path), "--weights", "untrained", *flags)


def test_a_file_without_the_task_names_those_it_has(capsys, tmp_path, own_task):
    message = fails(capsys, "evaluate", "--out", str(tmp_path), "--task", f"{own_task}:Ball")
    assert "has no 'Ball'; it has: Bowl, Crooked" in message
    own_task.write_text("1 / 0")
    message = fails(capsys, "evaluate", "--out", str(tmp_path), "--task", f"{own_task}:Bowl")
    assert "could not be imported: ZeroDivisionError" in message


@pytest.mark.parametrize("line", ["import neighbour_of_own", "from neighbour_of_own import size"])
def test_a_file_may_import_its_neighbours_and_is_another_task_where_they_are_edited(
    tmp_path, monkeypatch, own_task, line
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    neighbour = tmp_path / "neighbour_of_own.py"
    own_task.write_text(f"{line}\n{OWN_TASK}")

    def recipe(size):
        monkeypatch.delitem(sys.modules, neighbour.stem, raising=False)
        neighbour.write_text(f"def size(): return {size}")
        importlib.invalidate_caches()
        name = f"{own_task}:Bowl"
        return lookup.families("", [name])[name].card.recipe

    assert recipe(1) == recipe(1) != recipe(10)
    monkeypatch.delitem(sys.modules, neighbour.stem)


def test_a_result_folder_that_is_a_file_is_refused(capsys, own_task, fast_weights):
    message = fails(capsys, "evaluate", "--out", str(own_task), "--weights", "x", "--task", "wine")
    assert "cannot be used as a folder" in message


def test_train_and_export_refuse_what_cannot_work(capsys, tmp_path):
    assert "must be positive" in fails(capsys, "train", "--out", str(tmp_path), "--time-limit", "0")
    assert "steps=0" in fails(capsys, "train", "--out", str(tmp_path), "--steps", "0")
    assert ".safetensors" in fails(capsys, "export", str(tmp_path), str(tmp_path / "weights.npz"))
    assert "no run" in fails(capsys, "export", str(tmp_path / "nothing"), str(tmp_path / "w.safetensors"))
    assert "nothing to export" in fails(capsys, "export", str(tmp_path), str(tmp_path / "w.safetensors"))


def test_train_passes_its_flags_on(monkeypatch, tmp_path):
    calls = []
    outer = types.SimpleNamespace(train=lambda *arguments: calls.append(arguments))
    monkeypatch.setitem(sys.modules, "meta_train.outer", outer)
    flags = ["--preset", "small", "--steps", "7", "--seed", "3", "--time-limit", "1.5", "--override"]
    flags += ["--estimator", "pes", "--truncation", "75", "--pairs-at-once", "4", "--noise", "orthogonal"]
    flags += ["--last-truncation", "100", "--family-estimators", "wine", "es", "digits_mlp", "truncated-es"]
    assert cli.main(["train", "--out", str(tmp_path), *flags]) == 0
    ((config, out, limit, override),) = calls
    assert (config.estimator, config.truncation, config.pairs_at_once) == ("pes", 75, 4)
    assert (config.noise, config.last_truncation) == ("orthogonal", 100)
    assert config.family_estimators == (("wine", "es"), ("digits_mlp", "truncated-es"))
    assert (config.steps, config.seed, config.pairs) == (7, 3, PRESETS["small"].pairs)
    assert (out, limit, override) == (tmp_path, 1.5, True)
    assert config.start == ""


def test_a_run_takes_over_the_structure_that_it_starts_from(monkeypatch, tmp_path, capsys):
    start = tmp_path / "start.safetensors"
    theta, structure = untrained(FLTConfig(rule_width=2))
    save_weights(start, theta, structure, {})
    calls = []
    outer = types.SimpleNamespace(train=lambda *arguments: calls.append(arguments))
    monkeypatch.setitem(sys.modules, "meta_train.outer", outer)
    assert cli.main(["train", "--out", str(tmp_path), "--start", str(start)]) == 0
    ((config, *_),) = calls
    assert (config.start, config.optimizer) == (str(start), structure)
    assert structure != PRESETS["demo"].optimizer
    assert "flt-v0" in fails(capsys, "train", "--out", str(tmp_path), "--start", "nothing")


def test_ctrl_c_exits_with_130(monkeypatch, capsys, tmp_path):
    def train(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "meta_train.outer", types.SimpleNamespace(train=train))
    assert cli.main(["train", "--out", str(tmp_path)]) == 130
    assert "the same command again" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_writes_table_csv_page_and_pictures_of_tasks_of_ones_own(
    capsys, tmp_path, own_task, fast_weights
):
    out = tmp_path / "results"
    tasks = ["--task", f"{own_task}:Bowl", "--task", f"{own_task}:Crooked", "--steps", "10", "--no-cache"]
    flags = ["--weights", "one.safetensors", "--weights", "two", "--baselines", "adam", "--rates", "3"]
    assert cli.main(["evaluate", "--out", str(out), *tasks, *flags]) == 0
    printed = capsys.readouterr().out
    assert "one" in printed
    assert "Against each baseline, task by task" in printed
    assert "loss is called as loss(params, batch)" in " ".join(printed.split())
    assert len(list((out / "runs").glob("*.json"))) == 3
    assert len((out / "results.csv").read_text().splitlines()) == 1 + 3 * 3
    assert "## Over all tasks" in (out / "table.md").read_text()
    assert len(list(out.glob("*.png"))) == 3
    assert "The memory of two" in (out / "report.html").read_text()

    own_task.write_text(OWN_TASK.replace("0.1 +", "0.2 +"))
    assert cli.main(["evaluate", "--out", str(out), *tasks, *flags]) == 0
    assert "finished earlier" not in capsys.readouterr().out  # an edited task is another task
    assert cli.main(["report", str(out)]) == 0
    assert "Against each baseline, task by task" in capsys.readouterr().out


def documented(start):
    """The block of Python in the documentation that begins like this."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if block.startswith(start))
    return block


def test_the_task_and_the_baseline_of_the_documentation_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FLT_CACHE", str(tmp_path / "cache"))
    task, row = tmp_path / "my_task.py", tmp_path / "my_file.py"
    task.write_text(documented("import jax"))
    assert len(task.read_text().splitlines()) <= 22
    imports = "import optax\nfrom meta_train.baselines import Baseline, half_decades, schedule\n"
    row.write_text(imports + documented("ROW"))
    flags = ["--weights", "none", "--baselines", f"{row}:ROW", "--baselines", "adam", "--rates", "3"]
    command = ["evaluate", "--out", str(tmp_path / "out"), "--task", f"{task}:MyTask", "--steps", "40"]
    assert cli.main([*command, *flags]) == 0
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in rows] == ["sgd"] * 3 + ["adam"] * 3
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
    assert "neither a folder" in capsys.readouterr().err


def test_evaluate_exits_with_1_if_nothing_could_be_run(monkeypatch, capsys, tmp_path, fast_weights):
    monkeypatch.setattr(command, "families", lambda suite, names: {"nan": nan_family()})
    assert (
        cli.main(["evaluate", "--out", str(tmp_path), "--weights", "x", "--baselines", "adam", "--no-cache"])
        == 1
    )
    assert "Could not be run" in capsys.readouterr().out


def test_a_suite_is_evaluated_on_a_cpu_without_its_tasks_for_a_gpu(
    monkeypatch, capsys, tmp_path, fast_weights
):
    both = {"nan": nan_family(), "huge": for_gpu(nan_family("huge"))}
    monkeypatch.setattr(command, "families", lambda suite, names: both)
    flags = ["--weights", "none", "--baselines", "adam", "--no-cache"]
    for chosen, tasks in (["--suite", "held_out"], "1 tasks"), (["--task", "huge"], "2 tasks"):
        assert cli.main(["evaluate", "--out", str(tmp_path), *chosen, *flags]) == 1
        printed = capsys.readouterr().out
        assert tasks in printed
        assert ("ask for a GPU: huge (--task" in printed) == (tasks == "1 tasks")
    assert lookup.too_large(both, "gpu") == []


def test_the_demo_suite_is_held_out_and_the_default(tmp_path, fast_weights):
    assert set(lookup.DEMO) <= set(suites.HELD_OUT)
    chosen, optimizers, protocol, _ = command.Evaluate(out=tmp_path, weights=(("untrained",),))._chosen()
    assert tuple(chosen) == lookup.DEMO
    assert [o.name for o in optimizers] == ["untrained", "adamw"]
    assert protocol.steps == command.DEMO_STEPS


def test_none_leaves_the_baselines_or_the_learned_optimizers_out(tmp_path):
    def names(**flags):
        _, optimizers, _, _ = command.Evaluate(out=tmp_path, **flags)._chosen()
        return [optimizer.name for optimizer in optimizers]

    none = (("none",),)
    assert names(weights=(("untrained",),), baselines=none) == ["untrained"]
    assert names(weights=none) == ["adamw"]
    with pytest.raises(lookup.UsageError, match="leave nothing to evaluate"):
        names(weights=none, baselines=none)
