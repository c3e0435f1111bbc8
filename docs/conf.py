"""Sphinx: the pages of this folder, and the reference from docstrings. `make docs` builds them.

Nothing is loaded from the network, neither by the build nor by the pages. Besides what Sphinx warns of, a
public name without a docstring or a place in the reference is a warning, and `make docs` fails on warnings.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import jax.typing
import optax
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.typing import stringify_annotation

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "FLT optimizer"
author = "the FLT optimizer developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = project
html_show_copyright = html_copy_source = False
exclude_patterns = ["_build"]
myst_heading_anchors = 3
default_role = "code"  # `name` in a docstring
add_module_names = False
maximum_signature_line_length = 80
autodoc_default_options = {"members": True}
autodoc_member_order = "groupwise"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False

html_math_renderer = "mathml"

OURS = ("learned_opt", "tasks", "meta_train")
# Types of other packages, and those of ours that only signatures mention.
nitpick_ignore_regex = [
    ("py:.*", rf"(?!({'|'.join(OURS)})\.).*"),
    ("py:class", r".*\.(masks\.static\.Fixed|leaf\.TensorState|recurrent\.Cell|unroll\.Score)"),
]
KEPT: dict[str, list[str]] = {}
logger = logging.getLogger(__name__)


def public() -> Iterator[tuple[str, Any]]:
    """(full name, value) of all that must be in the reference."""
    for top in map(importlib.import_module, OURS):
        found = pkgutil.walk_packages(top.__path__, f"{top.__name__}.")
        for name in (top.__name__, *(info.name for info in found if info.ispkg)):
            package = importlib.import_module(name)
            yield from ((f"{name}.{key}", getattr(package, key)) for key in getattr(package, "__all__", ()))


def check_reference(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns of public names without words of their own, and of those that no page of the reference has."""
    objects, names = env.domains.python_domain.objects, list(public())
    there = [value for name, value in names if name in objects]
    for name, value in names:
        if isinstance(value, ModuleType):
            continue
        generated = f"{name.split('.')[-1]}("  # how a docstring starts that a dataclass wrote
        if isinstance(value, type | FunctionType) and (
            not value.__doc__ or value.__doc__.startswith(generated)
        ):
            logger.warning("%s is public, but has no docstring", name)
        elif not any(value is other for other in there):
            logger.warning("%s is public, but not in the reference", name)


def keep(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keeps a docstring from napoleon, which takes what a property says before a colon for its type."""
    if what in ("property", "attribute", "data"):
        KEPT[name] = list(lines)


def plain_text(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: what is set in by four is a formula, and |x| is an absolute value."""
    written: list[str] = []
    formula, before = False, ""
    for line in KEPT.pop(name, lines):
        if not line.startswith("    "):
            formula = formula and not line
        elif not formula and before and before[0] not in " .:>*-" and not written[-1]:
            formula = True
            written += ["::", ""]
        written.append(line if formula or ">>>" in line else line.replace("|", r"\|"))
        before = line or before
    lines[:] = written


def short_types(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Signatures with the names of unions that JAX and optax give names to."""
    for alias in ("ScalarOrSchedule", "ArrayLike"):
        union = stringify_annotation(getattr(optax, alias, None) or getattr(jax.typing, alias), "smart")
        signature, returns = (text and text.replace(union, alias) for text in (signature, returns))
    return signature, returns


def skip_field(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out fields of which a docstring would only say that they are fields."""
    return True if (getattr(value, "__doc__", None) or "").startswith("Alias for field number") else None


def inline_math(translator: Any, node: nodes.math) -> None:
    """A formula as MathML, which browsers draw without a script."""
    translator.body.append(tex2mathml(node.astext().replace(r"\_", "_")))
    raise nodes.SkipNode


def display_math(translator: Any, node: nodes.math_block) -> None:
    """The same on lines of its own."""
    formula = tex2mathml(node.astext().replace(r"\_", "_"), as_block=True)
    translator.body.append(f'<div style="overflow-x: auto">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connects all of this."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("autodoc-process-docstring", keep, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", plain_text, priority=600)
    app.connect("autodoc-process-signature", short_types)
    app.connect("autodoc-skip-member", skip_field)
    app.connect("env-check-consistency", check_reference)
