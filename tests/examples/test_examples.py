"""The examples run, the one of the README too, and what they train has learned something."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_flax_digits(capsys):
    example("flax_digits").main(["--steps", "60"])

    printed = capsys.readouterr().out
    accuracy = float(printed.split("accuracy ")[1].split("%")[0])
    assert accuracy > 90


def test_haiku_regression(capsys):
    module = example("haiku_regression")
    initial, final, seen = module.train(60)

    assert initial > 0.9
    assert final < 0.55
    assert int(seen["count"]) == 60
    module.main(["--steps", "2"])
    assert "orthogonal share" in capsys.readouterr().out


def test_readme(capsys):
    code = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(capsys.readouterr().out) < 0.02
