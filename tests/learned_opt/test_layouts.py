"""The same network in any layout trains the same."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from . import layouts

NETWORKS = {
    "transformer": (layouts.transformer, layouts.TRANSFORMER),
    "convnet": (layouts.convnet, layouts.CONVNET),
    "mixture": (layouts.mixture, layouts.MIXTURE),
}
QUICK = ("OIHW",)


@functools.cache
def losses(network: str, layout: str, dtype: Any) -> np.ndarray:
    build, table = NETWORKS[network]
    with jax.enable_x64(dtype is np.float64):
        return layouts.curve(table[layout], build(), dtype)


def rows(quick: tuple[str, ...]) -> list[Any]:
    """(network, layout) for all layouts but the first ones, the slow ones marked."""
    return [
        pytest.param(network, layout, marks=[] if layout in quick else pytest.mark.slow)
        for network, (_, table) in NETWORKS.items()
        for layout in list(table)[1:]
    ]


def check(network: str, layout: str, dtype: Any, tolerance: float) -> None:
    first = losses(network, next(iter(NETWORKS[network][1])), dtype)
    assert first[-1] < 0.95 * first[0]
    np.testing.assert_allclose(losses(network, layout, dtype), first, rtol=tolerance, atol=0)


@pytest.mark.parametrize(("network", "layout"), rows(QUICK))
def test_every_layout_trains_the_same_in_double_precision(network: str, layout: str) -> None:
    check(network, layout, np.float64, 1e-9)


@pytest.mark.parametrize(("network", "layout"), rows(()))
def test_every_layout_trains_the_same_in_single_precision(network: str, layout: str) -> None:
    check(network, layout, np.float32, 1e-4)
