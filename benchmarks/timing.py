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


def times_quicker(slow: Callable[[], Any], quick: Callable[[], Any], repeats: int) -> float:
    """Ratio of the median times of two programs that take turns, so that both meet the same machine."""
    times: list[list[float]] = [[], []]
    for _ in range(1 + repeats):
        for run, found in zip((slow, quick), times, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(run())
            found.append(time.perf_counter() - started)
    return float(np.median(times[0][1:]) / np.median(times[1][1:]))


def megabytes(program: jax.stages.Compiled) -> str:
    """Temporary memory of a compiled program, or a dash where the backend does not say."""
    analysis = program.memory_analysis()
    return f"{analysis.temp_size_in_bytes / 1e6:,.0f}" if analysis else "–"


def exponent(times: Mapping[int, float], shortest: int = 0) -> str:
    """Slope of log time over log length, of lengths from `shortest` on; two decimals, or a dash."""
    points = [(length, seconds) for length, seconds in times.items() if length >= shortest]
    return f"{np.polyfit(*np.log(points).T, 1)[0]:.2f}" if len(points) > 1 else "–"
