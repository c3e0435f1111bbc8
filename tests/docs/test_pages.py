"""The Python code of the pages runs, from top to bottom of each, and prints what a page says below it."""

import contextlib
import io
import re
import tempfile
from pathlib import Path
from textwrap import dedent

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n((?: {4}[^\n]*\n|\n)+))?", re.MULTILINE | re.DOTALL)
# What the fragments of a page take for granted.
GIVEN = {
    "evaluation": """
import io, json, optax, learned_opt
from meta_train.baselines import Baseline, half_decades, schedule
file, loss, opt_state = io.StringIO(), 0.5, learned_opt.flt_optimizer(weights="flt-v1").init({})
""",
    "masks": """
import haiku as hk, networkx, numpy as np
from learned_opt.flt import ShiftInvariant
from learned_opt.masks import *
from learned_opt.masks import Graph
graph, atoms, frames = networkx.cycle_graph(5), np.ones((4, 3)), 3
adjacency, skeleton, values = networkx.to_scipy_sparse_array(graph), networkx.path_graph(4), np.ones((5, 5))
""",
}
LONG = {"flt"}
# Sections that compile an optimizer of their own, and that no later one needs: the slow test runs them, too.
LONG_SECTIONS = {"coming_from_adamw": ("`total_steps`, or not", "Accumulation", "Precision", "Checkpoints")}
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
PAGES = [name for name, text in TEXTS.items() if "```python" in text]


def test_every_block_is_found():
    assert len(PAGES) >= 6
    for name in PAGES:
        assert len(BLOCK.findall(TEXTS[name])) == TEXTS[name].count("```python\n"), name


@pytest.mark.parametrize("name", [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG)) for p in PAGES])
def test_code_runs_and_prints_what_the_page_says(name, tmp_path, monkeypatch):
    sections = TEXTS[name].split("\n## ")
    left_out = LONG_SECTIONS.get(name, ())
    short = [section for section in sections if section.partition("\n")[0] not in left_out]
    assert len(short) == len(sections) - len(left_out)
    run(name, "\n## ".join(short), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's event loops
@pytest.mark.parametrize("name", LONG_SECTIONS)
def test_the_whole_page_runs(name, tmp_path, monkeypatch):
    run(name, TEXTS[name], tmp_path, monkeypatch)


def run(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))  # pytest removes what a page leaves there
    names: dict[str, object] = {}
    exec(GIVEN.get(name, ""), names)
    for code, expected in BLOCK.findall(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{name}.md", "exec"), names)
        if expected.strip():
            assert printed.getvalue().strip() == dedent(expected).strip()
