"""What every benchmark does: time a program, weigh it, and fit how its time grows."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls, after one that compiles and warms up."""
    times = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return min(times[1:])


def turns(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of programs that take turns, so that all meet the same machine; one turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(found[1:])) for name, found in times.items()}


def times_quicker(slow: Callable[[], Any], quick: Callable[[], Any], repeats: int) -> float:
    """Ratio of the median times of two programs that take turns."""
    median = turns({"slow": slow, "quick": quick}, repeats)
    return median["slow"] / median["quick"]


def megabytes(program: jax.stages.Compiled) -> str:
    """Temporary memory of a compiled program, or a dash where the backend does not say."""
    analysis = program.memory_analysis()
    return f"{analysis.temp_size_in_bytes / 1e6:,.0f}" if analysis else "–"


def exponent(times: Mapping[int, float], shortest: int = 0) -> str:
    """Slope of log time over log length, of lengths from `shortest` on; two decimals, or a dash."""
    points = [(length, seconds) for length, seconds in times.items() if length >= shortest]
    return f"{np.polyfit(*np.log(points).T, 1)[0]:.2f}" if len(points) > 1 else "–"
