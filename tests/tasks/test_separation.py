"""No row and no stretch of text of a held-out task is in another suite, whatever its source is called."""

import numpy as np
import pytest

from tasks import suites

WINDOW = 64
BASE = 0x9E3779B97F4A7C15  # odd, so that it can be divided by modulo 2^64
INVERSE = pow(BASE, -1, 2**64)


def real_parts(*tables):
    """Both parts of every source of real data in some suites, once each, by the name of a family."""
    families = [family for table in tables for family in table.values() if family.card.source != "synthetic"]
    sources = {id(family.data()): family for family in reversed(families)}
    return [(family.name, part) for family in sources.values() for part in family.data()]


def rows(part):
    """The rows of x, if the part has any; equal values of two types are equal."""
    return [row.tobytes() for row in np.asarray(part["x"], np.float64)] if "x" in part else []


def fingerprints(part):
    """A number for each window of a text, if it is one: equal for equal windows, else almost never."""
    text = np.asarray(part.get("text", []), np.uint64) + np.uint64(1)
    powers, inverses = (np.cumprod(np.full(len(text) + 1, base, np.uint64)) for base in (BASE, INVERSE))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(text * powers[:-1])])
    windows = sums[WINDOW:] - sums[:-WINDOW]  # all modulo 2^64, times a power that follows the place
    return np.unique(windows * inverses[: len(windows)])


def shared(ours, others):
    """Names of those of our parts that have a row or a window which one of the others has too."""
    theirs = {row for _, part in others for row in rows(part)}
    prints = np.unique(np.concatenate([fingerprints(part) for _, part in others]))
    return {
        name
        for name, part in ours
        if not theirs.isdisjoint(rows(part)) or np.isin(fingerprints(part), prints, assume_unique=True).any()
    }


def test_a_copied_row_and_a_copied_window_would_be_seen():
    random = np.random.default_rng(0)
    x, other = (random.integers(0, 255, (50, 8), np.uint8) for _ in range(2))
    copied = np.concatenate([other, x[7:8]]).astype(np.float32)
    assert shared([("a", {"x": x})], [("b", {"x": other})]) == set()
    assert shared([("a", {"x": x})], [("b", {"x": other}), ("c", {"x": copied})]) == {"a"}
    text, other = (random.integers(0, 128, 3000, np.uint8) for _ in range(2))
    for length, names in ((WINDOW - 1, set()), (WINDOW, {"a"})):
        pasted = np.concatenate([other, text[11 : 11 + length], other])
        assert shared([("a", {"text": text})], [("b", {"text": pasted})]) == names


@pytest.mark.slow
def test_held_out_tasks_share_nothing_with_the_others():
    held, others = real_parts(suites.HELD_OUT), real_parts(suites.META_TRAIN, suites.VALIDATION)
    assert {"bible_transformer", "mnist_conv", "molecules"} <= {name for name, _ in held}
    assert {"topics_transformer", "digits_mlp", "iris"} <= {name for name, _ in others}
    assert shared(held, others) == set()
