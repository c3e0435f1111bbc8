"""The structure of an optimizer: what is refused, and the JSON round trip."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learned_opt import FLTConfig, Mode
from learned_opt.config import CONFIG_VERSION
from learned_opt.optimizer.network import meta_parameter_shapes

GRADIENT, SQUARES = Mode("g", 0.9), Mode("g2", 0.99)
NOT_WIDTHS = [-1, 257, 10**6, 10**400, 2.0, 2.5, True, "8", None, math.nan, [8]]
NOT_DECAYS = [0, 1, 0.0, 1.0, -0.5, 1 - 1e-12, 1e-12, math.nan, math.inf, True, "0.9", None, [0.9], 0.9 + 0j]
NOT_BOOLS = [0, 1, "no", "", None, 1.0]

BAD_MODES: dict[str, list[Any]] = {
    "value": ["g3", "", None, 1, ["g"], True],
    "kind": ["imaginary", "", None, 1, ["real"]],
    "decay": NOT_DECAYS,
    "frequency": [0.51, -0.51, math.nan, math.inf, "0.1", None, True, [0.1]],
    "corrected": NOT_BOOLS,
    "read_ahead": NOT_BOOLS,
}
BAD_CONFIGS: dict[str, list[Any]] = {
    "modes": [(), [GRADIENT, SQUARES], (GRADIENT, "g2"), None, "g", GRADIENT, (GRADIENT,) * 32 + (SQUARES,)],
    "memory": ["x", "", None, 1, ["modal"]],
    "window": [*NOT_WIDTHS, 0],
    "rule_width": NOT_WIDTHS,
    "controller_width": NOT_WIDTHS,
    "signal_decays": [(), [0.9], "0.9", None, 0.9, (0.9,) * 33, *((0.9, bad) for bad in NOT_DECAYS)],
    "law": NOT_BOOLS,
    "epsilon": [-1e-8, math.nan, math.inf, 10**400, "1e-8", True, [1e-8]],
    "version": [
        0,
        CONFIG_VERSION - 1,
        CONFIG_VERSION + 1,
        float(CONFIG_VERSION),
        True,
        "1",
        None,
        "x" * 10_000,
    ],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, bad, id=f"{name}={repr(bad)[:30]}")
        for name, column in table.items()
        for bad in column
    ]


@pytest.mark.parametrize(("name", "bad"), cases(BAD_MODES))
def test_a_mode_names_the_bad_field(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"Mode\({name}=.*expected"):
        Mode(**{name: bad})


@pytest.mark.parametrize(("name", "bad"), cases(BAD_CONFIGS))
def test_a_config_names_the_bad_field(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"FLTConfig\({name}=.*expected|config version") as caught:
        FLTConfig(**{name: bad})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "bad"), [case for case in cases(BAD_CONFIGS) if case.values[0] not in ("modes", "signal_decays")]
)
def test_the_same_in_json(name: str, bad: Any) -> None:
    fields = json.loads(FLTConfig().to_json()) | {name: bad}
    with pytest.raises(ValueError, match=r"expected|config version"):
        FLTConfig.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"signal_decays": ["nan"]},
        {"signal_decays": "abc"},
        {"signal_decays": 5},
        {"signal_decays": {"0.9": 1}},
        {"signal_decays": [math.nan]},
        {"modes": []},
        {"modes": "abc"},
        {"modes": [5]},
        {"modes": {"value": "g"}},
        {"modes": [{"value": "g", "decay": "0.9"}]},
        {"modes": [{"value": "g", "colour": 1}]},
    ],
)
def test_hostile_json(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|not a config"):
        FLTConfig.from_json(json.dumps(json.loads(FLTConfig().to_json()) | fields))


@pytest.mark.parametrize("name", [*json.loads(FLTConfig().to_json())])
def test_every_field_must_hold_something_sensible(name: str) -> None:
    """Whatever JSON a field holds, the answer is a config or a ValueError."""
    original = json.loads(FLTConfig().to_json())
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )

    @given(value=json_values)
    def check(value: Any) -> None:
        try:
            config = FLTConfig.from_json(json.dumps(original | {name: value}))
        except ValueError:
            return
        assert FLTConfig.from_json(config.to_json()) == config
        hash(config)

    check()


@pytest.mark.parametrize(
    ("modes", "law", "message"),
    [
        ((SQUARES,), True, "at least one mode on g"),
        ((GRADIENT, SQUARES, SQUARES), True, "at most one on g2"),
        ((GRADIENT,), True, "needs a mode on 'g2'"),
    ],
)
def test_modes_that_do_not_fit_together(modes: tuple[Mode, ...], law: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FLTConfig(modes=modes, law=law)


@pytest.mark.parametrize("kind", ["alternating", "complex"])
def test_squares_do_not_change_sign(kind: Any) -> None:
    with pytest.raises(ValueError, match="average of squares may not change sign"):
        Mode("g2", 0.9, kind)


@pytest.mark.parametrize(("value", "kind"), [("g2", "real"), ("g", "complex")])
def test_only_some_modes_read_ahead(value: Any, kind: Any) -> None:
    with pytest.raises(ValueError, match="expected a real or alternating mode on 'g'"):
        Mode(value, 0.9, kind, read_ahead=True)


def test_a_window_has_no_complex_modes() -> None:
    with pytest.raises(ValueError, match="expected no complex modes"):
        FLTConfig(memory="window", modes=(Mode("g", 0.9, "complex"), SQUARES))


@pytest.mark.parametrize(
    "config",
    [
        FLTConfig(),
        FLTConfig(modes=(Mode("g", 0.5, "complex", frequency=-0.25, corrected=False), SQUARES)),
        FLTConfig(modes=(Mode("g", 0.9, read_ahead=True),), law=False, epsilon=1e-8),
        FLTConfig(memory="window", window=1, rule_width=0, controller_width=256, signal_decays=(0.1,)),
    ],
    ids=["release", "complex", "classical", "window"],
)
def test_json_round_trip(config: FLTConfig) -> None:
    assert FLTConfig.from_json(config.to_json()) == config
    json.loads(config.to_json(), parse_constant=pytest.fail)


def test_wide_and_narrow_networks_differ_in_shape_only() -> None:
    names = []
    for width in (1, 64):
        shapes = meta_parameter_shapes(FLTConfig(rule_width=width, controller_width=width))
        names.append([(module, *group) for module, group in shapes.items()])
        assert shapes["flt/~/rule"]["w2"] == (width, width)
    assert names[0] == names[1]
