"""Evaluation: stretched schedules, caches, wall-clock, and what is said about tasks that cannot be run."""

import dataclasses

import jax.numpy as jnp
import optax

from meta_train.baselines import BASELINES
from meta_train.evaluation import Protocol, baseline, evaluate
from meta_train.evaluation.compare import comparisons, own_horizon
from meta_train.evaluation.driver import STRETCHES
from meta_train.evaluation.results import Failure
from meta_train.evaluation.runs import Runner
from meta_train.evaluation.store import load_evaluation

from .fakes import broken_family, family, nan_family, sgd

PROTOCOL = Protocol(steps=30, tuning_seeds=2, report_seeds=3)


def stretched(tmp_path, **changes):
    protocol = dataclasses.replace(PROTOCOL, steps=40, **({"stretched": ("adamw",)} | changes))
    return evaluate({"bowl": family(noise=0.1)}, [sgd(), baseline("adamw", 3)], protocol, tmp_path)


def test_the_reference_is_stretched_by_its_leading_settings(tmp_path):
    results, _ = stretched(tmp_path)
    horizons = [result.steps for result in results if result.optimizer == "adamw"]
    assert horizons == [40, *(round(40 * stretch) for stretch in STRETCHES)]
    own, *others = (result for result in results if result.optimizer == "adamw")
    leading = {tuple(setting) for setting in own.leading(3)}
    assert all({tuple(row[:3]) for row in other.grid} == leading for other in others)
    (pair,) = comparisons(results)
    assert pair.speed_up is not None
    assert pair.speed_up.most == 4
    assert [result.steps for result in own_horizon(results)] == [40, 40]
    assert load_evaluation(tmp_path)[0] == results


def test_any_baseline_is_stretched_and_what_was_tuned_at_a_horizon_is_not_tuned_again(tmp_path):
    protocol = dataclasses.replace(PROTOCOL, steps=40, stretched=("muon",), stretches=(0.5, 2.0, 2.0))
    muon, task = baseline("muon", 5), {"bowl": family(noise=0.1)}
    (longer,), _ = evaluate(task, [muon], dataclasses.replace(PROTOCOL, steps=80), tmp_path)
    results, _ = evaluate(task, [sgd(), muon], protocol, tmp_path)
    assert [(r.optimizer, r.steps) for r in results] == [
        ("sgd", 40),
        ("muon", 40),
        ("muon", 20),
        ("muon", 80),
    ]
    assert [len(result.grid) for result in results[2:]] == [3, len(longer.grid)]
    assert results[-1] == longer
    (pair,) = comparisons(results)
    assert pair.speed_up is not None
    assert (pair.speed_up.least, pair.speed_up.most) == (0.5, 2.0)


def test_a_cache_spares_a_new_folder_and_no_cache_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("FLT_CACHE", str(tmp_path / "cache"))
    protocol = dataclasses.replace(PROTOCOL, cache=True)
    first, _ = evaluate({"bowl": family()}, [sgd()], protocol, tmp_path / "one")
    monkeypatch.setattr(Runner, "run", lambda *_: 1 / 0)
    again, _ = evaluate({"other name": family()}, [sgd()], protocol, tmp_path / "two")
    assert again == [dataclasses.replace(first[0], task="other name")]
    _, outcome = evaluate({"bowl": family()}, [sgd()], PROTOCOL, tmp_path / "three")
    assert "ZeroDivisionError" in outcome.failures[0].reason


def test_another_factory_is_another_result():
    changed = BASELINES["adam"]._replace(factory=lambda setting, steps: optax.adam(setting.rate, b1=0.8))
    assert baseline(changed).fingerprint != baseline("adam").fingerprint


def test_what_is_wrong_with_a_task_is_said_and_the_rest_goes_on(tmp_path):
    bowl = family("good")

    def variant(name, **changes):
        return dataclasses.replace(bowl, name=name, **changes)

    families = {
        "signature": variant("signature", loss=lambda params, batch: 0.0),
        "vector": variant("vector", loss=lambda params, batch, config: params["w"]),
        "integer": variant("integer", init=lambda key, config: {"w": jnp.arange(4)}),
        "nan": nan_family(),
        "negative": variant("negative", loss=lambda params, batch, config: jnp.sum(params["w"] ** 2) - 0.5),
        "good": bowl,
    }

    def factory(setting, steps):
        raise RuntimeError("no such optimizer")

    row = BASELINES["adam"]._replace(name="raises", factory=factory)
    results, outcome = evaluate(families, [baseline(row, 3), sgd()], PROTOCOL, tmp_path)
    assert [(result.task, result.optimizer) for result in results] == [("good", "sgd")]
    reasons = {(failure.task, failure.optimizer): failure.reason for failure in outcome.failures}
    assert "signature.loss is called as signature.loss(params, batch, config)" in reasons["signature", "sgd"]
    assert "vector.loss returns float32[4], expected one floating-point number" in reasons["vector", "sgd"]
    assert "parameter ['w'] has dtype int32" in reasons["integer", "sgd"]
    assert "not finite before the first step" in reasons["nan", "sgd"]
    assert "loss becomes negative (-0.4" in reasons["negative", "sgd"]
    assert reasons["good", "raises"] == "RuntimeError: no such optimizer"
    assert outcome.failures[0] == Failure("signature", "raises", reasons["signature", "raises"])


def test_wall_clock_is_measured_for_every_finished_pair(tmp_path):
    protocol = dataclasses.replace(PROTOCOL, wall_clock=True)
    _, outcome = evaluate({"bowl": family(), "broken": broken_family()}, [sgd()], protocol, tmp_path)
    assert outcome.milliseconds["bowl"]["sgd"] > 0
    assert "broken" not in outcome.milliseconds
