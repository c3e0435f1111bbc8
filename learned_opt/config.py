"""The structure of a Fourier-Learner optimizer: everything about it that is not a meta-parameter."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

CONFIG_VERSION = 6
MAX_RULE_WIDTH = 64  # compiled unit by unit: a file may not ask for hours of it
MAX_CONTROLLER_WIDTH = 256
MAX_HEADS = 16
MAX_HISTORY = 24  # log-spaced: 16 million steps
MAX_WINDOW = 256  # arrays of state
MAX_MODES = 32
DECAY = "a number strictly between 0 and 1, by at least 1e-9"


def _check(owner: Any, name: str, good: bool, expected: str) -> None:
    if not good:
        value = getattr(owner, name)
        raise ValueError(f"{type(owner).__name__}({name}={_short(value)}): expected {expected}")


def _check_choice(owner: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(owner, name)
    good = isinstance(value, str) and value in choices
    _check(owner, name, good, f"one of {', '.join(map(repr, choices))}")


def _check_bool(owner: Any, name: str) -> None:
    _check(owner, name, isinstance(getattr(owner, name), bool), "True or False")


def _check_width(owner: Any, name: str, low: int, high: int) -> None:
    value = getattr(owner, name)
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _check(owner, name, good, f"an integer from {low} to {high}")


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and 0 < len(value) <= MAX_MODES


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_decay(value: Any) -> bool:
    return _is_number(value) and 1e-9 <= value <= 1 - 1e-9


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


@dataclass(frozen=True)
class Mode:
    """One damped exponential of the temporal memory, bound to one value.

    Its mask over the past is `decay**delta` times 1, `(-1)**delta` or `cos(2 pi frequency delta)`.

    Attributes:
      value: what is remembered, the gradient ("g") or its square ("g2").
      decay: initial modulus of the mode's multiplier, in (0, 1).
      kind: "real" (frequency 0), "alternating" (frequency 1/2: a real, negative multiplier), or "complex"
        (a learned frequency; two arrays of state instead of one).
      frequency: initial frequency of a complex mode, in cycles per step.
      corrected: divide by the same mode run on ones (Adam's bias correction).
      read_ahead: read the mode one step ahead, as Nesterov's momentum does.
    """

    value: Literal["g", "g2"] = "g"
    decay: float = 0.9
    kind: Literal["real", "alternating", "complex"] = "real"
    frequency: float = 0.0
    corrected: bool = True
    read_ahead: bool = False

    def __post_init__(self) -> None:
        """Refuses values that no memory could hold."""
        _check_choice(self, "value", ("g", "g2"))
        _check_choice(self, "kind", ("real", "alternating", "complex"))
        _check(self, "decay", _is_decay(self.decay), DECAY)
        possible = _is_number(self.frequency) and abs(self.frequency) <= 0.5
        _check(self, "frequency", possible, "a number from -0.5 to 0.5")
        _check_bool(self, "corrected")
        _check_bool(self, "read_ahead")
        if self.value == "g2" and self.kind != "real":
            raise ValueError("Mode(value='g2') must be real: an average of squares may not change sign")
        if self.read_ahead and (self.value == "g2" or self.kind == "complex"):
            raise ValueError("Mode(read_ahead=True): expected a real or alternating mode on 'g'")


RELEASE_MODES = (Mode("g", 0.9), Mode("g", 0.99), Mode("g2", 0.985))


@dataclass(frozen=True)
class FLTConfig:
    """Structure of the optimizer. Two weights files fit each other when their configs are equal.

    Attributes:
      modes: the temporal memory of every parameter (see `Mode`); at most one mode holds squares.
      memory: "modal" (constant memory, infinite history) or "window" (the last `window` gradients,
        softmax attention with an additive Fourier encoding; `modes` then only says what is read).
      window: number of gradients that the window memory keeps.
      rule_width: width of the per-parameter network that chooses each parameter's read-out; 0 fixes it.
      controller_width: width of the per-tensor network beside the step-size law; 0 leaves the law alone.
      attention_heads: heads of the controller's attention over a tensor's own past and across the tensors of
        the tree; 0 leaves it out.
      history: tokens of its past that each tensor keeps for that, at log-spaced ages.
      signal_decays: initial decays of the complex modes that remember each tensor's scalar signals.
      law: False switches normalisation, law and blend off: the update is the bare read-out, as in the
        classical optimizers.
      epsilon: absolute constant added to the root of the squares; None makes it relative to the tensor.
      version: layout version of the meta-parameters.
    """

    modes: tuple[Mode, ...] = RELEASE_MODES
    memory: Literal["modal", "window"] = "modal"
    window: int = 16
    rule_width: int = 8
    controller_width: int = 8
    attention_heads: int = 0
    history: int = 12
    signal_decays: tuple[float, ...] = (0.7, 0.95, 0.99)
    law: bool = True
    epsilon: float | None = None
    version: int = field(default=CONFIG_VERSION)

    def __post_init__(self) -> None:
        """Refuses structures that the network cannot be built for."""
        if type(self.version) is not int or self.version != CONFIG_VERSION:
            raise ValueError(
                f"config version {_short(self.version)} is not the version {CONFIG_VERSION} of this release: "
                "install the release that wrote these weights, or export them again"
            )
        _check(
            self,
            "modes",
            _is_tuple(self.modes) and all(isinstance(mode, Mode) for mode in self.modes),
            f"a tuple of 1 to {MAX_MODES} Mode",
        )
        _check_choice(self, "memory", ("modal", "window"))
        _check_width(self, "window", 1, MAX_WINDOW)
        _check_width(self, "rule_width", 0, MAX_RULE_WIDTH)
        _check_width(self, "controller_width", 0, MAX_CONTROLLER_WIDTH)
        _check_width(self, "attention_heads", 0, MAX_HEADS)
        _check_width(self, "history", 1, MAX_HISTORY)
        _check(
            self,
            "signal_decays",
            _is_tuple(self.signal_decays) and all(map(_is_decay, self.signal_decays)),
            f"a tuple of 1 to {MAX_MODES} decays, each {DECAY}",
        )
        _check_bool(self, "law")
        usable = self.epsilon is None or (_is_number(self.epsilon) and 0.0 <= self.epsilon <= 1e30)
        _check(self, "epsilon", usable, "None or a number from 0 to 1e30")
        if self.memory == "window" and any(mode.kind == "complex" for mode in self.modes):
            raise ValueError("FLTConfig(memory='window') reads one average a mode: expected no complex modes")
        squares = sum(mode.value == "g2" for mode in self.modes)
        if squares > 1 or squares == len(self.modes):
            raise ValueError(
                f"FLTConfig(modes={self.modes}): expected at least one mode on g, at most one on g2"
            )
        if self.law and not squares:
            raise ValueError(
                "FLTConfig(law=True) needs a mode on 'g2': the law measures signal against noise"
            )

    def to_json(self) -> str:
        """The config as a JSON object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "FLTConfig":
        """The inverse of `to_json`. Raises ValueError on anything else, and on another version."""
        try:
            fields = json.loads(text)
            if fields.get("version") != CONFIG_VERSION:
                raise ValueError(f"config version {_short(fields.get('version'))}, expected {CONFIG_VERSION}")
            modes = tuple(Mode(**mode) for mode in fields.pop("modes"))
            decays = tuple(fields.pop("signal_decays"))
            return cls(modes=modes, signal_decays=decays, **fields)
        except (TypeError, AttributeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"not a config of version {CONFIG_VERSION}: {error}") from error
