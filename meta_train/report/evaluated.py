"""The report on an evaluation."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from learned_opt import load_weights
from meta_train.evaluation import table
from meta_train.evaluation.compare import comparisons, own_horizon
from meta_train.evaluation.store import load_evaluation
from meta_train.plots import figures
from meta_train.report.diagnostics import diagnostics_section, read_diagnostics
from meta_train.report.memory import memory_section
from meta_train.report.page import Section, write_page

WHAT = {
    "summary": "Ratios of final validation losses with 95% intervals: left of 1 is better, hollow is a tie.",
    "profile": "Performance profile: the share of tasks that end within a factor of the best.",
}


def write_evaluation(out: Path, console: Console) -> Path:
    """Print the tables of the evaluation in `out`; write table.md, results.csv, PNGs and report.html.

    Returns:
      The HTML page.

    Raises:
      ValueError: there is no evaluation in `out`.
    """
    results, outcome = load_evaluation(out)
    made = table.tables(results, outcome)
    table.write_csv(results, out / "results.csv")
    table.write_markdown(made, out / "table.md")
    drawn = figures(own_horizon(results), comparisons(results))
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=130)
    table.print_tables(made, console)
    over_all = [each for each in made if each.title == table.OVER_ALL]
    curves = [(f"Learning curves of {name}.", drawn[name]) for name in drawn if name not in WHAT]
    sections = [
        Section("Results", over_all, [(WHAT[name], drawn[name]) for name in WHAT if name in drawn]),
        Section("Task by task", [each for each in made if each not in over_all]),
        Section("Learning curves", figures=curves),
        *[
            memory_section(file.stem, *load_weights(str(file)))
            for file in sorted((out / "weights").glob("*"))
        ],
        *[
            diagnostics_section(f"What {file.stem} did", read_diagnostics(file))
            for file in sorted((out / "diagnostics").glob("*.jsonl"))
        ],
    ]
    write_page(out / "report.html", f"Evaluation in {out.name}", sections)
    console.print(
        f"report.html, table.md, results.csv and learning curves are in {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return out / "report.html"
