"""What a program does with its parameters, read off it: the same as names and shapes say of our own tasks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from learned_opt import flt_optimizer, geometry_of
from learned_opt.geometry.table import rows
from tasks.suites import HELD_OUT, META_TRAIN, VALIDATION

from .layouts import CONVNET, MIXTURE, TRANSFORMER, Layout, convnet, mixture, transformer

X = jnp.zeros((6, 8))
IDS = jnp.zeros((6, 5), jnp.int32)


def roles(params: Any, geometry: Any = "auto") -> dict[str, str]:
    """Kind and axes of each leaf by its path; heads are matrices."""
    table = rows(params, geometry)
    return {path: f"{kind.replace('head', 'matrix')}: {axes}" for path, _, kind, axes, *_ in table}


def _where_used(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda use: lambda params, *args: use(params[name], *args)


def _one_hot(w: Any, ids: Any) -> Any:
    return jax.nn.one_hot(ids, 20) @ w


def _expert_of_each(w: Any, x: Any, ids: Any) -> Any:
    return jnp.einsum("bi,bio->bo", x, w[ids[:, 0]])


def _scanned(w: Any, x: Any) -> Any:
    return jax.lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), x, w)[0]


def _scanned_biases(w: Any, x: Any) -> Any:
    return jax.lax.scan(lambda h, bias: (h + bias, None), x.reshape(6, 2, 4), w)[0]


def _out_of_heads(w: Any, x: Any) -> Any:
    return jnp.einsum("bhs,hso->bo", x.reshape(6, 2, 4), w)


def _cut(w: Any, x: Any) -> Any:
    return [x @ part for part in jnp.split(w, 3, -1)]


def _indexed(w: Any, x: Any) -> Any:
    return [x @ w.reshape(8, 3, 3)[:, part] for part in range(3)]


def _cut_twice(w: Any, x: Any) -> Any:
    return [x @ part for half in jnp.split(w, 2, -1) for part in jnp.split(half, 2, -1)]


def _ensemble(w: Any, x: Any) -> Any:
    return jnp.einsum("ebi,eio->ebo", jnp.stack([x, 2 * x, 3 * x, 4 * x]), w)


def _looped(w: Any, x: Any) -> Any:
    return jax.lax.fori_loop(0, x.shape[0], lambda i, h: jnp.tanh(h @ w[i % 3]), x)


def _repeated_until(w: Any, x: Any) -> Any:
    return jax.lax.while_loop(lambda h: h.sum() < 1, lambda h: h @ w + 1, x)


def _chosen(w: Any, x: Any) -> Any:
    return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x, x)


def _depthwise(w: Any, x: Any) -> Any:
    pictures = jnp.broadcast_to(x[:, None, None], (6, 5, 5, 8))
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        pictures, w, (1, 1), "SAME", dimension_numbers=order, feature_group_count=8
    )


def _of_unit_columns(w: Any, x: Any) -> Any:
    return x @ (w / jnp.linalg.norm(w, axis=0, keepdims=True))


def _masked(w: Any, x: Any, key: Any) -> Any:
    return x @ jnp.where(jax.random.bernoulli(key, 0.5, w.shape), w, 0.0)


USES: dict[str, tuple[tuple[int, ...], Any, tuple[Any, ...], str]] = {
    "matrix": ((8, 3), lambda w, x: x @ w, (X,), "matrix: i o"),
    "transposed": ((3, 8), lambda w, x: x @ w.T, (X,), "matrix: o i"),
    "column": ((3, 8), lambda w, x: (w @ x.T).T, (X,), "matrix: o i"),
    "for each example": ((3, 8), lambda w, x: jax.vmap(lambda x: w @ x)(x), (X,), "matrix: o i"),
    "under jit": ((8, 3), lambda w, x: jax.jit(jnp.matmul)(x, w), (X,), "matrix: i o"),
    "recomputed": ((8, 3), lambda w, x: jax.checkpoint(lambda w: jax.nn.relu(x @ w))(w), (X,), "matrix: i o"),
    "data of the closure": ((8, 3), lambda w: jnp.ones((6, 8)) @ w, (), "matrix: i o"),
    "half precision": ((8, 3), lambda w, x: x.astype("bfloat16") @ w.astype("bfloat16"), (X,), "matrix: i o"),
    "flat": ((24,), lambda w, x: x @ w.reshape(8, 3), (X,), "vector: o"),
    "heads": ((8, 2, 5), lambda w, x: jnp.einsum("bi,ihs->bhs", x, w), (X,), "matrix: i o o"),
    "heads first": ((2, 5, 8), lambda w, x: jnp.einsum("bi,hsi->bhs", x, w), (X,), "matrix: o o i"),
    "out of heads": ((2, 4, 5), _out_of_heads, (X,), "matrix: i i o"),
    "merged": ((2, 4, 5), lambda w, x: x @ w.reshape(8, 5), (X,), "matrix: i i o"),
    "cut into three": ((8, 9), _cut, (X,), "matrix: i o/3"),
    "cut by indices": ((8, 9), _indexed, (X,), "matrix: i o/3"),
    "every third": ((8, 9), lambda w, x: x @ w.reshape(8, 3, 3)[..., 0], (X,), "matrix: i o"),
    "cut twice": ((8, 8), _cut_twice, (X,), "matrix: i o/2"),
    "joined": ((8, 3), lambda w, x: x @ jnp.concatenate([w, 2 * w], -1), (X,), "matrix: i o"),
    "masked": ((8, 3), _masked, (X, jax.random.key(0)), "matrix: i o"),
    "columns of length one": ((8, 3), _of_unit_columns, (X,), "matrix: i o"),
    "depthwise": ((3, 3, 1, 8), _depthwise, (X,), "matrix: i i i o"),
    "scanned": ((3, 8, 8), _scanned, (X,), "matrix: b i o"),
    "scanned, out first": ((3, 8, 8), lambda w, x: _scanned(w.swapaxes(1, 2), x), (X,), "matrix: b o i"),
    "one by one": ((3, 8, 8), lambda w, x: x @ w[0] @ w[1] @ w[2], (X,), "matrix: b i o"),
    "in a loop": ((3, 8, 8), _looped, (X,), "matrix: b i o"),
    "until": ((8, 8), _repeated_until, (X,), "matrix: i o"),
    "in a branch": ((8, 8), _chosen, (X,), "matrix: i o"),
    "ensemble": ((4, 8, 3), _ensemble, (X,), "matrix: b i o"),
    "an expert for each": ((4, 8, 3), _expert_of_each, (X, IDS), "matrix: b i o"),
    "table": ((20, 4), lambda w, ids: w[ids], (IDS,), "embedding: i o"),
    "table, columns": ((4, 20), lambda w, ids: w[:, ids], (IDS,), "embedding: o i"),
    "table, one-hot": ((20, 4), _one_hot, (IDS,), "embedding: i o"),
    "tied": ((20, 4), lambda w, ids: w[ids] @ w.T, (IDS,), "embedding: i o"),
    "of two tables": ((20, 4), lambda w, ids: w[ids].sum(1) @ w[ids].sum(1).T, (IDS,), "embedding: i o"),
    "added": ((2, 4), lambda w, x: x.reshape(6, 2, 4) + w, (X,), "vector: o o"),
    "scales": ((2, 4), lambda w, x: x.reshape(6, 2, 4) * jnp.exp(w), (X,), "vector: o o"),
    "added under scan": ((3, 2, 4), _scanned_biases, (X,), "vector: b o o"),
    "unused": ((8, 3), lambda w, x: x, (X,), "matrix: i o"),
    "scalar": ((), lambda w, x: w * x, (X,), "scalar: -"),
    "empty": ((0, 3), lambda w, x: x[:, :0] @ w, (X,), "vector: o o"),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_uses_are_read_off_the_program(name: str) -> None:
    shape, use, args, expected = USES[name]
    params = {"where": jnp.ones(shape)}
    assert roles(params, geometry_of(_where_used("where")(use), params, *args)) == {"where": expected}


def test_products_of_parameters_are_matrices_from_end_to_end() -> None:
    params = {"whole": jnp.ones((8, 5)), "down": jnp.ones((8, 2)), "up": jnp.ones((2, 5))}
    found = geometry_of(lambda p, x: x @ (p["whole"] + p["down"] @ p["up"]), params, X)
    assert roles(params, found) == dict.fromkeys(params, "matrix: i o")


def test_shapes_suffice_and_gradients_may_be_taken_inside() -> None:
    params = {"w": jax.ShapeDtypeStruct((3, 8), jnp.float32)}

    def step(params: Any, x: jax.Array) -> Any:
        return jax.value_and_grad(lambda p: (x @ p["w"].T).sum(), has_aux=False)(params)

    assert roles(params, geometry_of(step, params, jax.ShapeDtypeStruct(X.shape, X.dtype))) == {
        "w": "matrix: o i"
    }


def test_haiku_modules() -> None:
    def network(words: jax.Array) -> jax.Array:
        x = hk.Embed(20, 8)(words)
        x = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling(), model_size=8)(x, x, x)
        return hk.Linear(3)(hk.LayerNorm(-1, True, True)(x))

    model = hk.without_apply_rng(hk.transform(network))
    params = jax.eval_shape(model.init, jax.random.key(0), IDS)
    assert roles(params, geometry_of(model.apply, params, IDS)) == roles(params)


def test_equinox_modules() -> None:
    class Model(eqx.Module):
        cell: eqx.nn.GRUCell
        head: eqx.nn.Linear

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(5), x)[0])

    keys = jax.random.split(jax.random.key(0))
    model = Model(eqx.nn.GRUCell(8, 5, key=keys[0]), eqx.nn.Linear(5, 3, key=keys[1]))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    found = geometry_of(lambda p, x: eqx.combine(p, rest)(x), params, X)
    assert roles(params, found) == roles(params)
    flt_optimizer(geometry=found).init(params)  # modules are trees, although they can be called


def test_flax_modules() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.conv(x[:, :, None, None]).reshape(6, -1, 8)
            return self.dropout(self.norm(self.attention(x)))

    graph, params, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)
    found = geometry_of(lambda p, rest, x: nnx.merge(graph, p, rest)(x), params, rest, X)
    assert roles(params, found) == roles(params)


LAYOUTS = [
    pytest.param(layout, start, id=f"{start.__name__}, {name}")
    for start, layouts in ((transformer, TRANSFORMER), (convnet, CONVNET), (mixture, MIXTURE))
    for name, layout in layouts.items()
]


@pytest.mark.parametrize(("layout", "start"), LAYOUTS)
def test_every_layout_is_recognised(layout: Layout, start: Callable[[], Any]) -> None:
    params = layout.laid(start())
    assert roles(params, geometry_of(layout.loss, params)) == roles(params, layout.geometry)


# Of `ratings`: tables of scalars.
OTHERWISE = {"columns/bias": "embedding: i o", "rows/bias": "embedding: i o"}


@pytest.mark.parametrize("suite", [META_TRAIN, VALIDATION, HELD_OUT], ids=["train", "validation", "held out"])
def test_programs_of_all_tasks_agree_with_names_and_shapes(suite: Any) -> None:
    for name, family in suite.items():

        def loss(params: Any, key: jax.Array, family: Any = family, data: Any = None) -> jax.Array:
            member = family.sample(key)
            return family.loss(params, family.batch(key, family.data().train, member), member)

        shapes = family.card.shapes()
        expected = roles(shapes) | (OTHERWISE if name == "ratings" else {})
        assert roles(shapes, geometry_of(loss, shapes, jax.random.key(0))) == expected, name


def test_a_table_learns_as_if_it_were_named_like_one() -> None:
    def curve(name: str, traced: bool) -> np.ndarray:
        params = {name: jnp.linspace(-1, 1, 80).reshape(20, 4), "out": jnp.ones((4, 2))}
        ids = jax.random.randint(jax.random.key(0), (20, 16), 0, 20)

        def loss(params: Any, ids: jax.Array) -> jax.Array:
            return jnp.mean((params[name][ids] @ params["out"] - jnp.sin(ids)[:, None]) ** 2)

        geometry = geometry_of(loss, params, ids[0]) if traced else "auto"
        optimizer = flt_optimizer(total_steps=20, geometry=geometry)

        def step(carry: Any, ids: jax.Array) -> Any:
            params, state = carry
            value, gradients = jax.value_and_grad(loss)(params, ids)
            updates, state = optimizer.update(gradients, state, params)
            return (jax.tree.map(jnp.add, params, updates), state), value

        return np.asarray(jax.lax.scan(step, (params, optimizer.init(params)), ids)[1])

    named = curve("embed", traced=False)
    np.testing.assert_array_equal(curve("context", traced=True), named)
    assert not np.allclose(curve("context", traced=False), named)
