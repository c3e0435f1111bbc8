"""Evaluation: resuming, failures, statistics, files."""

import csv
import dataclasses
import io
import json
import threading

import numpy as np
import optax
import pytest
from rich.console import Console

from meta_train.baselines import BASELINES, Setting
from meta_train.evaluation import Optimizer, Protocol, baseline, evaluate, store
from meta_train.evaluation.compare import compare, comparisons, steps_to, summarise
from meta_train.evaluation.driver import STRETCHES
from meta_train.evaluation.results import Outcome
from meta_train.evaluation.runs import Runner
from meta_train.evaluation.store import Store
from meta_train.evaluation.table import (
    CSV_COLUMNS,
    print_tables,
    tables,
    write_csv,
    write_markdown,
)
from meta_train.plots import figures, look
from tasks.suites import HELD_OUT, VALIDATION

from .fakes import broken_family, family, nan_family, sgd

PROTOCOL = Protocol(steps=30, tuning_seeds=2, report_seeds=3)
SHIPPED = [  # None: the steps on the card
    *((task, None, tuple(BASELINES)) for task in VALIDATION),
    *((task, 1000, tuple(BASELINES)) for task in HELD_OUT),
    *((task, 500, ("adamw", "muon")) for task in HELD_OUT),
    *((task, 2000, ("adamw", "muon")) for task in HELD_OUT),
]


@pytest.fixture(scope="module")
def bowl(tmp_path_factory):
    """Results of gradient descent, learned and tuned, and of two baselines."""
    optimizers = [sgd(name="learned"), sgd((0.001, 0.01, 0.1), "slow"), baseline("adam", 5)]
    results, outcome = evaluate(
        {"bowl": family(noise=0.1)}, optimizers, PROTOCOL, tmp_path_factory.mktemp("bowl")
    )
    assert not outcome.failures
    return results


def test_finished_results_are_not_run_again(tmp_path, monkeypatch):
    calls = []
    run = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, *args: calls.append(args) or run(self, *args))
    bowls = {"bowl": family()}
    tuned, extra = sgd((0.1, 0.316, 1.0, 3.16), "tuned"), sgd(name="extra")
    first, _ = evaluate(bowls, [tuned], PROTOCOL, tmp_path)
    assert len(calls) == 5  # four trials and a report
    again, _ = evaluate(bowls, [tuned], PROTOCOL, tmp_path)
    assert len(calls) == 5
    assert again == first
    evaluate(bowls, [tuned, extra], PROTOCOL, tmp_path)
    assert len(calls) == 6
    evaluate(bowls, [dataclasses.replace(extra, fingerprint="other weights")], PROTOCOL, tmp_path)
    assert len(calls) == 7
    evaluate(bowls, [extra], dataclasses.replace(PROTOCOL, steps=31), tmp_path)
    assert len(calls) == 8


def test_an_interrupted_evaluation_keeps_what_was_finished(tmp_path, monkeypatch):
    class Interrupt(Optimizer):
        @property
        def tuned(self):
            raise KeyboardInterrupt

    stop = Interrupt("stop", sgd().build, fingerprint="stop")
    with pytest.raises(KeyboardInterrupt):
        evaluate({"bowl": family()}, [sgd(), stop], PROTOCOL, tmp_path)
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("ran again"))
    results, _ = evaluate({"bowl": family()}, [sgd()], PROTOCOL, tmp_path)
    assert results[0].optimizer == "sgd"


