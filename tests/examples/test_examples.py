"""The examples run, and what they train has learned something."""

import importlib.util
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
