"""What the optimizer takes each leaf for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import FLTConfig, Geometry, describe, flt_optimizer
from learned_opt.geometry import auto, resolve

from .common import moved

LAYER = Geometry("matrix", (), (0,), (1,))
STACK = Geometry("matrix", (0,), (1,), (2,))


@pytest.mark.parametrize(
    ("path", "shape", "kind", "inputs", "outputs", "fans"),
    [
        ("['b']", (5,), "vector", (), (0,), (1, 5)),
        ("['scale']", (), "vector", (), (), (1, 1)),
        ("['w']", (8, 3), "matrix", (0,), (1,), (8, 3)),
        ("['conv']['kernel']", (3, 3, 4, 6), "matrix", (0, 1, 2), (3,), (36, 6)),
        ("['embed']['w']", (50, 8), "embedding", (0,), (1,), (1, 8)),
        ("['wte']", (50, 8), "embedding", (0,), (1,), (1, 8)),
        ("['Embed_0']['embedding']", (50, 8), "embedding", (0,), (1,), (1, 8)),
        ("['member']", (8, 3), "matrix", (0,), (1,), (8, 3)),
    ],
)
def test_auto(path, shape, kind, inputs, outputs, fans):
    geometry = auto(path, np.zeros(shape))
    assert (geometry.kind, geometry.stacked, geometry.inputs, geometry.outputs) == (kind, (), inputs, outputs)
    assert geometry.fans(shape) == fans
    assert geometry.count(shape) == 1


def test_a_leaf_without_elements_is_a_vector():
    (geometry,) = resolve("auto", {"w": np.zeros((0, 3))})
    assert (geometry.kind, geometry.reason) == ("vector", "no elements")


def test_describe():
    params = {
        "conv": jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32),
        "layers": {"w": np.zeros((12, 8, 3)), "scale": np.zeros(())},
    }
    geometry = {
        "conv": auto("", params["conv"]),
        "layers": {"w": STACK, "scale": Geometry("vector", (), (), ())},
    }
    assert describe(params, geometry).split("\n") == [
        "path                  shape   kind       in  out  count  why",
        "['conv']              3x3x4x6 matrix     36    6      1  kernel: (window..., in, out)",
        "['layers']['scale']   scalar  vector      1    1      1  given",
        "['layers']['w']       12x8x3  matrix      8    3     12  given",
    ]
    assert describe({}).split() == ["path", "shape", "kind", "in", "out", "count", "why"]


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ("muon", "geometry='muon': expected 'auto', a function"),
        ({"a": LAYER}, "geometry has the structure"),
        ({"w": Geometry("matrix", (), (0,), (2,))}, r"\['w'\] of shape \(4, 3\).*each of the axes 0\.\.1"),
        ({"w": Geometry("matrix", (0,), (0,), (1,))}, "exactly once"),
        (lambda path, leaf: Geometry("vector", (), (), ()), "exactly once"),
    ],
)
def test_refused(geometry, message):
    params = {"w": jnp.ones((4, 3))}
    with pytest.raises(ValueError, match=message):
        resolve(geometry, params)


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((2, 3, 4), Geometry("matrix", (0,), (1,), (2,))),
        ((4, 2, 3), Geometry("matrix", (1,), (2,), (0,))),
        ((2, 3, 4, 5, 6), Geometry("matrix", (4, 0), (1, 3), (2,))),
        ((3, 3, 4, 6), Geometry("matrix", (), (0, 1, 2), (3,))),
    ],
)
def test_matrices_and_back(shape, geometry):
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    matrices = geometry.to_matrices(x)
    assert matrices.shape == (geometry.count(shape), *geometry.fans(shape))
    np.testing.assert_array_equal(geometry.from_matrices(matrices, shape), x)


def test_matrices_of_a_stack_are_its_layers():
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    for layer, matrix in zip(x, STACK.to_matrices(jnp.asarray(x)), strict=True):
        np.testing.assert_allclose(matrix, layer, rtol=1e-6)
    turned = Geometry("matrix", (1,), (2,), (0,)).to_matrices(jnp.asarray(x.transpose(2, 0, 1)))
    np.testing.assert_allclose(turned, x, rtol=1e-6)


def test_a_stack_of_layers_is_trained_as_its_layers():
    config = FLTConfig(rule_width=2, controller_width=2)
    weights = moved(config, 0.1), config
    layers = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    layers[1] *= 30.0  # one unit, step length and blend a layer, not a stack

    def final(params, geometry):
        optimizer = flt_optimizer(weights=weights, total_steps=10, geometry=geometry)
        state = optimizer.init(params)

        def step(carry, t):
            params, state = carry
            gradients = jax.tree.map(lambda p: jnp.sin(7 * p + t) * p**2, params)
            updates, state = optimizer.update(gradients, state, params)
            return (jax.tree.map(jnp.add, params, updates), state), None

        return jax.jit(lambda: jax.lax.scan(step, (params, state), jnp.arange(4.0)))()[0]

    (stack,), stacked_state = final([jnp.asarray(layers)], [STACK])
    separate, state = final(list(map(jnp.asarray, layers)), [LAYER, LAYER])
    assert np.abs(np.asarray(stack) - layers).max() > 0.01
    np.testing.assert_allclose(stack, np.stack(separate), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(stacked_state[0].tensors.exponent, state[0].tensors.exponent)
