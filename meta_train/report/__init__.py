"""Reports: tables on the terminal, CSV and Markdown files, and one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from learned_opt import load_weights
from learned_opt.weights import names
from meta_train.report.diagnostics import diagnostics_section, read_diagnostics
from meta_train.report.evaluated import write_evaluation
from meta_train.report.memory import memory_section
from meta_train.report.page import Section, write_page
from meta_train.report.trained import training_sections

__all__ = ["write_evaluation", "write_report"]


def write_report(source: Path, console: Console) -> Path:
    """Report on a folder of `train` or `evaluate`, or on logged diagnostics.

    Args:
      source: the folder, or a .jsonl file; the report is written into the folder, or beside the file.
      console: where tables are printed.

    Returns:
      The HTML page.

    Raises:
      ValueError: `source` is none of these, or is damaged; the message says where.
    """
    if source.is_file():
        page, lines = source.with_suffix(".html"), read_diagnostics(source)
        sections = [diagnostics_section(source.name, lines), *_masks(lines[-1], source.parent)]
        return _write(page, f"Diagnostics of {source.name}", sections, console)
    if (source / "outcome.json").is_file():
        return write_evaluation(source, console)
    if (source / "events").is_dir():
        return _write(
            source / "report.html", f"Meta-training in {source.name}", training_sections(source), console
        )
    raise ValueError(
        f"{source} is neither a folder that `train` or `evaluate` wrote, nor a .jsonl file with one line of "
        "learned_opt.diagnostics for each logged step"
    )


def _masks(line: Mapping[str, Any], folder: Path) -> list[Section]:
    """The masks over past gradients of the weights that a log in `folder` names."""
    if "weights" not in line:
        return []
    name = str(line["weights"])
    beside = name not in names() and (folder / name).is_file()
    weights = load_weights(folder / name if beside else name)
    return [memory_section(Path(name).name.removesuffix(".safetensors"), *weights)]


def _write(page: Path, title: str, sections: list[Section], console: Console) -> Path:
    tables = [table for section in sections for table in section.tables]
    for table in tables:
        console.print(table.rich())
    if tables:
        tables[0].write_csv(page.with_suffix(".csv"))
    write_page(page, title, sections)
    return page
