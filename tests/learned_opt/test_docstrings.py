"""The examples in docstrings do what they say."""

import doctest
import importlib
import pkgutil

import pytest

import learned_opt

MODULES = [
    "learned_opt",
    *(info.name for info in pkgutil.walk_packages(learned_opt.__path__, "learned_opt.")),
]
LONG = {
    f"learned_opt.flt.{name}" for name in ("attention", "draws", "encoding", "kernels", "streaming", "sums")
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in MODULES]
)
def test_examples_in_docstrings(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
