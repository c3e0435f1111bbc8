"""The benchmark of a step's cost runs at a tiny size, and says what is known."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("step_cost")


def tables(printed: str) -> list[dict[str, dict[str, str]]]:
    """By optimizer and column, the cells of each table; of columns of one name the first."""
    found = []
    for part in printed.split("|  |")[1:]:
        header, _, *lines = (line.strip("| ") for line in part.split("\n\n")[0].splitlines())
        names = header.split(" | ")
        rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
        assert all(len(row) == 1 + len(names) for row in rows)
        found.append({row[0]: dict(reversed([*zip(names, row[1:], strict=True)])) for row in rows})
    return found


def test_matrices(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(benchmark.Options(matrices=2, size=64, repeats=1))
    (table,) = tables(capsys.readouterr().out)
    assert {name: row["state"] for name, row in table.items()} == {
        "adamw": "8.0",
        "muon": "4.0",
        "flt": "14.0",
        "flt, every 4th step orthogonalised": "16.0",
        "flt, not orthogonal": "14.0",
    }
    assert table["muon"]["/ muon"] == table["adamw"]["/ adamw"] == "1.00"
    assert all(float(cell.replace(",", "")) >= 0 for row in table.values() for cell in row.values())


def test_only_what_is_asked_for(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(benchmark.Options(matrices=1, size=16, repeats=1, beside=("flt, not orthogonal",)))
    (table,) = tables(capsys.readouterr().out)
    assert list(table) == ["adamw", "muon", "flt, not orthogonal"]


@pytest.mark.slow
def test_a_transformer(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 16, "tokens": 16, "length": 8}
    options = benchmark.Options(model="transformer", dtypes=("bfloat16",), repeats=1, calls=2, **sizes)
    benchmark.main(options)
    (table,) = tables(capsys.readouterr().out)
    assert list(table) == list(benchmark.OPTIMIZERS)
    assert table["adamw"]["state"] == "4.0"
    for row in table.values():
        assert float(row["training step, ms"].replace(",", "")) > 0
        assert float(row["peak, MB"].replace(",", "")) > 0
