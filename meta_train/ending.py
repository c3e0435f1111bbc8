"""What ends a run before its last step: a time limit, Ctrl-C or SIGTERM."""

import signal
import threading
import time
from typing import Self

from meta_train.hosts import largest, several

EXPIRED, INTERRUPTED, TERMINATED = 1, 128 + signal.SIGINT, 128 + signal.SIGTERM  # the last two: exit codes


class Ending:
    """A context manager that makes SIGTERM an exception, so that what was reached is saved on the way out.

    One host alone meets the exception at once. Several must stop at the same step: a signal to any of them is
    noted, and is an exception on all of them when they next ask whether to stop.
    """

    def __init__(self, time_limit_minutes: float | None):
        self._limit = float("inf") if time_limit_minutes is None else 60 * time_limit_minutes
        self._started = time.monotonic()
        self._told = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Begins to handle signals."""
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            numbers = (signal.SIGTERM, signal.SIGINT) if several() else (signal.SIGTERM,)
            self._before = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Handles them as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def passed(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._started

    def stop(self) -> bool:
        """Whether the time limit is reached, on all hosts alike.

        Raises:
          KeyboardInterrupt, SystemExit: one of several hosts was told to.
        """
        reason = largest(max(self._told, EXPIRED * (self.passed() > self._limit)))
        if reason == INTERRUPTED:
            raise KeyboardInterrupt
        if reason == TERMINATED:
            raise SystemExit(TERMINATED)
        return reason == EXPIRED

    def _hear(self, number: int, frame: object) -> None:
        self._told = 128 + number
        if not several():
            raise SystemExit(self._told)
