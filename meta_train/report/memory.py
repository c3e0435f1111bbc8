"""What a learned optimizer remembers: a table and a picture of the modes of its memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from learned_opt import FLTConfig
from meta_train.evaluation.table import Table
from meta_train.pictures import memory_figure, modes_of
from meta_train.report.page import Section


def memory_section(name: str, theta: Any, config: FLTConfig) -> Section:
    """Masks and spectra of the modes in meta-parameters `theta`."""
    title = f"The memory of {name}"
    if config.memory != "modal":
        return Section(title, text=f"A window of the last {config.window} gradients: it has no fixed masks.")
    modes = list(modes_of(theta, config))
    rows = tuple(
        (label, f"{np.exp(-rate):.5f}", f"{1 / rate:.1f}", f"{frequency:.3g}")
        for label, rate, frequency in modes
    )
    table = Table("Modes", ("mode", "decay a step", "remembers, steps", "frequency, cycles a step"), rows)
    text = "Weight of past gradients by their age, and the same as a spectrum: what each mode lets pass."
    return Section(title, [table], [(text, memory_figure(modes))])
