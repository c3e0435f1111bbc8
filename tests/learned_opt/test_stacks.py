"""Leaves that are alike share a stack: the same update as one by one, in a smaller program."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import FLTConfig, flt_optimizer
from learned_opt.geometry.layout import Kind
from learned_opt.optimizer import stacks
from learned_opt.optimizer.leaf import Leaf, TensorState

from .common import moved

CONFIG = FLTConfig(rule_width=2, controller_width=2)


def leaf(shape: tuple[int, ...], kind: Kind = "matrix", fill: float = 0.0, dtype: Any = jnp.float32) -> Leaf:
    array = jnp.full(shape, fill, dtype)
    return Leaf(array, array, (array, array), array.astype(jnp.bfloat16), kind)


def network(depth: int) -> dict[str, jax.Array]:
    """Layers in an order in which stacks and leaves differ; sizes differ too."""
    draw = np.random.default_rng(0).normal
    shapes = {"a_bias": (3,), "embedding": (4, 4), "z_head": (4, 3)}
    for layer in range(depth):
        shapes |= {f"l{layer}_bias": (4,), f"l{layer}_kernel": (4, 4)}
    return {
        name: jnp.asarray(10.0 ** (i % 3) * draw(size=shape))
        for i, (name, shape) in enumerate(shapes.items())
    }


def final(params: Any) -> Any:
    """Parameters and state after a few steps."""
    optimizer = flt_optimizer(weights=(moved(CONFIG, 0.1), CONFIG), total_steps=10)

    def step(carry: Any, t: jax.Array) -> tuple[Any, None]:
        params, state = carry
        gradients = jax.tree.map(lambda p: jnp.sin(7 * p + t) * p**2, params) | {"l0_bias": jnp.zeros(4)}
        updates, state = optimizer.update(gradients, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(4.0))[0])()


@pytest.mark.slow
def test_stacks_train_as_their_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), network(depth=3))
        together = final(params)
        monkeypatch.setattr(stacks, "LARGEST", 0)
        alone = final(params)

        moves = jax.tree.map(lambda new, old: float(jnp.abs(new - old).max()), together[0], params)
        assert min(size for name, size in moves.items() if name != "l0_bias") > 1e-4
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), together, alone)


def test_a_deeper_network_is_no_larger_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def reductions(depth: int) -> int:
        params = network(depth)
        optimizer = flt_optimizer(weights=(moved(CONFIG, 0.1), CONFIG), total_steps=10)
        state = optimizer.init(params)
        return str(jax.make_jaxpr(optimizer.update)(params, state, params)).count(" reduce_")

    assert 0 < reductions(3) == reductions(9)
    monkeypatch.setattr(stacks, "LARGEST", 0)
    assert reductions(3) < reductions(9)


def test_leaves_of_one_shape_are_cut_out_of_their_stack_by_one_kernel() -> None:
    def kernels(depth: int) -> tuple[int, int]:
        params = network(depth)
        optimizer = flt_optimizer(weights=(moved(CONFIG, 0.1), CONFIG), total_steps=10)
        text = jax.jit(optimizer.update).lower(params, optimizer.init(params), params).compile().as_text()
        bodies = re.findall(r"fused_computation[\w.]* \([^\n]*\n(.*?)\n}", text, re.DOTALL)
        cuts = [re.sub(r"%[\w.-]+|, metadata={.*?}", "", body) for body in bodies if "dynamic-slice(" in body]
        return len(cuts), len(set(cuts))

    shallow, deep = kernels(3), kernels(9)

    assert shallow[0] < deep[0]
    assert 0 < shallow[1] == deep[1] < shallow[0]


def test_side_by_side_leaves_are_cut_where_the_compiler_knows() -> None:
    found = stacks.Stacks([leaf((2, 4, 3)), leaf((3, 4, 3))])

    alone, many = jax.make_jaxpr(found.starts)(1), jax.make_jaxpr(jax.vmap(found.starts))(jnp.arange(3))

    assert "cond" in str(alone)
    assert "cond" not in str(many)
    np.testing.assert_array_equal(found.starts(jnp.int32(1)), [0, 2])
    np.testing.assert_array_equal(jax.vmap(found.starts)(jnp.arange(2)), [[0, 0], [2, 2]])


def test_only_leaves_that_are_alike_share_a_stack() -> None:
    alike = leaf((1, 4, 4))
    large = leaf((1, stacks.LARGEST + 1, 1))
    others = [
        leaf((1, 4, 5)),
        leaf((1, 4, 4), dtype=jnp.float16),
        leaf((1, 4, 4), "embedding"),
        leaf((4, 4), "vector"),
        alike._replace(operands=jnp.dtype(jnp.bfloat16)),
        large,
        large,
    ]

    found = stacks.Stacks([alike, *others, leaf((3, 4, 4))])

    assert found.groups == [[0, 8], [1], [2], [3], [4], [5], [6], [7]]


def test_a_stack_keeps_the_logical_tensors_of_its_leaves_in_order() -> None:
    leaves = [leaf((2, 4, 3), fill=1.0), leaf((1, 5, 3), fill=2.0), leaf((3, 4, 3), fill=3.0)]
    found = stacks.Stacks(leaves)

    stack, single = found.stacked(leaves)

    assert stack.kind == "matrix"
    assert stack.param.shape == stack.slots[0].shape == (5, 4, 3)
    np.testing.assert_array_equal(stack.mean(stack.param), [1.0, 1.0, 3.0, 3.0, 3.0])
    back = found.unstacked([stack.param, single.param], found.starts(jnp.int32(7)))
    jax.tree.map(np.testing.assert_array_equal, back, [leaf.param for leaf in leaves])
    tensors = TensorState.zeros(6, CONFIG, jnp.dtype(jnp.float32))._replace(noise=jnp.arange(6.0))
    np.testing.assert_array_equal(found.sorted(tensors).noise, [0.0, 1.0, 3.0, 4.0, 5.0, 2.0])
    np.testing.assert_array_equal(found.restored(found.sorted(tensors)).noise, tensors.noise)
