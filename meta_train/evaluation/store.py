"""Where finished results are kept: the folder of an evaluation, the user's cache, and what is shipped.

A result's name is the content hash of everything that determines it (task, data, optimizer, grid, seeds,
steps), but neither the version of JAX nor the machine.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from meta_train.evaluation.results import Result
from tasks import cache

FORMAT = 2
SHIPPED = "baselines.jsonl.gz"
DIGITS = 5


class Store:
    """Finished results by key. Each file is written completely or not at all.

    Args:
      folder: where results are written, one JSON file each, and looked for first.
      shared: whether the user's cache (`$FLT_CACHE`/evaluations) and the shipped results are looked at too,
        and the former is written.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        self.folder, self.shared = folder, shared
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, task: str, optimizer: str, key: str) -> Result | None:
        """The finished result with this key, under these names, or None."""
        found = _read(self.folder / _name(task, optimizer, key))
        if found is None and self.shared:
            found = _read(_users() / f"{key}.json") or _shipped().get(key)
        if found is None:
            return None
        result = dataclasses.replace(found, task=task, optimizer=optimizer)
        self._write(self.folder / _name(task, optimizer, key), result)
        return result

    def save(self, result: Result) -> None:
        """Write `result` under its key. A cache that cannot be written is no error."""
        self._write(self.folder / _name(result.task, result.optimizer, result.key), result)
        if self.shared:
            try:
                _users().mkdir(parents=True, exist_ok=True)
                self._write(_users() / f"{result.key}.json", result)
            except OSError:
                return

    def results(self) -> list[Result]:
        """Every result in the folder, in order of their files' names."""
        found = (_read(path) for path in sorted(self.folder.glob("*.json")))
        return [result for result in found if result is not None]

    def _write(self, path: Path, result: Result) -> None:
        if path.exists() and _read(path) == result:
            return
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        unfinished.write_text(json.dumps(dataclasses.asdict(result), allow_nan=False, indent=1))
        os.replace(unfinished, path)


def ship(results: Iterable[Result], file: Path) -> int:
    """Write the baselines among `results` into one compressed file, curves rounded; returns their number."""
    kept = sorted((r for r in results if not r.learned), key=lambda r: (r.task, r.optimizer, r.steps, r.key))
    lines = "".join(json.dumps(_rounded(dataclasses.asdict(result))) + "\n" for result in kept)
    file.write_bytes(gzip.compress(lines.encode(), mtime=0))
    return len(kept)


@functools.cache
def _shipped() -> dict[str, Result]:
    file = resources.files("meta_train.evaluation") / SHIPPED
    if not file.is_file():
        return {}
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return {result.key: result for result in (Result(**json.loads(line)) for line in lines)}


def _users() -> Path:
    return cache.folder() / "evaluations"


def _name(task: str, optimizer: str, key: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{task}-{optimizer}")
    return f"{readable}-{key}.json"


def _read(path: Path) -> Result | None:
    try:
        return Result(**json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError, TypeError):
        return None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return {key: _rounded(each) for key, each in value.items()} if isinstance(value, dict) else value
