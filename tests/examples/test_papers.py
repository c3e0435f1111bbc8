"""The experiments of the two papers: data are what they say, mains run, intervals are right."""

import importlib
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "papers"
# Of ase, under NumPy 2.5.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of the folder, as running it would."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_paired_interval_is_students(module):
    mean, low, high = module("common").paired([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2)
    assert high - mean == pytest.approx(4.302653 / 3**0.5)  # the 97.5% quantile with 2 degrees of freedom
    assert mean - low == pytest.approx(high - mean)


def test_a_claim_needs_an_interval_without_zero(module):
    scores = {"a": [5.0, 6.0, 7.0], "b": [4.0, 5.1, 5.9], "c": [7.0, 3.0, 8.0]}
    text = module("common").compare(
        scores, [("a", "b"), ("a", "c")], measure="error", decimals=1, higher_is_better=False
    )
    assert "| a − b | +1.0 [+0.8, +1.2] | worse |" in text
    assert text.endswith("| none |")


def test_seeds_are_tested_on_as_many_items(module):
    test = module("common").held_out(3, 20, 0.25)
    assert test.sum(axis=1).tolist() == [5, 5, 5]
    assert len(np.unique(test, axis=0)) == 3


def test_molecules_are_centred_and_composition_explains_most(module):
    pytest.importorskip("ase")
    molecules = module("molecules").load()
    assert molecules.positions.shape == (162, 14, 3)
    np.testing.assert_allclose(molecules.positions.sum(axis=1), 0, atol=1e-4)
    np.testing.assert_array_equal(molecules.there.sum(axis=1), molecules.counts.sum(axis=1))
    left = module("molecules").remainder(molecules, np.zeros((1, 162), bool))
    assert left.std() < 0.6 * molecules.enthalpy.std()


def test_labels_of_graphs(module):
    import networkx as nx

    graphs = module("graphs")
    assert graphs.four_cycle(nx.cycle_graph(4))
    assert graphs.four_cycle(nx.complete_bipartite_graph(2, 3))
    assert not graphs.four_cycle(nx.complete_graph(5))
    assert not graphs.four_cycle(nx.cycle_graph(5))
    loaded = graphs.load(20)
    mask = graphs.whole(loaded.owner).dense()
    np.testing.assert_array_equal(mask, loaded.owner[:, None] == loaded.owner)


@pytest.mark.slow  # reads all modules of the standard library
def test_trees_are_connected_and_in_preorder(module):
    trees = module("trees").load(6, 16)
    assert trees.types.shape == trees.parents.shape == (6, 16)
    assert (trees.parents[:, 0] == -1).all()
    assert ((trees.parents[:, 1:] >= 0) & (trees.parents[:, 1:] < np.arange(1, 16))).all()
    assert {trees.names[row[0]] for row in np.asarray(trees.types)} == {"FunctionDef"}


SMALL = {
    "molecules": {"features": 8, "width": 8, "layers": 1},
    "graphs": {"graphs": 40, "width": 8, "layers": 1, "walk": 2},
    "trees": {"trees": 8, "nodes": 12, "width": 8, "layers": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_main(module, name, tmp_path, capsys):
    if name == "molecules":
        pytest.importorskip("ase")
    script = module(name)
    scores = script.main(script.Options(seeds=2, steps=3, out=tmp_path, **SMALL[name]))
    printed = capsys.readouterr().out
    assert all(len(each) == 2 and np.isfinite(each).all() for each in scores.values())
    assert all(f"| {variant} |" in printed for variant in scores)
    assert (tmp_path / f"{name}.png").stat().st_size < 60_000
    jax.clear_caches()