def test_a_killed_search_repeats_no_finished_trial(tmp_path, monkeypatch):
    rates = (0.1, 0.316, 1.0, 3.16)
    run, ran = Runner.run, []

    def killed(self, optimizer, runs, steps):
        ran.append(runs[0][1].rate)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(self, optimizer, runs, steps)

    monkeypatch.setattr(Runner, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate({"bowl": family()}, [sgd(rates)], PROTOCOL, tmp_path)
    results, _ = evaluate({"bowl": family()}, [sgd(rates)], PROTOCOL, tmp_path)
    assert (ran[:5], len(ran)) == ([0.1, 0.316, 1.0, 1.0, 3.16], 6)  # the last one is the report
    assert results[0].tuning_runs == 8
    assert not list((tmp_path / "runs").glob("*.trials"))


def test_an_interrupt_stops_the_other_threads_too():
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        Runner(family(), 5, 1, stop).run(sgd(), [(0, Setting())])


def test_a_damaged_file_is_computed_again(tmp_path):
    first, _ = evaluate({"bowl": family()}, [sgd()], PROTOCOL, tmp_path)
    (file,) = (tmp_path / "runs").iterdir()
    file.write_text(file.read_text()[:100])
    again, _ = evaluate({"bowl": family()}, [sgd()], PROTOCOL, tmp_path)
    assert again[0].valid == first[0].valid
    assert json.loads(file.read_text())["optimizer"] == "sgd"


def test_broken_tasks_are_reported_and_the_others_go_on(tmp_path):
    families = {"nan": nan_family(), "broken": broken_family(), "bowl": family()}
    results, outcome = evaluate(families, [sgd(), baseline("adam", 3)], PROTOCOL, tmp_path)
    failures = outcome.failures
    assert [(r.task, r.optimizer) for r in results] == [("bowl", "sgd"), ("bowl", "adam")]
    assert {f.task for f in failures} == {"nan", "broken"}
    assert "not finite before the first step" in failures[0].reason
    assert "the disk is on fire" in failures[2].reason
    assert tables(results, outcome)[-1].title == "Could not be run"


def test_a_run_that_always_diverges_is_stored_and_counted(tmp_path):
    explode = Optimizer("explode", lambda w, setting, s: optax.sgd(1e20))
    (result,), _ = evaluate({"bowl": family()}, [explode], PROTOCOL, tmp_path)
    assert result.diverged == [True] * 3
    np.testing.assert_allclose(result.valid, 4 * np.array(result.initial))
    assert result.valid_curves[0][-1] is None
    assert Store(tmp_path / "runs").load("bowl", "explode", result.key) == result


def test_two_optimizers_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same name: sgd, sgd"):
        evaluate({"bowl": family()}, [sgd(), sgd()], PROTOCOL, tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"report_seeds": 0}, {"max_parallel": -1}, {"tuning_seeds": 1001}]
)
def test_impossible_protocols_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Protocol(**wrong)


def test_an_optimizer_compared_with_itself_ties(bowl):
    for result in bowl:
        own = compare(result, result)
        assert (own.verdict, own.ratio, own.speed_up) == ("tie", 1.0, None)


def test_equal_losses_tie_although_shipped_ones_are_rounded(bowl):
    exact = dataclasses.replace(bowl[0], valid=[float(np.float32(1e-5))] * 3)
    shipped = dataclasses.replace(exact, optimizer="shipped", valid=[1e-5] * 3)
    assert exact.valid != shipped.valid
    assert compare(exact, shipped).verdict == compare(shipped, exact).verdict == "tie"


def test_a_clear_winner_wins_and_is_faster(bowl):
    learned, slow, _ = bowl
    slow = dataclasses.replace(slow, valid=[2 * v for v in learned.valid])
    assert compare(learned, slow).verdict == "win"
    assert compare(learned, slow).ratio == pytest.approx(0.5)
    assert compare(slow, learned).verdict == "loss"


def test_one_seed_decides_nothing(bowl):
    learned, slow, _ = (dataclasses.replace(r, valid=r.valid[:1], seeds=r.seeds[:1]) for r in bowl)
    assert compare(learned, slow).verdict == "tie"


def test_results_of_different_runs_are_not_compared(bowl):
    with pytest.raises(ValueError, match="differ in steps: 30 and 31"):
        compare(bowl[0], dataclasses.replace(bowl[1], steps=31))


def test_steps_to_a_target_are_interpolated(bowl):
    line = np.linspace(2.0, 1.0, 21)
    result = dataclasses.replace(bowl[0], points=list(range(0, 101, 5)), valid_curves=[line.tolist()])
    assert steps_to(result, 1.425) == pytest.approx(57.5)
    assert (steps_to(result, 0.9), steps_to(result, None), steps_to(result, 3.0)) == (None, None, 0.0)


