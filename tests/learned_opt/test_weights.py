"""Weights files: what is written is read back, and whatever else is read is refused with a useful message."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from learned_opt import FLTConfig, Mode, flt_optimizer, weights
from learned_opt.weights import WeightsError, load_card, load_weights, save_weights

from .common import untrained

CARD = {"tasks": ["mlp", "conv"], "steps": 100, "seed": 0, "note": "σ = 0.1"}
CONFIGS = [
    FLTConfig(),
    FLTConfig(rule_width=0, controller_width=0),
    FLTConfig(modes=(Mode("g", 0.9, "complex", frequency=0.1), Mode("g2", 0.99)), signal_decays=(0.5,)),
    FLTConfig(memory="window", window=4),
]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "valid.safetensors"
    save_weights(path, *untrained(), CARD)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "weights.safetensors"


def assert_same(theta: Any, other: Any) -> None:
    assert jax.tree.structure(theta) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, theta, other)


def rewritten(content: bytes, tensors: dict[str, Any] | None = None, **metadata: str | None) -> bytes:
    """A weights file with some tensors and metadata replaced (None: taken out)."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    merged_tensors = load(content) | (tensors or {})
    merged_metadata = header["__metadata__"] | metadata
    return save(
        {key: value for key, value in merged_tensors.items() if value is not None},
        {key: value for key, value in merged_metadata.items() if value is not None},
    )


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_round_trip(config: FLTConfig, tmp_path: Path) -> None:
    theta, _ = untrained(config, jax.random.key(1))
    save_weights(tmp_path / "new folder" / "w.safetensors", theta, config, CARD)

    loaded, loaded_config = load_weights(str(tmp_path / "new folder" / "w.safetensors"))

    assert_same(loaded, theta)
    assert {array.dtype for array in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    assert loaded_config == config
    assert load_card(tmp_path / "new folder" / "w.safetensors") == CARD
    assert os.listdir(tmp_path / "new folder") == ["w.safetensors"]


def test_equal_content_gives_equal_bytes_that_safetensors_reads(valid: bytes, tmp_path: Path) -> None:
    theta, config = untrained()
    reordered = {module: dict(reversed(group.items())) for module, group in reversed(theta.items())}
    save_weights(tmp_path / "w", reordered, config, dict(reversed(CARD.items())))

    assert (tmp_path / "w").read_bytes() == valid
    np.testing.assert_array_equal(load(valid)["flt/~/rule::w1"], theta["flt/~/rule"]["w1"])


def test_a_file_that_safetensors_wrote_is_read(valid: bytes, scratch: Path) -> None:
    scratch.write_bytes(rewritten(valid))
    assert_same(load_weights(scratch)[0], untrained()[0])


def test_the_optimizer_takes_a_path(valid: bytes, scratch: Path) -> None:
    scratch.write_bytes(valid)
    params = {"w": jnp.ones((3, 2))}
    updates = []
    for chosen in (scratch, untrained()):
        optimizer = flt_optimizer(weights=chosen, total_steps=10)
        updates.append(optimizer.update(params, optimizer.init(params), params)[0]["w"])
    np.testing.assert_array_equal(*updates)


def test_shipped_weights() -> None:
    assert weights.names() == list(weights.SHIPPED)
    packaged = {path.stem for path in Path(weights.__file__).parent.glob("*.safetensors")}
    assert packaged == set(weights.SHIPPED)
    for name in weights.names():
        _, config = load_weights(name)
        assert isinstance(config, FLTConfig)
        assert {"tasks", "steps", "seed", "version"} <= load_card(name).keys()


def test_names_are_looked_up_before_paths(
    valid: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "SHIPPED", ("old", "new"))
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "__init__.py"))
    for name, seed in (("old", 1), ("new", 2)):
        theta, config = untrained(key=jax.random.key(seed))
        save_weights(tmp_path / f"{name}.safetensors", theta, config, {"seed": seed})

    assert load_card("old") == {"seed": 1}
    assert load_card() == {"seed": 2}
    assert_same(load_weights(None)[0], untrained(key=jax.random.key(2))[0])
    with pytest.raises(WeightsError, match=r"'newer' is neither shipped weights \(old, new\) nor a file"):
        load_weights("newer")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is neither shipped weights .* nor a file"):
        load_weights(tmp_path)


def with_config(**changes: object) -> str:
    return json.dumps(json.loads(FLTConfig().to_json()) | changes)


