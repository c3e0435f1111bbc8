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
ROWS = [(name, layout) for name, (_, table) in NETWORKS.items() for layout in list(table)[1:]]
DOUBLE, SINGLE = (np.float64, 1e-9), (np.float32, 1e-4)


@functools.cache
def losses(network: str, layout: str, dtype: Any) -> np.ndarray:
    build, table = NETWORKS[network]
    with jax.enable_x64(dtype is np.float64):
        return layouts.curve(table[layout], build(), dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [DOUBLE, pytest.param(*SINGLE, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("network", "layout"), ROWS)
def test_every_layout_trains_the_same(network: str, layout: str, dtype: Any, tolerance: float) -> None:
    first = losses(network, next(iter(NETWORKS[network][1])), dtype)
    found = losses(network, layout, dtype)
    assert first[-1] < 0.9 * first[0]
    np.testing.assert_allclose(found, first, rtol=tolerance, atol=0)
