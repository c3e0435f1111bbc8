"""What the optimizer takes each leaf for: as guessed, as given, and refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from learned_opt import FLTConfig, Geometry, describe, flt_optimizer
from learned_opt.geometry import resolve
from learned_opt.geometry.table import rows

from .common import moved

LAYER = Geometry("matrix", (), (0,), (1,))
STACK = Geometry("matrix", (0,), (1,), (2,))


def guessed(shapes: Any) -> dict[str, str]:
    """Kind and axes of each leaf by its path, for a tree of shapes."""
    params = jax.tree.map(np.zeros, shapes, is_leaf=lambda node: isinstance(node, tuple))
    return {path: f"{kind}: {axes}" for path, _, kind, axes, *_ in rows(params)}


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("b", (5,), "vector: o"),
        ("scale", (), "scalar: -"),
        ("w", (8, 3), "matrix: i o"),
        ("w", (0, 3), "vector: o o"),
        ("conv/kernel", (3, 3, 4, 6), "matrix: i i i o"),
        ("stem/kernel", (7, 7, 3, 64), "matrix: i i i o"),
        ("patches/kernel", (16, 16, 3, 64), "matrix: i i i o"),
        ("conv1/w", (5, 4, 6), "matrix: i i o"),
        ("convs/0/kernel", (5, 4, 6), "matrix: i i o"),
        ("convs/0/kernel", (12, 4, 6), "matrix: b i o"),
        ("conv", (3, 3, 3, 4, 6), "matrix: i i i i o"),
        ("conv", (12, 3, 3, 4, 6), "matrix: b i i i o"),
        ("expert/kernel", (3, 3, 4, 6), "matrix: b b i o"),
        ("norm_mlp/w", (4, 6), "matrix: i o"),
        ("ln_f/weight", (4, 6), "vector: b o"),
        ("conv2_d_transpose/w", (3, 3, 6, 4), "matrix: i i o i"),
        ("embed/w", (50, 8), "embedding: i o"),
        ("wte", (50, 8), "embedding: i o"),
        ("tok", (50, 8), "embedding: i o"),
        ("tokens/w", (50, 8), "embedding: i o"),
        ("position_encoding", (50, 8), "embedding: i o"),
        ("vocab_table", (50, 8), "embedding: i o"),
        ("codebook", (50, 8), "embedding: i o"),
        ("pos_mlp", (50, 8), "matrix: i o"),
        ("token_mixing", (50, 8), "matrix: i o"),
        ("pos/kernel", (50, 8), "matrix: i o"),
        ("Embed_0/embedding", (50, 8), "embedding: i o"),
        ("pos_embedding", (1, 50, 8), "embedding: b i o"),
        ("patch_embed/kernel", (48, 8), "matrix: i o"),
        ("member", (8, 3), "matrix: i o"),
        ("lm_head/kernel", (8, 50), "head: i o"),
        ("unembed", (8, 50), "head: i o"),
        ("lora_b", (4, 8), "matrix: i o"),
        ("B", (4, 8), "matrix: i o"),
        ("rows/bias", (200, 1), "vector: o o"),
        ("batch_norm/scale", (1, 1, 1, 8), "vector: o o o o"),
        ("something", (5, 4, 6), "matrix: b i o"),
        ("gate/kernel", (12, 8, 4, 6), "matrix: b b i o"),
        ("query/kernel", (12, 8, 8), "matrix: b i o"),
    ],
)
def test_one_leaf(path: str, shape: tuple[int, ...], expected: str) -> None:
    tree: Any = shape
    for name in reversed(path.split("/")):
        tree = {name: tree}
    assert guessed(tree) == {path: expected}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"layers": {"w": (12, 8, 3), "b": (12, 3)}}, ["vector: b o", "matrix: b i o"]),
        (
            {"net": {"w": (12, 8, 3), "b": (12, 3), "gain": (12,)}},
            ["vector: b o", "scalar: b", "matrix: b i o"],
        ),
        ({"w": (12, 8, 3), "b": (12, 3)}, ["vector: b o", "matrix: b i o"]),
        ({"blocks": {"w": (64, 64), "b": (64,)}}, ["vector: o", "matrix: i o"]),
        ({"layers": {"q": (64, 64), "k": (64, 64)}}, ["matrix: i o", "matrix: i o"]),
        ({"layers": {"wi": (12, 8, 32), "wo": (12, 32, 8)}}, ["matrix: b i o", "matrix: b i o"]),
        ({"layers": {"0": {"w": (3, 3, 4, 4)}, "1": {"w": (3, 3, 4, 4)}}}, ["matrix: i i i o"] * 2),
        ({"blocks": {"conv": (6, 3, 3, 4, 4), "scale": (6, 4)}}, ["matrix: b i i i o", "vector: b o"]),
        ({"scan": {"w": (8, 12, 3), "b": (3, 12)}}, ["vector: o b", "matrix: i b o"]),
        (
            {"scan": {"norm": {"scale": (12, 8)}, "moe": {"w": (12, 4, 8, 3)}}},
            ["matrix: b b i o", "vector: b o"],
        ),
        (
            {"outer": {"a": (2, 8), "scan": {"w": (2, 3, 8, 4), "b": (2, 3, 4)}}, "c": {"scale": (2, 5)}},
            ["vector: b o", "vector: b o", "vector: b b o", "matrix: b b i o"],
        ),
        ({"attn": {"q": (12, 64, 64), "o": (12, 64, 64)}}, ["matrix: b i o", "matrix: b i o"]),
        ({"attn": {"q": (64, 4, 16), "o": (4, 16, 64)}}, ["matrix: i i o", "matrix: i o o"]),
        (
            {"moe": {"up": (4, 8, 32), "b": (4, 32), "router": (8, 4)}},
            ["vector: b o", "matrix: i o", "matrix: b i o"],
        ),
        ({"embed": {"w": (8, 4), "b": (4,)}}, ["vector: o", "matrix: i o"]),
    ],
)
def test_neighbours_tell_what_is_stacked(shapes: Any, expected: list[str]) -> None:
    assert list(guessed(shapes).values()) == expected


def test_describe() -> None:
    params = {
        "conv": jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32),
        "layers": {"w": np.zeros((12, 8, 6)), "scale": np.zeros(())},
    }
    geometry = {
        "conv": Geometry("matrix", (), (0, 1, 2), (3,)),
        "layers": {
            "w": Geometry("matrix", (0,), (1,), (2,), blocks=((2, 3),), reason="fused"),
            "scale": Geometry("scalar", (), (), ()),
        },
    }
    assert describe(params, geometry).split("\n") == [
        "path          shape    kind    axes     in  out  count  why",
        "conv          3x3x4x6  matrix  i i i o  36    6      1  given",
        "layers/scale  -        scalar  -         1    1      1  given",
        "layers/w      12x8x6   matrix  b i o/3   8    2     36  fused",
    ]
    assert describe({}).split() == ["path", "shape", "kind", "axes", "in", "out", "count", "why"]


def test_dimension_numbers_of_muon() -> None:
    params = {"a": jnp.ones((2, 3, 4, 5)), "b": jnp.ones(3), "c": jnp.ones((3, 4)), "d": jnp.ones((2, 3, 4))}
    numbers = {
        "a": MuonDimensionNumbers((-1, 2), 1),
        "b": None,
        "c": None,
        "d": MuonDimensionNumbers(reduction_axis=1, output_axis=2),
    }
    for given in (numbers, lambda path, leaf: numbers[path]):
        a, b, c, d = resolve(given, params)
        assert (a.kind, a.batch, a.inputs, a.outputs) == ("matrix", (0,), (3, 2), (1,))
        assert (b.kind, b.outputs) == ("vector", (0,))
        assert (c.kind, c.outputs) == ("vector", (0, 1))
        assert (d.batch, d.inputs, d.outputs) == ((0,), (1,), (2,))


def test_a_tree_of_geometries_is_for_all_parameters_where_a_mask_leaves_some_out() -> None:
    geometry = {"in": None, "out": {"w": MuonDimensionNumbers(1, 0)}}
    params = {"in": jnp.ones((3, 4)), "out": {"w": jnp.ones((4, 2))}}
    (w,) = resolve(geometry, params | {"in": optax.MaskedNode()})
    assert (w.inputs, w.outputs) == ((1,), (0,))
    parts = {"trained": flt_optimizer(geometry=geometry), "frozen": optax.set_to_zero()}
    optax.partition(parts, {"in": "frozen", "out": "trained"}).init(params)


def test_layers_that_are_no_matrices_stay_apart() -> None:
    params = {"w": jnp.ones((12, 8, 3)), "b": jnp.ones((12, 3))}
    b, w = resolve({"b": None, "w": None}, params)
    assert (w.kind, w.batch, w.outputs) == ("vector", (0,), (1, 2))
    assert (b.kind, b.batch, b.outputs) == ("vector", (0,), (1,))


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ("muon", "geometry='muon': expected 'auto', a function"),
        (
            {"a": LAYER},
            r"structure.*: no geometry for w of shape \(4, 3\); no parameter for a, given Geometry",
        ),
        ({"w": {"x": LAYER}}, r"w of shape \(4, 3\) was given \{'x'.*expected a Geometry"),
        (
            {"w": Geometry("matrix", (), (0,), (2,))},
            r"w of shape \(4, 3\) was given Geom.*missing: \[1\]; not there: \[2\]",
        ),
        ({"w": Geometry("matrix", (0,), (0,), (1,))}, r"exactly once \(named twice: \[0\]\)"),
        ({"w": Geometry("matrix", (), (-2,), (1,))}, r"not there: \[-2\]"),
        (lambda path, leaf: Geometry("vector", (), (), ()), r"missing: \[0, 1\]"),
        ({"w": Geometry("kernel", (), (0,), (1,))}, "the kind must be one of matrix, head, embedding"),
        ({"w": Geometry("vector", (), (0,), (1,))}, "a vector has batch and output axes only"),
        ({"w": Geometry("scalar", (0,), (), (1,))}, "a scalar has batch axes only"),
        ({"w": Geometry("matrix", (0,), (), (1,))}, "needs an input axis"),
        (
            {"w": Geometry("matrix", (), (0,), (1,), blocks=((1, 2),))},
            r"w of shape \(4, 3\).*axis 1 of size 3 is not divided by 2",
        ),
        ({"w": Geometry("vector", (0,), (), (1,), blocks=((0, 2),))}, "blocks need an input or output axis"),
        ({"w": Geometry("matrix", (), (0,), (1,), blocks=((0, 2), (0, 2)))}, "not axis 0 twice"),
        ({"w": MuonDimensionNumbers(0, 0)}, r"w of shape \(4, 3\) was given Muon.*named twice: \[0\]"),
        ({"w": MuonDimensionNumbers(0, 2)}, r"w of shape \(4, 3\) was given Muon.*not there: \[2\]"),
        ({"w": "matrix"}, r"w of shape \(4, 3\) was given matrix: expected a Geometry"),
    ],
)
def test_refused(geometry: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(geometry, {"w": jnp.ones((4, 3))})


@pytest.mark.parametrize(
    ("shape", "geometry", "view"),
    [
        ((2, 3, 4), STACK, (2, 3, 4)),
        ((4, 2, 3), Geometry("matrix", (1,), (2,), (0,)), (2, 3, 4)),
        ((2, 3, 4, 5, 6), Geometry("matrix", (4, 0), (1, 3), (2,)), (12, 15, 4)),
        ((3, 3, 4, 6), Geometry("matrix", (), (0, 1, 2), (3,)), (1, 36, 6)),
        ((2, 4, 9), Geometry("matrix", (0,), (1,), (2,), ((2, 3), (1, 2))), (12, 2, 3)),
        ((2, 9), Geometry("vector", (0,), (), (1,), ((1, 3),)), (6, 3)),
        ((5, 2, 3), Geometry("vector", (0,), (), (1, 2)), (5, 6)),
        ((5,), Geometry("scalar", (0,), (), ()), (5, 1)),
        ((), Geometry("scalar", (), (), ()), (1, 1)),
    ],
)
def test_views_and_back(shape: tuple[int, ...], geometry: Geometry, view: tuple[int, ...]) -> None:
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    geometry.check(shape)
    tensors = geometry.view(x)
    assert tensors.shape == geometry.view_shape(shape) == view
    assert geometry.count(shape) == view[0]
    np.testing.assert_array_equal(geometry.restore(tensors, shape), x)


def test_a_view_holds_the_layers_of_a_stack_and_the_blocks_of_a_layer() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(STACK.view(jnp.asarray(x)), x)
    turned = Geometry("matrix", (1,), (2,), (0,)).view(jnp.asarray(x.transpose(2, 0, 1)))
    np.testing.assert_array_equal(turned, x)
    fused = Geometry("matrix", (0,), (1,), (2,), blocks=((2, 3),)).view(jnp.asarray(x))
    np.testing.assert_array_equal(fused, [part for layer in x for part in np.split(layer, 3, axis=-1)])


@pytest.mark.slow  # test_layouts.py has quick forms
def test_a_stack_of_layers_is_trained_as_its_layers() -> None:
    config = FLTConfig(rule_width=2, controller_width=2)
    weights = moved(config, 0.1), config
    layers = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    layers[1] *= 30.0  # one unit, step length and blend a layer, not a stack

    def final(params: Any, geometry: Any) -> Any:
        optimizer = flt_optimizer(weights=weights, total_steps=10, geometry=geometry)
        state = optimizer.init(params)

        def step(carry: Any, t: jax.Array) -> Any:
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
