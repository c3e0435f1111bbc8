"""Relative links in the Markdown files lead to files, and to headings, that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def text(path: Path) -> str:
    return FENCED.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """What GitHub and MyST call the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    links = [link for link in LINK.findall(text(path)) if not re.match(r"\w+:", link)]
    targets = [(link, *link.partition("#")[::2]) for link in links]
    dead = [link for link, file, _ in targets if not (path.parent / file).exists()]
    dead += [
        link
        for link, file, anchor in targets
        if anchor and link not in dead and anchor not in anchors(path.parent / file if file else path)
    ]
    assert not dead


def test_there_are_links():
    assert len(FILES) > 20
    assert len(LINK.findall(text(ROOT / "README.md"))) > 5
