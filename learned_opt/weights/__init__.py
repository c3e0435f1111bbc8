"""Meta-parameters on disk: the weights that ship with the package, and files of one's own.

A weights file is a safetensors file (nothing in it is executed when it is read). Each tensor is named
`module::name` after its place in the two-level Haiku dict, and the metadata holds three strings: `format`,
`config` (the `FLTConfig` as JSON) and `card` (how the weights were made, as a JSON object).
"""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from learned_opt.config import FLTConfig
from learned_opt.weights.writing import serialized, write_atomically

__all__ = ["WeightsError", "load_card", "load_weights", "names", "save_weights"]

Theta = dict[str, dict[str, np.ndarray]]
Layout = dict[str, tuple[tuple[int, ...], str]]  # tensor name: shape, dtype as safetensors spells it
Name = str | os.PathLike[str] | None

SHIPPED: tuple[str, ...] = ("flt-v0", "flt-v1")  # newest last; a name never changes what it does
FORMAT = "flt-optimizer"
SEPARATOR = "::"  # cannot occur in a Haiku module path, which is made of identifiers, "/" and "~"

_HOW_TO_WRITE = "write such a file with `meta-train export` or `learned_opt.weights.save_weights`"
_HOW_TO_RENEW = "copy the file again from its source, or export it again with `meta-train export`"


class WeightsError(ValueError):
    """A weights file, or a name of one, that cannot be used. The message says why and what to do."""


def names() -> list[str]:
    """The names of the shipped weights, newest last."""
    return list(SHIPPED)


def load_weights(name_or_path: Name = None) -> tuple[Theta, FLTConfig]:
    """Reads meta-parameters and the structure that they belong to.

    Args:
      name_or_path: None for the newest shipped weights, a shipped name (see `names`), or else the path of a
        weights file.

    Returns:
      The meta-parameters `{module: {name: float32 array}}` as NumPy arrays, all finite and shaped as the
      config requires; and the config.

    Raises:
      WeightsError: an unknown name, or a file that is damaged, of another kind or of another version.
    """
    path = _resolve(name_or_path)
    with _open(path) as file:
        metadata = _metadata(path, file)
        config = _config(path, metadata["config"])
        headers = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        found = {key: (tuple(head.get_shape()), str(head.get_dtype())) for key, head in headers.items()}
        _check_layout(path, found, config)
        tensors = {key: file.get_tensor(key) for key in sorted(found)}
    _check_finite(path, tensors)
    return _unflatten(tensors), config


def load_card(name_or_path: Name = None) -> dict[str, Any]:
    """Reads how weights were made: a JSON object, such as tasks, steps, seed and versions.

    Args:
      name_or_path: as in `load_weights`.

    Raises:
      WeightsError: an unknown name, or a file without a readable card.
    """
    path = _resolve(name_or_path)
    with _open(path) as file:
        text = _metadata(path, file)["card"]
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the card is not valid JSON ({error}); {_HOW_TO_RENEW}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{path}: the card is {type(card).__name__}, expected an object; {_HOW_TO_RENEW}")
    return card


def save_weights(
    path: str | os.PathLike[str],
    theta: Mapping[str, Mapping[str, Any]],
    config: FLTConfig,
    card: Mapping[str, Any],
) -> None:
    """Writes a weights file, replacing an older one at once or not at all.

    Args:
      path: where to write; missing folders are made.
      theta: meta-parameters `{module: {name: array}}`, concrete float32 arrays (JAX or NumPy).
      config: the structure that `theta` belongs to.
      card: how the weights were made; anything that JSON can hold.

    Raises:
      WeightsError: meta-parameters that do not fit the config, are not finite, or a card that is not JSON.
      OSError: the file could not be written (a full disk, say); an older file is then left as it was.
    """
    path = Path(path)
    tensors = _flatten(path, theta)
    found = {
        key: (array.shape, "F32" if array.dtype == np.float32 else str(array.dtype))
        for key, array in tensors.items()
    }
    _check_layout(path, found, config)
    _check_finite(path, tensors)
    try:
        card_json = json.dumps(dict(card), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: the card cannot be written as JSON ({error}); use plain values"
        ) from error
    metadata = {"format": FORMAT, "config": config.to_json(), "card": card_json}
    write_atomically(path, serialized(tensors, metadata))


