"""Names on the command line: what they stand for, and what there is to choose from."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from meta_train.baselines import Baseline
from tasks import suites
from tasks.base import TaskFamily
from tasks.own import as_family, broken_family

T = TypeVar("T")

DEMO = ("autompg_huber", "mnist_small", "mnist_rows_gru")
"""Three cheap held-out tasks."""
UNTRAINED = "untrained"
NONE = "none"


class UsageError(Exception):
    """Something the user asked for does not exist or makes no sense; the message says what would."""


def one_of(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`.

    Raises:
      UsageError: if there is none; the message lists the names.
    """
    if name not in table:
        raise UsageError(f"there is no {kind} {name!r}; choose from: {', '.join(table)}")
    return table[name]


def families(suite: str, names: Sequence[str]) -> dict[str, TaskFamily]:
    """The families of a suite, or, if `suite` is empty, those called `names`, by the name given.

    Raises:
      UsageError: if one does not exist.
    """
    if suite == "demo":
        return {name: suites.HELD_OUT[name] for name in DEMO}
    if suite:
        return dict(one_of(suites.SUITES, suite, "suite"))
    every = {name: family for table in suites.SUITES.values() for name, family in table.items()}
    return {name: _own_family(name) if ".py:" in name else one_of(every, name, "task") for name in names}


def too_large(families: Mapping[str, TaskFamily], backend: str) -> list[str]:
    """Names of the families whose cards ask for a GPU, if there is none."""
    return [name for name, family in families.items() if family.card.gpu and backend == "cpu"]


def _own_family(name: str) -> TaskFamily:
    found = _own(name)
    try:
        task = found() if isinstance(found, type) else found
        return task if isinstance(task, TaskFamily) else as_family(task, name)
    except Exception as error:  # reported beside the tasks that work
        return broken_family(name, error)


def own_or_named_baseline(name: str) -> str | Baseline:
    """The name of a baseline as it is, or for FILE.py:NAME the `Baseline` of that name in that file."""
    found = _own(name) if ".py:" in name else name
    if not isinstance(found, str | Baseline):
        raise UsageError(f"{name} is a {type(found).__name__}, not a meta_train.baselines.Baseline")
    return found


def _own(name: str) -> Any:
    """What FILE.py:NAME defines. The file may import its neighbours, as a script may."""
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"there is no file {file!r} to take {attribute!r} from")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{file} could not be imported: {type(error).__name__}: {error}") from error
    own = {key: value for key, value in vars(module).items() if _defined_in(value, module.__name__)}
    if attribute not in vars(module):
        raise UsageError(f"{file} has no {attribute!r}; it has: {', '.join(own) or 'none'}")
    return vars(module)[attribute]


def _defined_in(value: Any, module: str) -> bool:
    if isinstance(value, TaskFamily | Baseline):
        return True
    return isinstance(value, type) and value.__module__ == module


def shipped_weights() -> list[str]:
    """Names of the weights in the package, the newest last."""
    from learned_opt import weights

    return list(weights.names())


def named_weights(given: Sequence[str]) -> dict[str, str]:
    """Short, distinct names for what `--weights` was given; the newest shipped weights if that is nothing."""
    given = [weights for weights in given or shipped_weights()[-1:] if weights != NONE]
    stems = [Path(weights).stem if weights.endswith(".safetensors") else weights for weights in given]
    return {
        weights: stem if stems.count(stem) == 1 else weights
        for weights, stem in zip(given, stems, strict=True)
    }


def load_weights(name_or_path: str) -> tuple[Any, Any]:
    """(meta-parameters, config) of shipped weights, a file, or the untrained optimizer.

    Raises:
      UsageError: if there is no such thing, or the file cannot be used.
    """
    import learned_opt

    if name_or_path == UNTRAINED:
        return learned_opt.untrained()
    try:
        return learned_opt.load_weights(name_or_path)
    except (ValueError, OSError) as error:
        names = ", ".join([*shipped_weights(), UNTRAINED])
        raise UsageError(
            f"--weights {name_or_path}: {error} (names: {names}; or a .safetensors file)"
        ) from error


def cards() -> list[dict[str, Any]]:
    """The card of every task, as JSON-able dicts."""
    found = []
    for suite, table in suites.SUITES.items():
        for name, family in table.items():
            card = family.card
            fields = {key: value for key, value in vars(card).items() if key != "shapes"}
            found.append({"task": name, "suite": suite, **fields, "parameters": card.parameters})
    return found


def list_all(console: Console, baselines: Mapping[str, Baseline]) -> None:
    """Print suites, baselines, presets and weights."""
    from meta_train.config import PRESETS

    for suite, table in suites.SUITES.items():
        console.print(_cards(suite, table))
    console.print(f'The suite "demo" is: {", ".join(DEMO)}.\n')
    rows = _table("baselines", "name", "learning rates", "weight decay")
    for row in baselines.values():
        rates = f"{row.rates[0]:g} to {row.rates[-1]:g} ({len(row.rates)})"
        decay = "none" if row.weight_decay is None else f"{row.weight_decay:g}"
        rows.add_row(row.name, rates, decay)
    console.print(rows)
    presets = _table(
        "presets of `train`", "name", "outer steps", "families", "pairs", "horizons", "validation"
    )
    for name, preset in PRESETS.items():
        used = f"{preset.families_per_step} at a time of {len(preset.families)}"
        horizons = "{} to {} steps".format(*preset.horizons)
        validation = f"{len(preset.validation)} families, {preset.validation_steps} steps"
        presets.add_row(name, str(preset.steps), used, str(preset.pairs), horizons, validation)
    console.print(presets)
    weights = _table("weights, the newest last", "name", "made by")
    weights.add_row(UNTRAINED, "hand: where meta-training starts")
    for name in shipped_weights():
        weights.add_row(name, _made_by(name))
    console.print(weights)


def describe(console: Console, name: str, family: TaskFamily, traced: bool) -> None:
    """Print the geometry of a family's parameters, as named or as its program says."""
    from learned_opt.geometry.table import COLUMNS, NUMBERS, rows
    from meta_train.evaluation.runs import geometry

    shown = Table(title=f"parameters of {name}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        shown.add_column(column, justify="right" if column in NUMBERS else "left")
    for row in rows(family.card.shapes(), geometry(family) if traced else "auto"):
        shown.add_row(*row)
    console.print(shown)


def _made_by(name: str) -> str:
    from learned_opt.weights import load_card

    return "; ".join(
        f"{key}: {value}" for key, value in load_card(name).items() if not isinstance(value, dict)
    )


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)


def _cards(suite: str, table: Mapping[str, TaskFamily]) -> Table:
    columns = (
        "task",
        "kind",
        "architecture",
        "parameters",
        "batch",
        "steps",
        "target",
        "data",
        "licence",
        "differs in",
    )
    shown = _table(f"suite {suite}", *columns)
    for name, family in table.items():
        card = family.card
        target = "-" if card.target is None else f"{card.target:g}"
        differs = f"{card.axis}; for a GPU" if card.gpu else card.axis
        sizes = (f"{card.parameters:,}", str(card.batch_size), str(card.steps), target)
        shown.add_row(name, card.kind, card.architecture, *sizes, card.source, card.licence, differs)
    return shown
