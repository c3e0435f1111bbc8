"""One HTML page with tables and figures inside it: no script, no font, no file beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from meta_train.evaluation.table import Table

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem; color: #111;
  background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #999; }
nav ul { columns: 16rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #666; } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
p.note { font-size: .85rem; color: #444; max-width: 60rem; }
figure { margin: 0; } figure img { width: 100%; min-width: 38rem; max-width: 62rem; height: auto; }
figcaption { font-size: .85rem; color: #444; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
      title: its heading.
      tables: shown first.
      figures: shown after them, each with the text for those who cannot see it.
      text: a paragraph below the heading.
    """

    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[tuple[str, Figure]] = ()
    text: str = ""


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page; figures are SVG images inside of it."""
    links = "".join(
        f'<li><a href="#part{index}">{escape(section.title)}</a></li>'
        for index, section in enumerate(sections)
    )
    parts = "".join(_section(index, section) for index, section in enumerate(sections))
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n<nav><ul>{links}</ul></nav>\n{parts}</body></html>\n"
    )


def _section(index: int, section: Section) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    tables = "".join(map(_table, section.tables))
    figures = "".join(_figure(*each) for each in section.figures)
    return f'<section id="part{index}"><h2>{escape(section.title)}</h2>{text}{tables}{figures}</section>\n'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    caption = f"<caption>{escape(table.title)}</caption>"
    body = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{body}</div>{note}'


def _figure(text: str, figure: Figure) -> str:
    file = io.BytesIO()
    # The same figure gives the same bytes, and text stays text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}">'
    caption = f"<figcaption>{escape(text)}</figcaption>"
    return f'<figure><div class="scroll" tabindex="0">{image}</div>{caption}</figure>\n'