def _resolve(name_or_path: Name) -> Path:
    if name_or_path is None:
        name_or_path = SHIPPED[-1]
    if name_or_path in SHIPPED:
        return Path(__file__).with_name(f"{name_or_path}.safetensors")
    path = Path(name_or_path)
    if not path.is_file():
        raise WeightsError(
            f"{os.fspath(name_or_path)!r} is neither shipped weights ({', '.join(SHIPPED)}) nor "
            "a file: give one of these names, or the path of a file that exists"
        )
    return path


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise WeightsError(
            f"{path}: not a readable safetensors file ({size} bytes; {error}): it is cut short, damaged "
            f"or of another kind; {_HOW_TO_RENEW}"
        ) from error


def _metadata(path: Path, file: safe_open) -> dict[str, str]:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT or not {"config", "card"} <= metadata.keys():
        raise WeightsError(
            f"{path}: not weights of this optimizer: its metadata has {_abbreviated(sorted(metadata))} and "
            f"format={_abbreviated(metadata.get('format'))}, expected format={FORMAT!r}, a config and a "
            f"card; {_HOW_TO_WRITE}"
        )
    return metadata


def _config(path: Path, text: str) -> FLTConfig:
    try:
        return FLTConfig.from_json(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: unusable config: {error}; {_HOW_TO_RENEW}") from error


@functools.lru_cache(maxsize=8)
def _expected_layout(config: FLTConfig) -> Layout:
    from learned_opt.optimizer.network import meta_parameter_shapes  # the network itself imports this module

    return {
        _joined(module, name): (tuple(shape), "F32")
        for module, parameters in meta_parameter_shapes(config).items()
        for name, shape in parameters.items()
    }


def _check_layout(path: Path, found: Layout, config: FLTConfig) -> None:
    try:
        expected = _expected_layout(config)
    except (ValueError, TypeError, OverflowError) as error:
        raise WeightsError(f"{path}: no network fits its config ({error}); {_HOW_TO_RENEW}") from error
    problems = [f"{key} is missing" for key in sorted(expected.keys() - found.keys())]
    problems += [f"{key} is not part of the network" for key in sorted(found.keys() - expected.keys())]
    problems += [
        f"{key} is {found[key][1]}{list(found[key][0])}, expected F32{list(expected[key][0])}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    if problems:
        raise WeightsError(
            f"{path}: {len(problems)} tensors do not fit the config: {_abbreviated(problems)}; save "
            "meta-parameters with the config that they were trained under, in float32"
        )


def _check_finite(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    bad = [key for key, array in tensors.items() if not np.isfinite(array).all()]
    if bad:
        raise WeightsError(
            f"{path}: non-finite values in {_abbreviated(bad)}, expected finite numbers: the meta-training "
            "run diverged or the file is damaged; use an earlier checkpoint"
        )


def _joined(module: str, name: str) -> str:
    return f"{module}{SEPARATOR}{name}"


def _flatten(path: Path, theta: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    if any(SEPARATOR in part for module, parameters in theta.items() for part in (module, *parameters)):
        raise WeightsError(f"{path}: a module or parameter is named with {SEPARATOR!r}: rename it")
    return {
        _joined(module, name): np.asarray(array)
        for module, parameters in theta.items()
        for name, array in parameters.items()
    }


def _unflatten(tensors: Mapping[str, np.ndarray]) -> Theta:
    theta: Theta = {}
    for key, array in tensors.items():
        module, name = key.split(SEPARATOR)
        theta.setdefault(module, {})[name] = array
    return theta


def _abbreviated(value: object) -> str:
    text = ("; ".join(map(str, value)) or "nothing") if isinstance(value, list) else repr(value)
    return text if len(text) <= 300 else text[:300] + "…"
