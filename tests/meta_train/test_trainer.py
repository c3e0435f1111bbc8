"""The steps of the outer loop: how meta-parameters move, what is measured, which families and horizons."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.config import CHUNK, NETWORK_SIGMA, PRESETS, SIGMA
from meta_train.outer import train
from meta_train.trainer import Gain, Trainer, shared
from meta_train.unroll import Score

from .bowls import Silent, run_of, saved

pytestmark = pytest.mark.usefixtures("quick_programs")


def test_one_step_moves_each_meta_parameter_in_proportion_to_its_perturbation(trainer: Trainer) -> None:
    """Adam's first step is its rate, whatever the gradient; the unit is a perturbation of 0.1."""
    gradient = jnp.linspace(-1.0, 1.0, trainer.flat.size + 1)[:-1] + 1e-3

    state = trainer.advance(trainer.start(), gradient)

    moved = trainer.unravel(state.flat - trainer.flat)
    signs = trainer.unravel(-jnp.sign(gradient))
    for module, group in moved.items():
        for name, change in group.items():
            expected = 0.03 * SIGMA.get(name, NETWORK_SIGMA) / 0.1 * signs[module][name]
            np.testing.assert_allclose(change, expected, rtol=2e-3, atol=2e-6)
    np.testing.assert_allclose(state.average, 0.9 * trainer.flat + 0.1 * state.flat, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 1


def test_the_average_forgets_as_fast_as_it_is_told() -> None:
    trainer = Trainer(run_of(averaging=0.25))
    state = trainer.advance(trainer.start(), jnp.ones(trainer.flat.size))

    np.testing.assert_allclose(state.average, 0.25 * trainer.flat + 0.75 * state.flat, rtol=1e-5, atol=1e-6)


def test_what_gradients_share_is_measured_without_their_noise() -> None:
    random = np.random.default_rng(0)
    common = random.normal(size=100)
    noisy = common + 3.0 * random.normal(size=(2000, 100))

    assert shared(noisy) == pytest.approx(common @ common, rel=0.1)
    assert np.mean(noisy**2) * 100 > 5 * shared(noisy)
    assert shared(np.stack([common, -common])) == pytest.approx(-common @ common)


@pytest.mark.parametrize("wrong", [{"averaging": 1.0}, {"averaging": -0.1}, {"learning_rate": 0.0}])
def test_rates_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}: expected"):
        run_of(**wrong)


def test_the_outer_rate_decays_to_a_tenth(trainer: Trainer) -> None:
    state, moved = trainer.start(), []
    for _ in range(5):  # one more than the run has steps
        after = trainer.advance(state, jnp.ones(trainer.flat.size))
        moved.append(np.linalg.norm(after.flat - state.flat))
        state = after

    assert moved == sorted(moved, reverse=True)
    assert moved[-1] / moved[0] == pytest.approx(0.1, rel=0.02)


def test_a_long_meta_gradient_is_clipped(trainer: Trainer) -> None:
    """Ten times as long a step back does not outweigh: both are cut to the same length."""
    down = jnp.ones(trainer.flat.size)
    small = trainer.advance(trainer.advance(trainer.start(), down), -down)
    large = trainer.advance(trainer.advance(trainer.start(), down), -10 * down)

    assert float(jnp.linalg.norm(down)) > trainer.config.clip
    np.testing.assert_allclose(small.flat, large.flat, rtol=1e-6, atol=1e-7)


def test_the_average_with_the_best_validation_score_is_remembered(trainer: Trainer) -> None:
    scores = iter([3.0, 1.0, 2.0])  # the weights of the objective sum to one
    trainer.data = {"bowl_valid": None}
    trainer.programs = {"bowl_valid": lambda *_: Score(*[jnp.full(2, next(scores))] * 3)}
    watch, state, averages = Silent(), trainer.start(), []

    for _ in range(3):
        state = trainer.advance(state, jnp.ones(trainer.flat.size))
        averages.append(state.average)
        state = trainer.validate(state, watch)

    np.testing.assert_allclose(watch.means, [3.0, 1.0, 2.0])
    assert float(state.best_score) == pytest.approx(1.0)
    np.testing.assert_array_equal(state.best, averages[1])


def test_the_gain_is_a_paired_comparison() -> None:
    before, after = np.asarray([1.0, 5.0, 3.0, 7.0]), np.asarray([0.0, 4.5, 1.5, 6.0])
    gain = Gain.of(before, after)

    assert (gain.before, gain.after) == (4.0, 3.0)
    assert gain.standard_error == pytest.approx(np.sqrt(np.var([1.0, 0.5, 1.5, 1.0], ddof=1) / 4))
    assert str(gain).endswith("4.000 at the start, 3.000 now: it fell by 1.000, 4.9 standard errors")
    assert str(Gain.of(before[:1], after[:1])).endswith("it fell by 1.000")
    assert str(Gain.of(before, before)).endswith("it fell by 0.000")


@pytest.mark.slow
def test_a_finished_run_says_what_it_gained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run_of(), tmp_path)
    state, trainer = saved(tmp_path), Trainer(run_of())
    trainer.compile(Silent())

    assert str(trainer.gain(state)) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("bounds", [(25, 25), (25, 75), (100, 1500)])
def test_horizons_are_multiples_of_the_chunk_within_bounds(bounds: tuple[int, int]) -> None:
    trainer = Trainer(run_of(horizons=bounds))

    horizons = [trainer.horizon(step, "bowl") for step in range(500)]

    assert {horizon % CHUNK for horizon in horizons} == {0}
    assert (min(horizons), max(horizons)) == bounds
    if bounds == (100, 1500):
        assert np.exp(np.mean(np.log(horizons))) == pytest.approx(np.sqrt(100 * 1500), rel=0.15)


def test_truncations_grow_log_linearly_for_the_families_that_are_truncated() -> None:
    families = {"families": ("bowl", "twin"), "family_estimators": (("bowl", "pes"),)}
    growing = Trainer(run_of(truncation=25, last_truncation=200, horizons=(100, 100), **families))
    staying = Trainer(run_of(truncation=25, **families))

    assert [growing.horizon(step, "bowl") for step in range(4)] == [25, 50, 100, 200]
    assert [growing.horizon(step, "twin") for step in range(4)] == [100] * 4
    assert [staying.horizon(step, "bowl") for step in range(4)] == [25] * 4


def test_the_longest_run_grows_log_linearly() -> None:
    trainer = Trainer(run_of(steps=401, longest_at_first=50, horizons=(25, 800)))

    horizons = np.asarray([trainer.horizon(step, "bowl") for step in range(401)])

    longest = 50 * 2 ** (np.arange(401) / 100)
    assert (horizons <= longest + CHUNK / 2).all()
    for start, end in ((0, 75), (100, 150), (200, 300), (300, 600)):
        assert end * 0.6 <= horizons[start : start + 100].max()


def test_every_preset_has_horizons_that_are_whole_chunks() -> None:
    for name, preset in PRESETS.items():
        assert {steps % CHUNK for steps in (*preset.horizons, preset.validation_steps)} == {0}, name
