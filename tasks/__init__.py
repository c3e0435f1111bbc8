"""Tasks that optimizers are trained and judged on: small networks on data that travels in packages."""

from tasks import suites
from tasks.base import Card, Config, Split, Task, TaskFamily

__all__ = ["Card", "Config", "Split", "Task", "TaskFamily", "get", "suites"]


def get(name: str) -> TaskFamily:
    """The family of this name, from any suite.

    Raises:
      ValueError: there is none; the message lists the valid names.
    """
    for suite in suites.SUITES.values():
        if name in suite:
            return suite[name]
    valid = ", ".join(name for suite in suites.SUITES.values() for name in suite)
    raise ValueError(f"unknown task {name!r}: expected one of {valid}")
