"""Every family of every suite against the same facts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from tasks import get, suites

FAMILIES = {name: family for suite in suites.SUITES.values() for name, family in suite.items()}
# One of most kinds; the runs of the others are slow together.
QUICK = {
    "autompg_huber",
    "cart_pole",
    "digits_adapters",
    "iris",
    "linear_map",
    "ratings",
}
EVERY = pytest.mark.parametrize("name", FAMILIES)
EVERY_RUN = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
LEAVES = {"kernel", "bias", "scale", "embed", "pos_embed", "A", "B"}
MEMBERS, STEPS, PROBES = 3, 30, 4
LARGE = 1, 8  # members and steps of a family that is for a GPU


def compiled(function, *args):
    """Not optimised: here compiling takes longer than running."""
    return jax.jit(function).lower(*args).compile({"xla_backend_optimization_level": 0})


def one_run(family, steps, key, data):
    """Some steps of Adam on one member: losses on fixed batches before and after, gradients, parameters."""
    config = family.sample(random.fold_in(key, 0))
    start = family.init(random.fold_in(key, 1), config)
    optimizer = optax.adam(3e-3)

    def step(carry, k):
        params, state = carry
        loss, grads = jax.value_and_grad(family.loss)(params, family.batch(k, data.train, config), config)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), (loss, optax.tree.norm(grads))

    keys = random.split(random.fold_in(key, 2), steps)
    (end, _), (losses, norms) = jax.lax.scan(step, (start, optimizer.init(start)), keys)

    def probe(params):
        def losses(k):
            return [family.loss(params, family.batch(k, part, config), config) for part in data]

        return jax.lax.map(losses, keys[:PROBES])

    (before, after), valid = jax.vmap(probe)(jax.tree.map(lambda *both: jnp.stack(both), start, end))
    return {"losses": losses, "norms": norms, "before": before, "after": after, "valid": valid}, end


@EVERY_RUN
def test_adam_learns_and_repeats(name):
    family = FAMILIES[name]
    data = family.data()
    members, steps = LARGE if family.card.gpu else (MEMBERS, STEPS)
    keys = random.split(random.key(0), members)
    run = compiled(jax.vmap(partial(one_run, family, steps), in_axes=(0, None)), keys, data)
    found, params = run(keys, data)
    again, _ = run(keys, data)

    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == members * family.card.parameters
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    for key, values in found.items():
        assert values.dtype == jnp.float32
        assert np.isfinite(values).all(), key
        assert (np.asarray(values) >= 0).all(), key
        np.testing.assert_array_equal(values, again[key])
    assert np.mean(np.log(found["after"])) < np.mean(np.log(found["before"]))


@EVERY
def test_shapes_under_vmap(name):
    family = FAMILIES[name]

    def whole(key, data):
        config = family.sample(key)
        params = family.init(key, config)
        train, valid = (family.batch(key, part, config) for part in data)
        return config, params, train, valid, jax.grad(family.loss)(params, train, config)

    keys = jax.eval_shape(lambda: random.split(random.key(0), 5))
    config, params, train, valid, grads = jax.eval_shape(
        jax.vmap(whole, in_axes=(0, None)), keys, family.data()
    )
    assert {leaf.shape for leaf in config.values()} == {(5,)}
    assert all(config[k].dtype == jnp.float32 for k in config if k != "key")
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), grads
    )
    assert jax.tree.structure(train) == jax.tree.structure(valid)
    assert train["y"].shape[1] == family.card.batch_size
    names = {str(path[-1].key) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert names <= LEAVES


@EVERY
def test_the_program_holds_no_data(name):
    family = FAMILIES[name]
    key = jax.eval_shape(lambda: random.key(0))
    config = jax.eval_shape(family.sample, key)
    program = jax.make_jaxpr(family.batch)(key, family.data().train, config)
    assert sum(np.asarray(constant).nbytes for constant in program.consts) < 1024


def test_parameters_by_hand():
    assert get("digits_mlp").card.parameters == 64 * 32 + 32 + 32 * 10 + 10
    width, depth = 96, 4
    block = 12 * width**2 + 2 * width + 4 * width + width
    assert get("bible_transformer").card.parameters == width * (2 * 128 + 64 + 1) + depth * block
    assert get("ratings").card.parameters == (200 + 150) * 9


def member(name, **settings):
    family = get(name)
    config = family.sample(random.key(0))
    return family, {**config, **{k: jnp.float32(v) for k, v in settings.items()}}


def test_fine_tuning_starts_from_the_data_with_a_head_of_its_own():
    family, config = member("mnist_fine_tuned")
    one, two = (family.init(random.key(k), config) for k in (0, 1))
    for params in (one, two):
        for layer, start in zip(params["hidden"], family.data().valid["start"]["hidden"], strict=True):
            np.testing.assert_array_equal(layer["kernel"], start["kernel"])
            np.testing.assert_array_equal(layer["bias"], start["bias"])
    assert float(jnp.abs(one["head"]["kernel"] - two["head"]["kernel"]).max()) > 0


def test_wrong_labels_stay_wrong_and_only_in_training():
    family, config = member("digits_mlp", label_noise=0.5, input_noise=0.0)
    train, valid = family.data()

    def labels(part, seed):
        draw = jax.jit(jax.vmap(lambda k: family.batch(k, part, config)))
        batch = draw(random.split(random.key(seed), 40))
        x, y = np.asarray(batch["x"]).reshape(-1, 64), np.asarray(batch["y"]).ravel()
        pixels = np.round(x * part["std"] + part["mean"]).astype(np.uint8)
        return [(row.tobytes(), int(label)) for row, label in zip(pixels, y, strict=True)]

    truth = {
        row.tobytes(): int(label)
        for part in (train, valid)
        for row, label in zip(part["x"], part["y"], strict=True)
    }
    first, second = labels(train, 1), labels(train, 2)
    wrong = np.mean([truth[row] != label for row, label in first])
    assert wrong == pytest.approx(0.45, abs=0.04)  # a tenth of the random labels are right by chance
    shared = dict(first).keys() & dict(second).keys()
    assert all(dict(first)[row] == dict(second)[row] for row in shared)
    assert all(truth[row] == label for row, label in labels(valid, 1))


def test_input_noise_only_in_training():
    family, config = member("digits_mlp", input_noise=0.5, label_noise=0.0)
    train, valid = (family.batch(random.key(3), part, config)["x"] for part in family.data())
    part = family.data().valid

    def distance(x):
        pixels = x * part["std"] + part["mean"]
        return float(jnp.abs(pixels - jnp.round(pixels)).max())

    assert distance(valid) < 1e-4
    assert distance(train) > 0.4


@pytest.mark.parametrize("name", ["waves", "linear_map"])
def test_functions_differ_between_members_and_have_unit_variance(name):
    family = get(name)
    settings = {"output": jnp.float32(1), "label_noise": jnp.float32(0), "condition": jnp.float32(0)}

    @jax.jit
    @jax.vmap
    def targets(key):
        config = {**family.sample(key), **settings}
        return family.batch(random.key(0), family.data().train, config)["y"]

    y = targets(random.split(random.key(1), 200))
    assert float(y.std()) == pytest.approx(1.0, abs=0.15)
    assert float(y.std(axis=0).min()) > 0.5


def test_a_task_is_what_a_user_trains():
    family = get("iris")
    task = family.task(family.sample(random.key(0)))
    params = task.init(random.key(1))
    assert task.name == "iris"
    assert float(task.loss(params, task.train_batch(random.key(2)))) < 10
    assert task.valid_batch(random.key(2))["y"].shape == (16,)


def test_fingerprint_follows_the_data():
    assert get("digits_mlp").fingerprint() == get("digits_conv").fingerprint()
    assert get("digits_mlp").fingerprint() != get("digits_adapters").fingerprint()
