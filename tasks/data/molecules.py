"""Molecules."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from tasks.base import Split
from tasks.cache import checked, missing
from tasks.data.parts import UNCHANGED, split

ATOMS = 14
ELEMENTS = 14


@cache
def molecules() -> Split:
    """162 molecules of the G2 set: 129 train, 33 validate; enthalpy of formation in kcal/mol.

    x [molecules, 14 + 14²]: each atom's element, numbered from 1 on among those 14 that occur, 0 where there
    is no atom; then the distances of atoms in Å, to a thousandth.
    """
    try:
        from ase.data import atomic_numbers
        from ase.data.g2 import data
    except ImportError as error:
        raise missing("ase==3.29.0") from error
    table: Any = data
    rows = [table[name] for name in sorted(table)]
    symbols = [re.findall("[A-Z][a-z]?", row["symbols"]) for row in rows]
    elements = sorted({each for row in symbols for each in row}, key=atomic_numbers.__getitem__)
    x = np.zeros((len(rows), ATOMS + ATOMS**2), np.float32)
    for row, names, into in zip(rows, symbols, x, strict=True):
        place, count = np.array(row["positions"]), len(names)
        far = np.sqrt(np.square(place[:, None] - place).sum(-1))
        into[:count] = [1 + elements.index(each) for each in names]
        into[ATOMS:].reshape(ATOMS, ATOMS)[:count, :count] = np.round(far, 3)
    order = np.random.RandomState(0).permutation(len(rows))
    y = np.array([[row["enthalpy"]] for row in rows], np.float32)[order]
    sha = "0487dda77e595319c993e02a84d763d4d5d83fabee635aed6731b5fc36d969f1"
    checked("molecules", {"x": x[order], "y": y}, sha)
    train = len(rows) * 4 // 5
    facts = {**UNCHANGED, "y_mean": np.asarray(y[:train].mean()), "y_std": np.asarray(y[:train].std())}
    return split(x[order], y, train, len(rows), facts)