def test_a_summary_counts_verdicts_and_names_the_worst_task(bowl):
    pair = compare(bowl[0], bowl[1])
    pairs = [
        dataclasses.replace(pair, task=task, ratio=ratio, log_ratios=(np.log(ratio),) * 3, verdict=verdict)
        for task, ratio, verdict in [("a", 0.5, "win"), ("b", 0.8, "win"), ("c", 3.0, "loss")]
    ]
    summary = summarise(pairs)
    assert summary.verdicts == {"win": 2, "tie": 0, "loss": 1}
    assert (summary.median_ratio, summary.worst_task, summary.worst_ratio) == (0.8, "c", 3.0)
    assert summary.low == pytest.approx(summary.mean_ratio)  # all seeds agree: nothing to resample


def test_csv_markdown_and_pictures_exist_and_parse(bowl, tmp_path):
    write_csv(bowl, tmp_path / "results.csv")
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["optimizer"], row["seed"]) for row in rows[:4]] == [
        ("learned", "1000"),
        ("learned", "1001"),
        ("learned", "1002"),
        ("slow", "1000"),
    ]
    assert float(rows[5]["valid"]) == bowl[1].valid[2]
    assert rows[5]["setting"] == bowl[1].described

    made = tables(bowl, Outcome())
    write_markdown(made, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert f"| bowl | slow | {bowl[1].described} | {bowl[1].tuning_runs} |" in text
    printed = io.StringIO()
    print_tables(made, Console(width=200, file=printed))
    assert "Over all tasks" in printed.getvalue()
    assert text.index("## Over all tasks") < text.index("## Final losses")
    assert made[0].columns[-1] == "diverged"  # no target, no time: no columns of dashes
    timed = tables(bowl, Outcome(targets={"bowl": 1e9}, milliseconds={"bowl": {"slow": 2.0}}))[0]
    assert timed.columns[-3:] == ("steps to target", "ms/step", "s to target")
    assert [row[-2] for row in timed.rows] == ["-", "2", "-"]

    drawn = figures(bowl, comparisons(bowl))
    assert list(drawn) == ["bowl", "summary", "profile"]
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_twenty_optimizers_look_different_and_seven_in_every_way():
    looks = [look(index) for index in range(20)]
    for kinds in (("color", "marker"), ("color", "linestyle")):
        assert len({tuple(each[kind] for kind in kinds) for each in looks}) == 20
    for kind in ("color", "marker", "linestyle"):
        assert len({each[kind] for each in looks[:7]}) == 7


def test_every_pair_has_a_look_of_its_own_in_the_summary(bowl):
    (pair,) = [each for each in comparisons(bowl) if each.baseline == "adam"]
    pairs = [dataclasses.replace(pair, baseline=f"baseline {index}") for index in range(9)]
    (axes,) = figures(bowl, pairs)["summary"].axes
    handles, _ = axes.get_legend_handles_labels()
    assert len({(line.get_color(), line.get_marker()) for line in handles}) == 9


def test_shipped_results_are_baselines_with_short_numbers(bowl, tmp_path, monkeypatch):
    monkeypatch.setenv("FLT_CACHE", str(tmp_path))
    for result in bowl:
        Store(tmp_path / "one" / "runs").save(result)
    assert store.ship([tmp_path / "one"], tmp_path / store.SHIPPED) == 2
    monkeypatch.setattr(store.resources, "files", lambda package: tmp_path)
    store._shipped.cache_clear()
    found = Store(tmp_path / "runs", shared=True).load("bowl", "slow", bowl[1].key)
    learned = Store(tmp_path / "other", shared=True).load("bowl", "learned", bowl[0].key)
    store._shipped.cache_clear()
    np.testing.assert_allclose(found.valid, bowl[1].valid, rtol=1e-4)
    assert learned is None


@pytest.mark.parametrize(("task", "steps", "names"), SHIPPED)
def test_nothing_is_computed_where_results_are_shipped(task, steps, names, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_users", lambda: tmp_path / "no cache")
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("ran"))
    stretched = ("adamw",) if task in VALIDATION else names if steps == 2000 else ()
    stretches = STRETCHES if task in VALIDATION else (0.5, 2.0)
    families, baselines = {task: (VALIDATION | HELD_OUT)[task]}, [baseline(name) for name in names]
    protocol = Protocol(steps=steps, stretched=stretched, stretches=stretches, cache=True)
    results, outcome = evaluate(families, baselines, protocol, tmp_path)
    assert not outcome.failures
    assert len(results) == len(names) + len(stretched) * len(stretches)
