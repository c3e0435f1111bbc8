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

from meta_train.evaluation.results import Failure, Outcome, Result
from tasks import cache

FORMAT = 2
SHIPPED = "baselines.jsonl.gz"
OUTCOME = "outcome.json"
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
        found = _read(self.folder / file_name(task, optimizer, key, "json"))
        if found is None and self.shared:
            found = _read(_users() / f"{key}.json") or _shipped().get(key)
        if found is None:
            return None
        result = dataclasses.replace(found, task=task, optimizer=optimizer)
        self._write(self.folder / file_name(task, optimizer, key, "json"), result)
        return result

    def save(self, result: Result) -> None:
        """Write `result` under its key. A cache that cannot be written is no error."""
        self._write(self.folder / file_name(result.task, result.optimizer, result.key, "json"), result)
        if self.shared:
            try:
                _users().mkdir(parents=True, exist_ok=True)
                self._write(_users() / f"{result.key}.json", result)
            except OSError:
                return

    def _write(self, path: Path, result: Result) -> None:
        if path.exists() and _read(path) == result:
            return
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        unfinished.write_text(json.dumps(dataclasses.asdict(result), allow_nan=False, indent=1))
        os.replace(unfinished, path)


def ship(folders: Iterable[Path], file: Path) -> int:
    """Write the results of baselines in folders of `evaluate` into one compressed file, numbers rounded.

    Returns:
      How many there are.
    """
    found = (_read(path) for folder in folders for path in sorted((folder / "runs").glob("*.json")))
    kept = {result.key: result for result in found if result is not None and not result.learned}
    ordered = sorted(kept.values(), key=lambda result: (result.task, result.optimizer, result.steps))
    lines = "".join(json.dumps(_rounded(dataclasses.asdict(result))) + "\n" for result in ordered)
    file.write_bytes(gzip.compress(lines.encode(), mtime=0))
    return len(ordered)


@functools.cache
def _shipped() -> dict[str, Result]:
    file = resources.files("meta_train.evaluation") / SHIPPED
    if not file.is_file():
        return {}
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return {result.key: result for result in (Result(**json.loads(line)) for line in lines)}


def _users() -> Path:
    return cache.folder() / "evaluations"


def file_name(*parts: str) -> str:
    """`a-b-c.ending` from its parts, whatever is in them."""
    *stem, ending = (re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in parts)
    return f"{'-'.join(stem)}.{ending}"


def save_evaluation(results: Iterable[Result], outcome: Outcome, out: Path) -> None:
    """Write which results an evaluation consists of, and what is not in them, to `out`/outcome.json."""
    runs = [file_name(result.task, result.optimizer, result.key, "json") for result in results]
    text = json.dumps({"runs": runs, **dataclasses.asdict(outcome)}, indent=1)
    (out / OUTCOME).write_text(text)


def load_evaluation(out: Path) -> tuple[list[Result], Outcome]:
    """Results and outcome of the last evaluation written to `out`.

    Raises:
      ValueError: there is none.
    """
    try:
        stored = json.loads((out / OUTCOME).read_text())
        results = [_read(out / "runs" / name) for name in stored.pop("runs")]
        failures = [Failure(**failure) for failure in stored.pop("failures")]
        return [result for result in results if result is not None], Outcome(**stored, failures=failures)
    except (OSError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{out} holds no finished evaluation ({error})") from error


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
