"""The notebook's code runs from top to bottom and prints what is kept, which is small and has no times."""

import base64
import contextlib
import io
import json
import re
from pathlib import Path

import matplotlib
import numpy as np

NOTEBOOK = json.loads((Path(__file__).parents[2] / "examples" / "look_inside.ipynb").read_text("utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
MOST_BYTES = 150_000
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def printed_by(cell) -> str:
    return "".join(line for output in cell["outputs"] for line in output.get("text", ()))


def pictures_of(cell) -> list[bytes]:
    kept = [output.get("data", {}).get("image/png") for output in cell["outputs"]]
    return [base64.b64decode(picture) for picture in kept if picture]


def test_look_inside_prints_what_is_kept():
    names: dict[str, object] = {}
    with matplotlib.rc_context():
        from matplotlib import pyplot

        for number, cell in enumerate(CODE):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(
                    compile("".join(cell["source"]), f"look_inside.ipynb, code cell {number}", "exec"), names
                )
            assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", printed_by(cell))
            numbers, kept = (
                np.asarray(NUMBER.findall(text), float) for text in (printed.getvalue(), printed_by(cell))
            )
            np.testing.assert_allclose(numbers, kept, rtol=0.1, atol=0.01)  # machines round differently
        log, figure = names["log"], names["figure"]
        pyplot.close(figure)

    np.testing.assert_array_equal(log["count"], np.arange(1, 200, 5))
    assert [axes.get_title() for axes in figure.axes] == ["step", "signal_to_noise", "blend"]
    assert all(len(axes.lines) == 4 for axes in figure.axes)


def test_what_is_kept_is_small_and_has_no_times():
    assert len(json.dumps(NOTEBOOK)) < MOST_BYTES
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not any(cell["metadata"] for cell in NOTEBOOK["cells"])  # where Jupyter writes when a cell ran
    assert set(NOTEBOOK["metadata"]) == {"kernelspec", "language_info"}
    pictures = [picture for cell in CODE for picture in pictures_of(cell)]
    assert len(pictures) == 2
    assert not any(mark in picture for picture in pictures for mark in (b"tIME", b"Creation Time"))
