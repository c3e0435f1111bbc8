"""One device or several: the same population, the same numbers."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from learned_opt import untrained
from meta_train.devices import Population, replicate, rounded_up
from meta_train.estimators import Keys, meta_gradient, pair_scores
from meta_train.outer import train

from .bowls import saved
from .fakes import family as bowl
from .tiny import OPTIMIZER, settings

ROOT = Path(__file__).parents[2]
PAIRS = 8
KEYS = Keys.of(0, 1, 2)
ON_FOUR = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.flatten_util import ravel_pytree
from fakes import family
from tiny import OPTIMIZER, settings
from learned_opt import untrained
from meta_train.devices import Population, replicate
from meta_train.estimators import Keys, pair_scores

assert jax.local_device_count() == 4
theta, _ = untrained(OPTIMIZER, jax.random.key(3))
bowl = family(noise=0.3)
population = Population(pair_scores(bowl, settings(pairs=8), theta), 8)
assert len(population.devices) == 4
scores = population(ravel_pytree(theta)[0], Keys.of(0, 1, 2), jnp.int32(50), replicate(bowl.data()))
np.save(sys.argv[1], np.stack(scores))
"""


def scaled(shared: jax.Array, members: jax.Array, offset: jax.Array) -> dict[str, jax.Array]:
    return {"value": shared * members + offset, "row": jnp.stack([members, -members], axis=1)}


@pytest.fixture(scope="module")
def theta() -> Any:
    return untrained(OPTIMIZER, jax.random.key(3))[0]


@pytest.fixture(scope="module")
def on_one(theta: Any) -> np.ndarray:
    """Scores [3, PAIRS, 2] from a single device."""
    return scores_on(theta, jax.local_devices()[:1])


def scores_on(theta: Any, devices: list[jax.Device], piece: int = 0) -> np.ndarray:
    family = bowl(noise=0.3)
    population = Population(pair_scores(family, settings(pairs=PAIRS), theta), PAIRS, devices, piece)
    flat, _ = ravel_pytree(theta)
    return np.stack(population(flat, KEYS, jnp.int32(50), replicate(family.data(), devices)))


def gradient_of(scores: np.ndarray, theta: Any) -> np.ndarray:
    from meta_train.unroll import Score

    size = ravel_pytree(theta)[0].size
    return np.asarray(meta_gradient(Score(*map(jnp.asarray, scores)), KEYS, size, (0.5, 0.3, 0.2)))


def test_the_tests_have_two_devices() -> None:
    assert jax.local_device_count() == 2


@pytest.mark.slow
def test_two_devices_give_the_scores_and_meta_gradient_of_one(theta: Any, on_one: np.ndarray) -> None:
    on_two = scores_on(theta, jax.local_devices()[:2])

    assert on_one.shape == (3, PAIRS, 2)
    np.testing.assert_allclose(on_two, on_one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient_of(on_two, theta), gradient_of(on_one, theta), atol=1e-5)


def test_in_pieces_of_one_size_two_devices_give_exactly_the_scores_of_one(theta: Any) -> None:
    one, two = (scores_on(theta, jax.local_devices()[:count], piece=2) for count in (1, 2))

    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("members", "piece"), [(6, 2), (12, 4)])
def test_a_share_that_pieces_do_not_divide_is_refused(members: int, piece: int) -> None:
    with pytest.raises(ValueError, match=f"pieces of {piece}: choose a divisor"):
        Population(scaled, members, jax.local_devices()[:2], piece)


@pytest.mark.slow
def test_four_devices_give_the_scores_and_meta_gradient_of_one(
    theta: Any, on_one: np.ndarray, tmp_path: Path
) -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}",
    }
    file = tmp_path / "scores.npy"

    subprocess.run([sys.executable, "-c", ON_FOUR, str(file)], env=environment, check=True)

    on_four = np.load(file)
    np.testing.assert_allclose(on_four, on_one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient_of(on_four, theta), gradient_of(on_one, theta), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_results_are_in_the_order_of_the_members(count: int) -> None:
    population = Population(scaled, 6, jax.local_devices()[:count])

    result = population(jnp.float32(10.0), jnp.float32(0.5))

    np.testing.assert_array_equal(result["value"], 10.0 * np.arange(6) + 0.5)
    np.testing.assert_array_equal(result["row"], np.stack([np.arange(6), -np.arange(6)], axis=1))


def test_each_device_computes_its_share() -> None:
    devices = jax.local_devices()[:2]
    population = Population(scaled, 6, devices)

    assert population.devices == devices
    np.testing.assert_array_equal(population.members, [[0, 1, 2], [3, 4, 5]])


def test_all_local_devices_are_the_default() -> None:
    assert Population(scaled, 4).devices == jax.local_devices()


def test_a_population_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(ValueError, match="population of 7 cannot be shared equally by 2 devices"):
        Population(scaled, 7, jax.local_devices()[:2])


@pytest.mark.parametrize(("members", "shared"), [(1, 2), (2, 2), (7, 8)])
def test_a_population_is_rounded_up_to_one_that_can_be_shared(members: int, shared: int) -> None:
    assert rounded_up(members) == shared
    assert Population(scaled, shared).members.shape == (2, shared // 2)


def test_programs_compile_in_several_threads() -> None:
    populations = [Population(scaled, size) for size in (2, 4, 6, 8)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda population: population.compile(jnp.float32(2), jnp.float32(1)), populations))

    for size, population in zip((2, 4, 6, 8), populations, strict=True):
        result = population(jnp.float32(2), jnp.float32(1))
        np.testing.assert_array_equal(result["value"], 2.0 * np.arange(size) + 1)


def test_replicate_puts_a_whole_copy_on_every_device() -> None:
    devices = jax.local_devices()[:2]
    tree = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "y": [np.int32(4)]}

    copies = replicate(tree, devices)

    assert jax.tree.structure(copies) == jax.tree.structure(tree)
    for copy, leaf in zip(jax.tree.leaves(copies), jax.tree.leaves(tree), strict=True):
        assert [shard.device for shard in copy.addressable_shards] == devices
        for shard in copy.addressable_shards:
            np.testing.assert_array_equal(shard.data, leaf)


def test_replicated_data_reach_a_population() -> None:
    population = Population(lambda shared, members, data: shared + data["x"][members], 4)

    result = population(jnp.float32(1.0), replicate({"x": np.arange(4, dtype=np.float32)}))

    np.testing.assert_array_equal(result, [1.0, 2.0, 3.0, 4.0])


@pytest.mark.slow
def test_real_families_train_on_two_devices(tmp_path: Path) -> None:
    config = settings(steps=2, families=("linear_map", "wine"), families_per_step=2)
    train(config, tmp_path)

    state = saved(tmp_path, config)
    assert np.isfinite(state.best_score)
    assert np.isfinite(state.flat).all()