W1 = "flt/~/rule::w1"
DAMAGED: list[tuple[str, dict[str, Any], str]] = [
    ("no format", {"format": None}, "not weights of this optimizer"),
    (
        "another format",
        {"format": "pt"},
        "has card; config; format and format='pt', expected format='flt-optimizer'",
    ),
    ("no config", {"config": None}, "expected .* a config and a card"),
    ("no card", {"card": None}, "expected .* a config and a card"),
    ("config is not JSON", {"config": "{"}, "unusable config"),
    ("config is no object", {"config": "[1]"}, "unusable config"),
    ("deep config", {"config": "[" * 200_000}, "unusable config"),
    ("unknown field", {"config": with_config(depth=3)}, "unusable config.*depth"),
    ("another version", {"config": with_config(version=99)}, "unusable config.*99"),
    ("negative width", {"config": with_config(rule_width=-1)}, "config"),
    ("width of text", {"config": with_config(rule_width="8")}, "config"),
    ("fractional width", {"config": with_config(rule_width=2.5)}, "config"),
    ("another width", {"config": with_config(rule_width=7)}, r"w1 is F32\[6, 8\], expected F32\[6, 7\]"),
    ("missing tensor", {"tensors": {W1: None}}, "1 tensors do not fit the config: flt/~/rule::w1 is missing"),
    ("extra tensor", {"tensors": {"x": np.zeros(1, np.float32)}}, "x is not part of the network"),
    ("wrong shape", {"tensors": {W1: np.zeros((8, 6), np.float32)}}, r"F32\[8, 6\], expected F32\[6, 8\]"),
    ("wrong dtype", {"tensors": {W1: np.zeros((6, 8))}}, r"F64\[6, 8\], expected F32\[6, 8\]"),
    ("NaN", {"tensors": {W1: np.full((6, 8), np.nan, np.float32)}}, "non-finite values in flt/~/rule::w1"),
    ("infinity", {"tensors": {W1: np.full((6, 8), np.inf, np.float32)}}, "use an earlier checkpoint"),
]


@pytest.mark.parametrize(
    ("changes", "message"), [case[1:] for case in DAMAGED], ids=[case[0] for case in DAMAGED]
)
def test_refused(changes: dict[str, Any], message: str, valid: bytes, scratch: Path) -> None:
    scratch.write_bytes(rewritten(valid, **changes))
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(scratch)
    assert str(scratch) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("card", ["{", "[1]", "[" * 200_000])
def test_refused_card(card: str, valid: bytes, scratch: Path) -> None:
    scratch.write_bytes(rewritten(valid, card=card))
    with pytest.raises(WeightsError, match="the card is"):
        load_card(scratch)


@pytest.mark.parametrize("length", [0, 1, 2**20, 100_000_001, 2**63, 2**64 - 1])
def test_hostile_header_length(length: int, valid: bytes, scratch: Path) -> None:
    scratch.write_bytes(length.to_bytes(8, "little") + valid[8:])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_weights(scratch)


@pytest.mark.parametrize("offsets", [[0, 2**62], [-4, 0], [4, 0], [0, 3]])
def test_hostile_offsets(offsets: list[int], scratch: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}).encode()
    scratch.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_weights(scratch)


@given(data=st.data())
def test_every_truncation_is_refused(data: st.DataObject, valid: bytes, scratch: Path) -> None:
    header_end = 8 + int.from_bytes(valid[:8], "little")
    region = data.draw(st.sampled_from([(0, 9), (8, header_end + 1), (header_end, len(valid) - 1)]))
    scratch.write_bytes(valid[: data.draw(st.integers(*region))])
    with pytest.raises(WeightsError, match="it is cut short, damaged or of another kind"):
        load_weights(scratch)


@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content: bytes, scratch: Path) -> None:
    scratch.write_bytes(content)
    with pytest.raises(WeightsError):
        load_weights(scratch)
    with pytest.raises(WeightsError):
        load_card(scratch)


@given(data=st.data())
def test_a_changed_header_never_escapes_the_checks(data: st.DataObject, valid: bytes, scratch: Path) -> None:
    header_end = 8 + int.from_bytes(valid[:8], "little")
    place = data.draw(st.integers(0, header_end - 1))
    scratch.write_bytes(valid[:place] + data.draw(st.binary(min_size=1, max_size=1)) + valid[place + 1 :])
    try:
        theta, config = load_weights(scratch)
    except WeightsError:
        return
    assert jax.tree.map(np.shape, theta) == jax.tree.map(np.shape, untrained(config)[0])


def cast(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.asarray(array, dtype)


UNUSABLE: list[tuple[str, dict[str, Any], str]] = [
    ("float64", {"change": cast(np.float64)}, r"float64\[.*expected F32"),
    ("bfloat16", {"change": cast(jnp.bfloat16)}, r"bfloat16\[.*expected F32"),
    ("NaN", {"change": lambda array: array * np.nan}, "non-finite"),
    ("another config", {"config": FLTConfig(rule_width=3)}, "do not fit the config"),
    ("separator", {"added": {"a::b": {"c": np.zeros(1, np.float32)}}}, "named with '::'"),
    ("card with an array", {"card": {"loss": np.ones(2)}}, "the card cannot be written as JSON"),
    ("card with NaN", {"card": {"loss": float("nan")}}, "the card cannot be written as JSON"),
]


@pytest.mark.parametrize(
    ("case", "message"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE]
)
def test_nothing_unusable_is_written(case: dict[str, Any], message: str, tmp_path: Path) -> None:
    theta, config = untrained()
    theta = jax.tree.map(case.get("change", np.asarray), theta) | case.get("added", {})
    with pytest.raises(WeightsError, match=message):
        save_weights(tmp_path / "w.safetensors", theta, case.get("config", config), case.get("card", CARD))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, *untrained(), CARD)
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left on device"):
        save_weights(path, *untrained(key=jax.random.key(1)), CARD)

    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [path.name]
