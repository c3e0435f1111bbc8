"""The notebook's code runs from top to bottom; its kept outputs are small and have no times in them."""

import json
from pathlib import Path

import numpy as np

NOTEBOOK = Path(__file__).parents[2] / "examples" / "look_inside.ipynb"
MOST_BYTES = 250_000


def test_look_inside(capsys):
    from matplotlib import pyplot

    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec"), names)
    log, figure = names["log"], names["figure"]

    assert log["loss"][-10:].mean() < 0.2 < 2 < log["loss"][0]
    np.testing.assert_array_equal(log["count"], np.arange(1, 200, 5))
    assert [axes.get_title() for axes in figure.axes] == ["step", "signal_to_noise", "blend"]
    assert all(len(axes.lines) == 4 for axes in figure.axes)
    assert "remembers" in capsys.readouterr().out
    pyplot.close(figure)


def test_outputs_are_kept_small_and_without_times():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    for cell in notebook["cells"]:
        assert not cell["metadata"]
        assert cell["cell_type"] != "code" or cell["execution_count"]
    kinds = [
        kind
        for cell in notebook["cells"]
        for each in cell.get("outputs", ())
        for kind in each.get("data", ())
    ]
    assert kinds.count("image/png") == 2
