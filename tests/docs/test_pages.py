"""The Python code of the pages runs, from top to bottom of each, and prints what a page says below it."""

import contextlib
import io
import re
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
file, opt_state = io.StringIO(), learned_opt.flt_optimizer().init({})
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
PAGES = [path.stem for path in sorted(DOCS.glob("*.md")) if "```python" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG)) for p in PAGES])
def test_code_runs_and_prints_what_the_page_says(name):
    names: dict[str, object] = {}
    exec(GIVEN.get(name, ""), names)
    for code, expected in BLOCK.findall((DOCS / f"{name}.md").read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{name}.md", "exec"), names)
        if expected.strip():
            assert printed.getvalue().strip() == dedent(expected).strip()
