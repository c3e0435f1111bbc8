"""Networks and losses against independent forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax, random

from tasks import batches, config, losses
from tasks.models import (
    GRU,
    LSTM,
    adapters,
    convnet,
    factors,
    language_recurrent,
    language_transformer,
    mixture,
    mlp,
    point_network,
    residual_mlp,
    text_classifier,
    variational,
)
from tasks.models.conv import convolve
from tasks.models.layers import activate, group_normalise, lookup, norm
from tasks.models.transformer import _patches


def plain(**settings):
    return {**config.sampler({})(random.key(0)), **{k: jnp.float32(v) for k, v in settings.items()}}


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("space", "window", "layout"),
    [((13,), (5,), ("NWC", "WIO", "NWC")), ((8, 11), (3, 3), ("NHWC", "HWIO", "NHWC"))],
)
def test_convolve_is_a_convolution(space, window, layout, stride):
    x = random.normal(random.key(0), (2, *space, 3))
    weights = random.normal(random.key(1), (*window, 3, 4))
    pads = [(w // 2, w // 2) for w in window]
    strides = (stride,) * len(space)
    expected = lax.conv_general_dilated(x, weights, strides, pads, dimension_numbers=layout)
    np.testing.assert_allclose(convolve(x, weights, stride), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "function"), [(0.1, jax.nn.relu), (0.5, jnp.tanh), (0.9, jax.nn.gelu), (1.0, jax.nn.gelu)]
)
def test_activations(setting, function):
    x = jnp.linspace(-4, 4, 101)
    np.testing.assert_allclose(activate(x, plain(activation=setting)), function(x), atol=1e-6)


def test_activation_gradient_is_finite_for_large_inputs():
    grads = jax.vmap(jax.grad(activate), (0, None))(jnp.array([-1e8, 1e8]), plain(activation=0.1))
    np.testing.assert_array_equal(grads, [0, 1])


def test_group_norm_statistics():
    x = 3 + 2 * random.normal(random.key(0), (2, 5, 5, 8))
    groups = np.asarray(group_normalise(norm(8), x, 4)).reshape(2, 25, 4, 2)
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.std((1, 3)), 1, atol=1e-4)


@pytest.mark.parametrize(
    "model", [language_transformer(32, 2, 12), language_recurrent(GRU, 8), language_recurrent(LSTM, 8)]
)
def test_language_models_are_causal(model):
    settings = plain()
    params = model.init(random.key(0), settings)
    text = random.randint(random.key(1), (2, 12), 0, 128)
    changed = text.at[:, 7].set((text[:, 7] + 1) % 128)
    logits, other = (model.apply(params, t, settings) for t in (text, changed))
    np.testing.assert_allclose(logits[:, :7], other[:, :7], atol=1e-6)
    assert float(jnp.abs(logits[:, 7:] - other[:, 7:]).min(axis=(0, 2)).max()) > 0


def test_patches_are_squares_of_the_image():
    image = jnp.arange(36.0).reshape(1, 36)
    patches = _patches(image, (6, 6), 3)
    np.testing.assert_array_equal(patches[0, 1].reshape(3, 3), image.reshape(6, 6)[:3, 3:])
    np.testing.assert_array_equal(_patches(image, (36,), 4)[0, 2], jnp.arange(8.0, 12.0))


def test_lookup_is_indexing():
    table, index = random.normal(random.key(0), (7, 3)), jnp.array([[6, 0], [2, 2]])
    np.testing.assert_array_equal(lookup(table, index), table[index])


def test_factors_gradient_is_zero_where_no_entry_was_seen():
    model, settings = factors(9, 5, 2), plain()
    params = model.init(random.key(0), settings)
    pairs = jnp.array([[3, 1], [8, 1]], jnp.float32)
    grads = jax.grad(lambda p: model.apply(p, pairs, settings).sum())(params)
    seen = np.flatnonzero(np.abs(grads["rows"]["embed"]).sum(1))
    np.testing.assert_array_equal(seen, [3, 8])
    np.testing.assert_array_equal(np.flatnonzero(grads["columns"]["bias"]), [1])


def test_adapters_start_as_the_frozen_network():
    model, settings = adapters(6, 7, 3, rank=2), plain()
    params = model.init(random.key(0), settings)
    x, frozen = (
        random.normal(random.key(1), (4, 6)),
        [random.normal(random.key(2), s) for s in ((6, 7), (7, 3))],
    )
    expected = 2**0.5 * jax.nn.relu(2**0.5 * x @ frozen[0]) @ frozen[1]
    np.testing.assert_allclose(model.apply(params, (x, frozen), settings), expected, rtol=1e-5, atol=1e-5)


def test_point_networks_see_neither_the_order_of_points_nor_what_is_absent():
    model, settings = point_network(5, 3, 8, 2, 1), plain()
    params = model.init(random.key(0), settings)
    kinds = jnp.array([[1.0, 3.0, 2.0, 2.0, 0.0]])
    places = random.normal(random.key(1), (1, 5, 3))

    @jax.jit
    def value(kinds, places):
        distances = jnp.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
        return model.apply(params, jnp.concatenate([kinds, distances.reshape(1, -1)], axis=1), settings)

    first = value(kinds, places)
    order = jnp.array([2, 4, 0, 3, 1])
    np.testing.assert_allclose(value(kinds[:, order], places[:, order]), first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value(kinds, places.at[:, 4].set(9.0)), first, rtol=1e-6)
    assert abs(float((value(kinds, places.at[:, 0].add(0.3)) - first)[0, 0])) > 1e-3
    assert abs(float((value(kinds.at[0, 1].set(1.0), places) - first)[0, 0])) > 1e-3


@pytest.mark.parametrize("activation", [0.1, 0.5, 0.9])
def test_deep_networks_keep_the_size_of_the_signal(activation):
    model, settings = mlp(64, *[256] * 12, 64), plain(activation=activation)
    outputs = model.apply(
        model.init(random.key(0), settings), random.normal(random.key(1), (64, 64)), settings
    )
    assert 0.1 < float(jnp.sqrt(jnp.mean(outputs**2))) < 3


def test_conv_kernels_keep_their_shape():
    params = convnet((8, 8), (4,), 10, window=3, stride=1, groups=4).init(random.key(0), plain())
    assert params["strided_convs"][0]["kernel"].shape == (3, 3, 1, 4)


def test_convnets_read_colours_as_channels():
    model, settings = convnet((8, 8), (4,), 5, window=3, stride=1, groups=4, colours=3), plain()
    params = model.init(random.key(0), settings)
    assert params["strided_convs"][0]["kernel"].shape == (3, 3, 3, 4)
    image = random.normal(random.key(1), (2, 8, 8, 3))
    logits = model.apply(params, image.reshape(2, -1), settings)
    swapped = jax.tree.map(lambda x: x, params)
    swapped["strided_convs"][0]["kernel"] = params["strided_convs"][0]["kernel"][:, :, ::-1]
    turned = model.apply(swapped, image[..., ::-1].reshape(2, -1), settings)
    np.testing.assert_allclose(logits, turned, rtol=1e-5, atol=1e-5)


def test_a_row_goes_to_the_expert_that_its_router_prefers():
    model, settings = mixture(4, 6, 3, 2), plain()
    params = model.init(random.key(0), settings)
    params["router"]["kernel"] = jnp.zeros((4, 3)).at[0, 1].set(5.0)
    x = jnp.abs(random.normal(random.key(1), (7, 4)))  # the first feature is positive: expert 1
    grads = jax.grad(lambda p: model.apply(p, x, settings).sum())(params)
    sizes = [float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(g))) for g in grads["experts"]]
    assert sizes[0] == sizes[2] == 0 < sizes[1]
    expert = params["experts"][1]
    hidden = jax.nn.relu(x @ expert["up"]["kernel"])
    share = jax.nn.softmax(x @ params["router"]["kernel"])[:, 1:2]
    expected = 3 * share * (hidden @ expert["down"]["kernel"])
    np.testing.assert_allclose(model.apply(params, x, settings), expected, rtol=1e-5, atol=1e-5)


def test_residual_blocks_do_not_see_the_size_of_their_input():
    model, settings = residual_mlp(5, 8, 3, 2), plain()
    params = model.init(random.key(0), settings)
    x = random.normal(random.key(1), (4, 5))
    for block in params["blocks"]:
        block["down"]["kernel"] *= 0
    small, large = (model.apply(params, size * x, settings) for size in (10.0, 1000.0))
    np.testing.assert_allclose(small, large, rtol=1e-3)


def test_divergence_of_a_code_is_that_of_two_normals():
    model, settings = variational(3, 4, 1), plain()
    params = model.init(random.key(0), settings)
    params["code"] = {"kernel": jnp.zeros((4, 2)), "bias": jnp.array([0.7, -0.4])}
    _, divergence = model.apply(params, (jnp.ones((1, 3)), jnp.zeros((1, 1))), settings)
    z = np.linspace(-12, 12, 20_001)
    code, prior = (np.exp(-0.5 * ((z - m) / s) ** 2) / s for m, s in ((0.7, np.exp(-0.4)), (0.0, 1.0)))
    log_ratio = np.log(code + 1e-300) - np.log(prior)
    expected = np.sum(code * log_ratio) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(divergence, [expected], rtol=1e-5)


@pytest.mark.slow
def test_text_classifiers_read_every_byte():
    model, settings = text_classifier(GRU, 8, 4), plain()
    params = model.init(random.key(0), settings)
    text = random.randint(random.key(1), (1, 12), 1, 128)
    logits = model.apply(params, text.astype(jnp.float32), settings)
    for place in (0, 5, 11):
        other = model.apply(params, text.at[0, place].set(0).astype(jnp.float32), settings)
        assert logits.shape == (1, 4)
        assert float(jnp.abs(logits - other).max()) > 1e-6


def test_diffusion_mixes_rows_with_noise_and_asks_for_the_derivative():
    part = {"x": random.normal(random.key(0), (6, 40)), "mean": 0.5, "std": 2.0, "noisy": 1.0}
    drawn = batches.noised(500)(random.key(1), part, plain(output=3.0))
    x, turned = np.asarray(drawn["x"]), np.asarray(drawn["y"]) / 3
    assert x.shape == (500, 40 + batches.LEVELS)
    cos, sin = x[:, 40:41], x[:, 44:45]  # the first of the waves
    np.testing.assert_allclose(cos**2 + sin**2, 1, rtol=1e-5)
    assert cos.min() >= -1e-6
    assert sin.min() >= 0
    rows = (np.asarray(part["x"]) - 0.5) / 2
    clean, noise = cos * x[:, :40] - sin * turned, sin * x[:, :40] + cos * turned
    nearest = np.abs(clean[:, None] - rows).max(-1).min(1)
    np.testing.assert_allclose(nearest, 0, atol=1e-5)
    assert noise.std() == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_a_teacher_gives_a_row_one_class_and_uses_them_all():
    settings = plain(label_noise=0.0)
    part = {"x": random.normal(random.key(0), (50, 6)), "mean": 0.0, "std": 1.0, "noisy": 1.0}
    drawn = batches.taught(2000, 4, {})(random.key(1), part, settings)
    rows = {tuple(x): set() for x in np.asarray(part["x"]).tolist()}
    for x, y in zip(np.asarray(drawn["x"]).tolist(), np.asarray(drawn["y"]).tolist(), strict=True):
        rows[tuple(x)].add(y)
    assert all(len(classes) == 1 for classes in rows.values())
    assert set.union(*rows.values()) == {0, 1, 2, 3}


def test_losses_agree_with_optax():
    logits, labels = 3 * random.normal(random.key(0), (8, 5)), jnp.arange(8) % 5
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected + losses.FLOOR, rtol=1e-6)
    binary = optax.sigmoid_binary_cross_entropy(logits[:, 0], labels % 2).mean()
    np.testing.assert_allclose(
        losses.binary_cross_entropy(logits[:, :1], labels % 2), binary + losses.FLOOR, rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.huber(logits, 0 * logits),
        optax.huber_loss(logits, 0 * logits).mean() + losses.FLOOR,
        rtol=1e-6,
    )


def test_a_perfect_fit_has_a_finite_logarithm():
    sure = jnp.array([[1e4, 0.0]])
    for loss in (
        losses.cross_entropy(sure, jnp.array([0])),
        losses.binary_cross_entropy(sure[:, :1], jnp.array([1])),
        losses.squared_error(sure, sure),
        losses.huber(sure, sure),
    ):
        np.testing.assert_allclose(loss, losses.FLOOR)


def test_spans_draw_within_their_range():
    spans = {"scale": config.factor(0.5, 2.0), "label_noise": config.Span(-0.5, 0.5), "head": config.fixed(0)}
    drawn = jax.vmap(config.sampler(spans))(random.split(random.key(0), 2000))
    assert float(drawn["scale"].min()) >= 0.5
    assert float(drawn["scale"].max()) <= 2.0
    assert float(jnp.log(drawn["scale"]).mean()) == pytest.approx(0, abs=0.05)
    assert float((drawn["label_noise"] == 0).mean()) == pytest.approx(0.5, abs=0.05)
    assert set(drawn) == {*config.PLAIN, "key"}


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"scales": config.fixed(1)}, r"unknown settings \['scales'\]"),
        ({"scale": config.Span(2, 1)}, "expected low <= high"),
        ({"scale": config.factor(0, 1)}, "low > 0 if log"),
    ],
)
def test_wrong_ranges_are_refused(vary, message):
    with pytest.raises(ValueError, match=message):
        config.sampler(vary)
