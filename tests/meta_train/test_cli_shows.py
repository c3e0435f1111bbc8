"""What the command line shows without training anything: `list`, `describe` and `--help`."""

import json
import subprocess
import sys

from meta_train import cli
from meta_train.baselines import BASELINES
from meta_train.config import PRESETS
from tasks import suites


def test_list_shows_every_task_preset_and_baseline(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    names = [*BASELINES, *PRESETS, *suites.META_TRAIN, *suites.VALIDATION, *suites.HELD_OUT]
    assert [name for name in names if name not in printed] == []


def test_describe_shows_every_parameter(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["describe", "signal_conv"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.split("\n")]
    assert [
        "strided_convs/0/kernel",
        "5x1x16",
        "matrix",
        "i",
        "i",
        "o",
        "5",
        "16",
        "1",
        "convolution:",
        "(window...,",
        "in,",
        "out)",
    ] in printed
    assert sum("matrix" in line for line in printed) == 6
    assert cli.main(["describe", "nothing"]) == 2


def test_list_prints_the_cards_as_json(capsys):
    assert cli.main(["list", "--json"]) == 0
    cards = {card["task"]: card for card in json.loads(capsys.readouterr().out)}
    assert set(cards) == {name for table in suites.SUITES.values() for name in table}
    iris = cards["iris"]
    assert (iris["suite"], iris["parameters"], iris["steps"]) == ("validation", 403, 300)
    assert {"kind", "architecture", "source", "licence", "batch_size", "target", "axis"} <= set(iris)


def test_help_explains_every_flag_with_its_default():
    shown = subprocess.run(
        [sys.executable, "-m", "meta_train", "evaluate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for flag in (
        "--out",
        "--weights",
        "--suite",
        "--task",
        "--steps",
        "--baselines",
        "--rates",
        "--max-parallel",
    ):
        assert flag in shown
    assert shown.lower().count("default") >= 9


def test_describe_can_ask_the_program(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["describe", "ratings", "--traced"]) == 0
    assert "the program looks rows up" in capsys.readouterr().out
