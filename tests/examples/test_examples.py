"""The programs of the examples run, the one of the README too, and what they train has learned something."""

import importlib.util
import io
import re
import shutil
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from meta_train.report import write_report

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nnx_digits(capsys):
    example("nnx_digits").main(["--steps", "40"])

    printed = capsys.readouterr().out
    assert float(printed.split("accuracy ")[1].split("%")[0]) > 85


def test_equinox_photo():
    loss, copied = example("equinox_photo").train(40)

    assert loss < 0.9 * copied  # copying the pixel before is most of what there is to learn


def test_haiku_regression_and_the_report_on_its_log(tmp_path, capsys):
    log = tmp_path / "run.jsonl"
    example("haiku_regression").main(["--steps", "60", "--log", str(log)])

    before, after = map(float, re.findall(r"([\d.]+) (?:before|after)", capsys.readouterr().out))
    assert before > 0.8
    assert after < 0.65
    page = write_report(log, Console(file=io.StringIO())).read_text()
    assert "mlp/~/linear_0/w" in page
    assert "The memory of flt-v1" in page


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's event loops
@pytest.mark.parametrize("adamw_rate", [3e-3, pytest.param(None, marks=pytest.mark.slow)])
def test_jax_text_goes_on_as_if_it_had_not_been_stopped(adamw_rate, tmp_path, monkeypatch):
    module = example("jax_text")
    monkeypatch.setattr(module, "SAVED_EVERY", 10)
    begun, whole = module.train(30, adamw_rate, folder=tmp_path)
    for step in ("20", "30"):  # as if it had been killed before these were written
        shutil.rmtree(tmp_path / step)
    begun_again, resumed = module.train(30, adamw_rate, folder=tmp_path)

    assert (begun, begun_again) == (0, 10)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert module.loss_of(resumed, module.load()[1][:64]) < 3  # a guess among 128 is 4.85


@pytest.mark.parametrize("bfloat16", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_finetune_leaves_the_trunk_alone(bfloat16):
    module = example("finetune")
    known, params = module.pretrain(100)
    new, tuned = module.train(params, 60, bfloat16=bfloat16)

    assert known < 0.15  # a guess among five is 1.6
    assert new < 0.3
    jax.tree.map(np.testing.assert_array_equal, params["trunk"], tuned["trunk"])
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((tuned["adapters"], tuned["head"]))} == {jnp.dtype(dtype)}


def test_readme(capsys):
    code = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(capsys.readouterr().out) < 0.02
