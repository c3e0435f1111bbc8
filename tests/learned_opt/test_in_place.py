"""A step writes large arrays in place of the old ones, however they are laid out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import flt_optimizer
from learned_opt.geometry import Geometry

LAYOUTS = {
    "a matrix": ((256, 256), "auto"),
    "one layer under scan": ((1, 256, 256), "auto"),
    "a stack of layers": ((3, 160, 160), "auto"),
    "a convolution": ((3, 3, 64, 128), "auto"),
    "heads": ((256, 4, 64), Geometry("matrix", (), (0,), (1, 2))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_needs_no_copy_of_its_memory(layout: str) -> None:
    """Intermediate arrays take 16 bytes a parameter; the memory once more would be 12 beside them."""
    shape, geometry = LAYOUTS[layout]
    params = jnp.ones(shape)
    optimizer = flt_optimizer(total_steps=10, orthogonalize=False, geometry=geometry)

    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, optimizer.init(params), params)
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 17 * params.size
    kept = params.nbytes * 4 + params.size * 2  # parameters, three modes, the direction
    assert memory.alias_size_in_bytes >= kept


def test_a_matrix_laid_out_the_other_way_is_trained_as_its_transpose() -> None:
    """Its entries have another order than the optimizer's, which takes the ordinary way."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(160, 128)), jnp.float32)

    def updates(params: jax.Array, geometry: Geometry) -> jax.Array:
        optimizer = flt_optimizer(total_steps=10, geometry=geometry)
        return jax.jit(optimizer.update)(jnp.sin(params), optimizer.init(params), params)[0]

    usual = updates(weights, Geometry("matrix", (), (0,), (1,)))
    turned = updates(weights.T, Geometry("matrix", (), (1,), (0,)))
    np.testing.assert_allclose(turned.T, usual, rtol=1e-4, atol=1e-7)
