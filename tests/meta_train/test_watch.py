"""What a run leaves for TensorBoard, and what only the first host does."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from learned_opt import FLTConfig
from meta_train.devices import memory_in_use
from meta_train.plots import COLOURS
from meta_train.report.trained import read_events, records
from meta_train.watch import Watch

from .tiny import OPTIMIZER, settings

THETA = {
    "flt/~/memory": {"log_rate": np.log(np.linspace(0.01, 0.5, len(OPTIMIZER.modes)))},
    "flt/~/controller": {"w2": np.arange(6.0).reshape(2, 3)},
    "flt/~/controller/~/schedule": {"log_warmup": np.asarray(-2.0)},
}


def logged(out: Path, optimizer: FLTConfig, theta: Any) -> dict[str, Any]:
    """Values by tag after one measurement."""
    with Watch(out, settings(optimizer=optimizer), 0) as watch:
        watch.learned(2, theta)
    events = [event for file in (out / "events").glob("*") for event in records(file)]
    assert {event.step for event in events if event.summary.value} <= {2}
    return {value.tag: value for event in events for value in event.summary.value}


def test_every_group_of_meta_parameters_becomes_a_histogram(tmp_path: Path) -> None:
    found = logged(tmp_path, OPTIMIZER, THETA)

    (rates,), (w2,), (warmup,) = (group.values() for group in THETA.values())
    expected = {"memory/log_rate": rates, "controller/w2": w2, "controller/schedule/log_warmup": warmup}
    assert set(found) == {*expected, "masks"}
    for tag, values in expected.items():
        histogram = found[tag].histo
        assert (histogram.num, sum(histogram.bucket)) == (values.size, values.size)
        assert (histogram.min, histogram.max) == (values.min(), values.max())
    assert read_events(tmp_path / "events") == {}  # none of this is a curve


def test_masks_become_a_picture_with_a_curve_for_each_mode(tmp_path: Path) -> None:
    encoded = logged(tmp_path, OPTIMIZER, THETA)["masks"].image.encoded_image_string

    pixels = matplotlib.image.imread(io.BytesIO(encoded))
    assert pixels.shape == (400, 1000, 3)
    drawn = {tuple(colour) for colour in np.round(255 * pixels.reshape(-1, 3)).astype(int)}
    assert {matplotlib.colors.to_rgb(c) for c in COLOURS[: len(OPTIMIZER.modes)]} <= {
        tuple(np.asarray(colour) / 255) for colour in drawn
    }


def test_a_window_has_no_picture(tmp_path: Path) -> None:
    assert logged(tmp_path, FLTConfig(memory="window", window=2), {}) == {}


def test_other_hosts_are_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)

    with Watch(tmp_path, settings(), 0) as watch:
        watch.say("a line")
        watch.validated(2, {"bowl": np.ones(2)}, 1.0)
        watch.learned(2, {})

    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_memory_is_that_of_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(now: int, most: int) -> SimpleNamespace:
        return SimpleNamespace(memory_stats=lambda: {"bytes_in_use": now, "peak_bytes_in_use": most})

    monkeypatch.setattr(jax, "local_devices", lambda: [device(1 << 30, 3 << 30), device(2 << 30, 2 << 30)])
    assert memory_in_use() == {"now": 2.0, "most": 3.0}
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: None)])
    assert memory_in_use() == {}
