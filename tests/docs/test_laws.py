"""The tables and equations of the shipped weights on the pages are those of the weights."""

import re
from pathlib import Path

import numpy as np
import pytest

from learned_opt import load_weights
from learned_opt.optimizer.controller import LAWS, feature_names

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, start: str) -> list[list[str]]:
    """The cells of the table rows that start so."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("−", "-")
    lines = re.findall(rf"^\| {start}.*$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_exponents_of_the_laws():
    theta, config = load_weights("flt-v1")
    found = rows("step_size.md", "`")
    assert [cells[0].strip("`") for cells in found] == list(feature_names(config))
    exponents = np.stack([theta["flt/~/controller"][law] for law in LAWS], axis=1)
    assert np.array([cells[-3:] for cells in found], float) == pytest.approx(exponents, abs=0.0051)


def test_schedule():
    theta, _ = load_weights("flt-v1")
    law = {name: float(np.exp(value)) for name, value in theta["flt/~/controller/~/schedule"].items()}
    page = (DOCS / "step_size.md").read_text(encoding="utf-8")
    assert f"w = {law['log_warmup']:.3g}, κ = {law['log_decay_power']:.3g}\n" in page
    anytime = law["log_anytime_warmup"] + 1, law["log_anytime_scale"], law["log_anytime_power"]
    assert "min(1, (t + 1) / {:.3g}) · (1 + t/{:.0f})^−{:.3g}\n".format(*anytime) in page


def test_modes_and_read_outs():
    theta, _ = load_weights("flt-v1")
    decays = np.exp(-np.exp(theta["flt/~/memory"]["log_rate"]))
    found = [float(cells[1]) for cells in rows("modes.md", "(?:fast, of|slow, of|of g)")]
    assert found == pytest.approx(decays, abs=5.1e-5)
    heads = np.array([cells[1:] for cells in rows("modes.md", "(?:elementwise|orthogonal)")], float)
    assert heads == pytest.approx(theta["flt/~/rule"]["read_out"], abs=0.0051)


def test_what_a_lasting_cosine_does():
    controller = load_weights("flt-v1")[0]["flt/~/controller"]
    pole = np.exp(-np.exp(controller["log_rate"]) + 2j * np.pi * controller["frequency"])
    remain = np.real(np.exp(1j * controller["phase"]) * (1 - abs(pole)) / (1 - pole))
    names = feature_names(load_weights("flt-v1")[1])
    exponents = dict(zip(names, controller["step_law"], strict=True))
    cosines = [exponents[f"hypergradient_{mode}"] for mode in range(3)]
    exponent = np.dot(cosines, remain) + exponents["mean_hypergradient"] * remain[2]

    page = re.sub(r"\s+", " ", (DOCS / "step_size.md").read_text(encoding="utf-8"))
    assert "{:.2f}, {:.2f} and {:.2f} remain".format(*remain) in page
    assert f"e^({exponent:.2f} cos)" in page
    half = np.exp(exponent / 2)
    assert f"{half:.2f} times at +0.5, {1 / half:.2f} times at −0.5" in page
