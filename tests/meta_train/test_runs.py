"""Runs side by side, in pieces, and the choice of a setting."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.baselines import Setting
from meta_train.evaluation import Optimizer, baseline
from meta_train.evaluation.runs import Curves, Runner, curve_points, segment_length
from meta_train.evaluation.tuning import choose, finals

from .fakes import family, sgd


@pytest.mark.parametrize("steps", [1, 7, 21, 300, 401, 1999])
def test_points_are_even_and_the_last_piece_is_whole(steps):
    length = segment_length(steps)
    points = curve_points(steps, length)
    assert (points[0], points[-1], points[-1] - points[-2]) == (0, steps, length)
    assert len(set(np.diff(points[1:]))) <= 1
    assert length / steps == pytest.approx(0.05, rel=0.1) or length == segment_length(steps - 1) or steps < 40


@pytest.mark.parametrize("name", ["adamw", "schedule-free"])
def test_runs_side_by_side_equal_single_runs(name):
    runs = [(seed, Setting(rate, 0.01)) for seed in (3, 4) for rate in (0.001, 0.01, 0.1)]
    together, alone = (
        Runner(family(noise=0.3), 25, parallel).run(baseline(name), runs) for parallel in (4, 1)
    )
    np.testing.assert_allclose(together.train, alone.train, rtol=1e-4)
    np.testing.assert_allclose(together.valid, alone.valid, rtol=1e-4)
    assert (together.train.shape, together.valid.shape) == ((6, 13), (6, 14))


def test_a_run_equals_a_plain_training_loop():
    bowl, steps, rate = family(noise=0.3), 12, 0.2
    curves = Runner(bowl, steps, 1).run(sgd((rate,)), [(5, Setting(rate))])
    member_key, init_key, batch_key, valid_key = jax.random.split(jax.random.key(5), 4)
    config = bowl.sample(member_key)
    params, data = bowl.init(init_key, config), bowl.data()
    losses = []
    for t in range(steps):
        batch = bowl.batch(jax.random.fold_in(batch_key, t), data.train, config)
        loss, grads = jax.value_and_grad(bowl.loss)(params, batch, config)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        losses.append(loss)
    valid = [
        bowl.loss(params, bowl.batch(k, data.valid, config), config) for k in jax.random.split(valid_key, 8)
    ]
    np.testing.assert_allclose(curves.train[0], losses, rtol=1e-5)
    np.testing.assert_allclose(curves.valid[0, -1], np.mean(valid), rtol=1e-5)


def test_the_horizon_is_data_and_the_schedule_follows_it():
    runner = Runner(family(noise=0.3), 20, 1)
    runs = [(0, Setting(0.1))]
    longer = runner.run(baseline("adam"), runs, 40)
    programs = len(runner._programs)
    usual = runner.run(baseline("adam"), runs)
    assert len(runner._programs) == programs
    assert (longer.points[-1], usual.points[-1]) == (40, 20)
    alone = Runner(family(noise=0.3), 40, 1).run(baseline("adam"), runs)
    np.testing.assert_allclose(longer.valid[0, -1], alone.valid[0, -1], rtol=1e-5)


def test_a_seed_fixes_member_start_and_batches_whatever_the_optimizer():
    still = [Optimizer(name, lambda w, setting, s: optax.set_to_zero()) for name in "ab"]
    one, other = (
        Runner(family(noise=0.5), 10, 2).run(o, [(1, Setting()), (2, Setting())]).train for o in still
    )
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_optimizers_with_one_build_share_one_program():
    def build(weights, setting, steps):
        return optax.sgd(weights)

    runner = Runner(family(), 5, 1)
    slow, fast = (Optimizer(str(w), build, weights=jnp.float32(w)) for w in (0.1, 1.0))
    ends = [runner.run(o, [(0, Setting())]).valid[0, -1] for o in (slow, fast)]
    assert len({build for build, *_ in runner._programs}) == 1
    assert ends[1] < ends[0]


def test_the_planted_best_rate_is_chosen():
    chosen = choose(Runner(family(), 3, 1), sgd((0.1, 0.316, 1.0, 3.16)), [0, 1])
    assert chosen.setting == Setting(1.0)
    assert chosen.runs == 8
    assert not chosen.at_edge
    assert [trial.diverged for trial in chosen.trials] == [0, 0, 0, 2]


def test_a_best_rate_at_the_edge_widens_the_grid_and_counts_the_trials():
    chosen = choose(Runner(family(), 5, 1), sgd((0.01, 0.0316, 0.1)), [0, 1])
    assert sorted(trial.setting.rate for trial in chosen.trials) == [
        0.01,
        0.0316,
        0.1,
        0.316,
        1.0,
        3.16,
        10.0,
    ]
    assert (chosen.setting.rate, chosen.runs, chosen.at_edge) == (1.0, 14, False)


def test_the_grid_is_widened_at_most_twice_and_says_so():
    chosen = choose(Runner(family(), 5, 1), sgd((1e-4, 3.16e-4, 1e-3)), [0])
    assert len(chosen.trials) == 3 + 2 + 2
    assert (chosen.setting.rate, chosen.at_edge) == (0.1, True)


def test_diverged_runs_count_as_four_times_their_start():
    train = np.array([[1.0, 1.0], [1.0, 1.3], [1.0, np.nan], [1.0, 0.5]])
    valid = np.array([[1.0, 0.7], [1.0, 0.9], [2.0, 1.0], [1.0, 9.0]])
    end = finals(Curves(train, valid, (0, 2)))
    assert end.diverged.tolist() == [False, True, True, False]  # the last one only overfits
    assert end.valid.tolist() == [0.7, 4.0, 8.0, 9.0]
    assert end.train.tolist() == [1.0, 4.0, 8.0, 0.5]
