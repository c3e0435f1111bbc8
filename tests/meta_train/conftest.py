"""Fixtures of the tests of the outer loop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_train.config import PRESETS
from meta_train.outer import train
from meta_train.trainer import Trainer
from tasks.suites import META_TRAIN, VALIDATION

from .bowls import run_of
from .fakes import family

COMPILE = Trainer.compile


@pytest.fixture(scope="module")
def quick_programs() -> Iterator[None]:
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


@pytest.fixture
def bowls_in_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two bowls as families of the suites."""
    for table, name in ((META_TRAIN, "bowl"), (VALIDATION, "bowl_valid")):
        monkeypatch.setitem(table, name, family(name, noise=0.3))


@pytest.fixture(scope="module")
def finished(quick_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of `run_of()`."""
    out = tmp_path_factory.mktemp("finished")
    train(run_of(), out)
    return out


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(run_of())
