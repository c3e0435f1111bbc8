"""The controller's attention: ages of remembered tokens, and both attentions against the library's."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import flt_optimizer
from learned_opt.config import FLTConfig
from learned_opt.flt import GaussianMixture, Softmax, fourier_attention
from learned_opt.optimizer import untrained
from learned_opt.optimizer.attention import HEAD_SIZE, ControllerAttention, ages, remember

HEADS, FEATURES, OUTPUTS, SLOTS, TENSORS = 2, 5, 3, 6, 4


@pytest.fixture(scope="module")
def inputs() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    chain = jnp.abs(jnp.arange(TENSORS)[:, None] - jnp.arange(TENSORS)).astype(jnp.float32)
    return {
        "token": jax.random.normal(keys[0], (TENSORS, FEATURES)),
        "history": jax.random.normal(keys[1], (TENSORS, SLOTS, FEATURES)),
        "count": jnp.int32(21),
        "distance": chain,
    }


@pytest.fixture(scope="module")
def layer() -> hk.Transformed:
    return hk.without_apply_rng(
        hk.transform(lambda **inputs: ControllerAttention(HEADS, FEATURES, OUTPUTS)(**inputs))
    )


@pytest.fixture(scope="module")
def theta(layer: hk.Transformed, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Meta-parameters away from their start."""
    start = layer.init(jax.random.key(1), **inputs)["attention"]
    keys = jax.random.split(jax.random.key(2), len(start))
    return {
        name: x + 0.3 * jax.random.normal(key, x.shape)
        for key, (name, x) in zip(keys, start.items(), strict=True)
    }


def test_slots_hold_the_tokens_whose_ages_are_given() -> None:
    history = jnp.full((1, 5, 1), -1.0)
    for step in range(70):
        history = remember(history, jnp.full((1, 1), float(step)), jnp.int32(step))
        expected = step - np.asarray(ages(jnp.int32(step), 5))

        np.testing.assert_array_equal(history[0, :, 0], np.where(expected >= 0, expected, -1.0))


def test_sixteen_slots_reach_back_sixty_five_thousand_steps() -> None:
    steps = np.arange(1 << 17, 1 << 18, 997)

    oldest = jax.vmap(lambda count: ages(count, 17))(jnp.asarray(steps))[:, 16]

    assert oldest.min() >= 65_535
    assert oldest.max() <= 131_070


def test_untrained_it_says_nothing(layer: hk.Transformed, inputs: dict[str, jax.Array]) -> None:
    theta = layer.init(jax.random.key(1), **inputs)

    np.testing.assert_array_equal(layer.apply(theta, **inputs), np.zeros((TENSORS, OUTPUTS)))


def test_attention_in_time_is_exact_fourier_attention(
    layer: hk.Transformed, inputs: dict[str, jax.Array], theta: dict[str, jax.Array]
) -> None:
    only_time = {**theta, "output": theta["output"].at[1].set(0.0)}
    positions = jnp.log2(1.0 + ages(inputs["count"], SLOTS))[:, None]
    seen = ages(inputs["count"], SLOTS) <= inputs["count"]
    expected: Any = 0.0
    for head in range(HEADS):
        query, key, value = (
            inputs[source] @ theta[f"{name}_time"][:, head]
            for source, name in (("token", "query"), ("history", "key"), ("history", "value"))
        )
        spectrum = GaussianMixture(
            theta["weight"][head], theta["mean"][head], jnp.exp(theta["log_scale"][head])
        )
        out = fourier_attention(
            query[:, None],
            key,
            value,
            jnp.zeros((1, 1)),
            spectrum,
            kernel=Softmax(),
            key_positions=positions,
            padding_mask=jnp.broadcast_to(seen, (TENSORS, SLOTS)),
        )
        expected += out[:, 0] @ theta["output"][0, head]

    np.testing.assert_allclose(layer.apply({"attention": only_time}, **inputs), expected, atol=1e-5)


def test_attention_across_tensors_decays_with_their_distance(
    layer: hk.Transformed, inputs: dict[str, jax.Array], theta: dict[str, jax.Array]
) -> None:
    only_tree = {**theta, "output": theta["output"].at[0].set(0.0)}
    expected: Any = 0.0
    for head in range(HEADS):
        query, key, value = (
            inputs["token"] @ theta[f"{name}_tree"][:, head] for name in ("query", "key", "value")
        )
        mask = jnp.exp(-jnp.exp(theta["log_tree_rate"][head]) * inputs["distance"])
        weights = jnp.exp(query @ key.T / HEAD_SIZE**0.5) * mask
        expected += (weights / weights.sum(1, keepdims=True)) @ value @ theta["output"][1, head]

    np.testing.assert_allclose(layer.apply({"attention": only_tree}, **inputs), expected, atol=1e-5)


def test_tokens_that_are_not_there_yet_are_not_seen(
    layer: hk.Transformed, inputs: dict[str, jax.Array], theta: dict[str, jax.Array]
) -> None:
    early = {**inputs, "count": jnp.int32(2)}  # ages 0, 1 and 5: only two tokens exist
    other = {**early, "history": early["history"].at[:, 2:].set(100.0)}

    np.testing.assert_array_equal(
        layer.apply({"attention": theta}, **early), layer.apply({"attention": theta}, **other)
    )


def layers(stacked: bool) -> tuple[Any, Any]:
    """Parameters and gradients of three layers and a head."""
    keys = jax.random.split(jax.random.key(5), 4)
    w, b, dw, db = (
        jax.random.normal(key, shape) for key, shape in zip(keys, [(3, 4, 4), (3, 4)] * 2, strict=True)
    )
    head = {"w": jnp.ones((4, 2))}
    trees = [{"layers": {"w": x, "b": y}, "head": head} for x, y in ((w, b), (dw, db))]
    if stacked:
        return trees[0], trees[1]
    cut = [
        {"layers": [jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for i in range(3)], "head": head}
        for tree in trees
    ]
    return cut[0], cut[1]


def updates(weights: Any, params: Any, gradients: Any, steps: int = 5) -> Any:
    optimizer = flt_optimizer(weights=weights, total_steps=10)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for step in range(steps):
        scaled = jax.tree.map(lambda g, step=step: g * jnp.cos(step + g), gradients)
        found, state = update(scaled, state, params)
    return found


@pytest.fixture(scope="module")
def trained() -> tuple[Any, FLTConfig]:
    """An optimizer whose attention says something."""
    theta, config = untrained(FLTConfig(attention_heads=HEADS, history=4, rule_width=0, controller_width=0))
    name = next(module for module in theta if module.endswith("attention"))
    output = 0.3 * jax.random.normal(jax.random.key(7), theta[name]["output"].shape)
    return {**theta, name: {**theta[name], "output": output}}, config


@pytest.mark.slow
def test_an_optimizer_with_untrained_attention_is_the_one_without(trained: tuple[Any, FLTConfig]) -> None:
    plain = untrained(FLTConfig(rule_width=0, controller_width=0))
    silent = untrained(trained[1])

    expected, found, other = (updates(weights, *layers(True)) for weights in (plain, silent, trained))

    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not np.allclose(other["layers"]["w"], expected["layers"]["w"], rtol=1e-3)


@pytest.mark.slow
def test_attention_does_not_see_how_layers_are_laid_out(trained: tuple[Any, FLTConfig]) -> None:
    stacked, separate = (updates(trained, *layers(flag)) for flag in (True, False))

    for layer in range(3):
        for name in ("w", "b"):
            np.testing.assert_allclose(
                stacked["layers"][name][layer], separate["layers"][layer][name], rtol=1e-4, atol=1e-7
            )
