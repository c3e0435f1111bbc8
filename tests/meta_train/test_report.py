"""Reports: what they read, what they say about damaged input, and that a page needs nothing else."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from tensorboardX import SummaryWriter

from learned_opt import FLTConfig, diagnostics, flt_optimizer, untrained
from learned_opt.weights import save_weights
from meta_train.evaluation import Protocol, evaluate
from meta_train.report import write_report
from meta_train.report.diagnostics import diagnostics_section, read_diagnostics
from meta_train.report.memory import memory_section
from meta_train.report.trained import read_events

from .fakes import broken_family, family, sgd

PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}


class Page(HTMLParser):
    """What a page refers to, and its images."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.images, self.links = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.images += [attributes] if tag == "img" else []


def report(source):
    printed = io.StringIO()
    path = write_report(source, Console(width=200, file=printed))
    return path, Page(path.read_text()), printed.getvalue()


def check_self_contained(page):
    assert "script" not in page.tags
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert page.images
    for image in page.images:
        assert len(image["alt"]) > 10
        svg = base64.b64decode(image["src"].partition("base64,")[2]).decode()
        assert not re.search(r'href="(?!#)', svg)  # an image refers to itself only


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The diagnostics of a short run, logged as the documentation says."""
    file = tmp_path_factory.mktemp("log") / "run.jsonl"
    optimizer = flt_optimizer(total_steps=4, weights=untrained(FLTConfig()), orthogonalize=False)
    state = optimizer.init(PARAMS)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(lambda p: p + 0.1, params), state, params)
        return optax.apply_updates(params, updates), state, diagnostics(state)

    params = PARAMS
    with file.open("w") as lines:
        for _ in range(4):
            params, state, found = step(params, state)
            print(json.dumps({key: np.asarray(value).tolist() for key, value in found.items()}), file=lines)
    return file


@pytest.mark.slow
def test_logged_diagnostics_become_a_page_and_a_table(log):
    path, page, printed = report(log)
    assert path == log.with_suffix(".html")
    check_self_contained(page)
    assert "After 4 steps" in printed
    rows = list(csv.reader(log.with_suffix(".csv").read_text().splitlines()))
    assert rows[0][:2] == ["tensor", "step length"]
    assert float(rows[1][1]) == pytest.approx(read_diagnostics(log)[-1]["step"][0], rel=1e-3)


def test_names_losses_and_many_tensors_are_shown(log):
    wide = [
        {**line, "loss": 1.0, "tensors": [f"layer{i}" for i in range(12)]}
        | {key: [0.5] * 12 for key in ("step", "signal_to_noise", "blend", "shrink")}
        for line in read_diagnostics(log)
    ]
    section = diagnostics_section("wide", wide)
    assert section.tables[0].rows[-1][0] == "layer11"
    panels = [axes.get_title() for axes in section.figures[0][1].axes]
    assert panels[:3] == ["loss", "step length", "signal-to-noise"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:1], "{", *lines[2:]], "line 2: expected a JSON object"),
        (lambda lines: [*lines[:2], '{"count": 3}'], "line 3: expected a JSON object"),
        (lambda lines: [lines[0], lines[1].replace('"step": [', '"step": [1.0, ')], "line 2: the number"),
        (lambda lines: [], "is empty"),
    ],
)
def test_a_damaged_log_is_refused_by_its_line(log, tmp_path, change, message):
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("\n".join(change(log.read_text().splitlines())))
    with pytest.raises(ValueError, match=message):
        write_report(damaged, Console(file=io.StringIO()))


def test_the_masks_of_the_weights_that_a_log_names_are_shown(log, tmp_path):
    lines = read_diagnostics(log)
    named = tmp_path / "named.jsonl"
    named.write_text("".join(json.dumps({**line, "weights": "flt-v0"}) + "\n" for line in lines))
    path, page, printed = report(named)
    check_self_contained(page)
    assert "The memory of flt-v0" in path.read_text()
    assert len(page.images) == 2
    assert "remembers, steps" in printed
    save_weights(tmp_path / "mine" / "v0.1.safetensors", *untrained(FLTConfig()), {})
    for name in (
        "mine/v0.1.safetensors",
        str(tmp_path / "mine" / "v0.1.safetensors"),
    ):  # not of the current folder
        named.write_text(json.dumps({**lines[0], "weights": name}) + "\n")
        assert "The memory of v0.1<" in write_report(named, Console(file=io.StringIO())).read_text()
    named.write_text(json.dumps({**lines[0], "weights": "missing"}) + "\n")
    with pytest.raises(ValueError, match="missing"):
        write_report(named, Console(file=io.StringIO()))


def test_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a folder"):
        write_report(tmp_path, Console(file=io.StringIO()))


def test_an_evaluation_becomes_a_page_with_everything_in_it(log, tmp_path):
    tasks = {"bowl <1>": family(noise=0.1), "broken": broken_family()}
    evaluate(tasks, [sgd(name="learned"), sgd((0.01, 0.1, 1.0), "tuned")], Protocol(steps=20), tmp_path)
    (tmp_path / "weights").mkdir()
    save_weights(tmp_path / "weights" / "mine.safetensors", *untrained(FLTConfig()), {})
    (tmp_path / "diagnostics").mkdir()
    (tmp_path / "diagnostics" / "bowl-learned.jsonl").write_text(log.read_text())
    path, page, printed = report(tmp_path)
    check_self_contained(page)
    text = path.read_text()
    for words in ("bowl &lt;1&gt;", "the disk is on fire", "The memory of mine", "What bowl-learned did"):
        assert words in text
    assert len(page.images) == 5  # summary, profile, learning curves, memory, diagnostics
    assert text.index("<caption>Over all tasks") < text.index("<caption>Final losses")
    assert "Over all tasks" in printed
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 2 * 3


def test_masks_decay_as_learned():
    theta, config = untrained(FLTConfig())
    section = memory_section("mine", theta, config)
    assert [row[0] for row in section.tables[0].rows] == [
        f"{index}: {'gradient' if mode.value == 'g' else 'its square'}, {mode.kind}"
        for index, mode in enumerate(config.modes, start=1)
    ]
    mask, spectrum = section.figures[0][1].axes
    for mode, drawn, density in zip(config.modes, mask.lines, spectrum.lines, strict=True):
        ages, weights = drawn.get_data()
        expected = (1 - mode.decay) * mode.decay ** (ages - 1)
        np.testing.assert_allclose(weights, expected, rtol=1e-2, atol=1e-7)
        assert np.diff(density.get_ydata()).max() <= 0  # a real mode lets the lowest frequencies pass


def test_a_training_run_becomes_a_page_from_its_events(tmp_path):
    with SummaryWriter(str(tmp_path / "events")) as writer:
        for step, value in enumerate((3.0, 1.0, 2.0)):
            writer.add_scalar("validation/mean", value, step)
            writer.add_scalar("log_loss/wine", value, step)
            writer.add_scalar("law/log_rate_0", value, step)
            writer.add_histogram("rule/w", np.arange(3.0), step)
            writer.add_scalar("meta_gradient_norm", value, step)
    _, page, _ = report(tmp_path)
    check_self_contained(page)
    assert len(page.images) == 3  # the run, its families, its laws
    rows = list(csv.reader((tmp_path / "report.csv").read_text().splitlines()))
    assert rows[1] == ["mean", "3.0000", "1.0000", "2.0000"]

    (file,) = (tmp_path / "events").iterdir()
    file.write_bytes(file.read_bytes()[:-5])  # killed in the middle of a record
    series = read_events(tmp_path / "events")
    assert series["validation/mean"] == {0: 3.0, 1: 1.0, 2: 2.0}
    assert 2 not in series["meta_gradient_norm"]
