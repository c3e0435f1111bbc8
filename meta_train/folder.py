"""A run's folder: one process at a time, and a record of every session that worked in it."""

import datetime
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout


@contextmanager
def occupied(out: Path) -> Iterator[None]:
    """Keeps every other process out of the folder. The lock ends with the process, however it ends.

    Raises:
      BlockingIOError: another process is there.
      OSError: the folder cannot be made, or not be written to.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / "lock", timeout=0):
            yield
    except Timeout as error:
        raise BlockingIOError(
            f"{out} is in use by another run: wait for it, or choose another --out"
        ) from error


def record_session(out: Path) -> None:
    """Adds one line to OUT/sessions.jsonl: when, from which commit and on what this process trains."""
    session = {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
    }
    with (out / "sessions.jsonl").open("a") as file:
        file.write(json.dumps(session) + "\n")


def last_session(out: Path) -> dict[str, Any]:
    """The newest line of that record; nothing if there is none."""
    record = out / "sessions.jsonl"
    return json.loads(record.read_text().splitlines()[-1]) if record.exists() else {}


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
