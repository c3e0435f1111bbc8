"""Learned masks and spectra over training, as functions and as matrices.

    python examples/papers/pictures.py lm.json lm.png       # of a language model; images.py draws its own

Masks are those that attention sees: where it estimates them from frequencies, the estimate. Seed 0.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 60_000  # bytes of a picture
MATRIX = 64  # tokens of the matrices of a language model


def sequences(path: Path, picture: Path) -> None:
    """For each kind: masks and spectra of the head that changed most, at some steps, and matrices."""
    from trainer import distances, frequencies

    saved = json.loads(path.read_text())
    settings = saved["settings"]
    lags, cycles = (np.asarray(f(settings["length"])) for f in (distances, frequencies))
    kinds = {kind: result for kind, result in saved["results"].items() if result["traces"]}
    figure, axes = _figure(len(kinds), 4)
    for row, (kind, result) in zip(axes, kinds.items(), strict=True):
        masks, layer, head = _chosen(result["traces"]["mask"])
        steps = np.linspace(0, settings["steps"], len(masks)).astype(int)
        shown = [0, len(masks) // 4, len(masks) // 2, len(masks) - 1]
        spectra = result["traces"].get("density")
        for at in shown:
            color = str(0.8 * (1 - at / shown[-1]))
            row[0].plot(1 + lags, masks[at, layer, head], color=color, lw=1, label=f"step {steps[at]}")
            if spectra:
                row[1].plot(cycles, np.asarray(spectra)[at, layer, head], color=color, lw=1)
        row[0].set(xscale="log", ylabel=kind, title=f"f, layer {layer}, head {head}")
        row[1].set(xscale="log", title="spectrum" if spectra else "")
        if not spectra:
            row[1].axis("off")
        far = np.abs(np.subtract.outer(np.arange(MATRIX), np.arange(MATRIX)))
        for axis, at in zip(row[2:], (0, -1), strict=True):
            matrix = np.exp(np.interp(far, lags, masks[at, layer, head]))
            _matrix(axis, np.where(np.tri(MATRIX) > 0, matrix, np.nan), f"exp f, step {steps[at]}")
    axes[0][0].legend(fontsize=5)
    axes[-1][0].set_xlabel("1 + distance, bytes", fontsize=6)
    axes[-1][1].set_xlabel("cycles a byte", fontsize=6)
    _save(figure, picture)


def grids(results: dict[str, Any], steps: int, picture: Path) -> None:
    """For each kind: masks as functions of the offset at some steps, a matrix, and spectra."""
    kinds = {kind: result for kind, result in results.items() if result["traces"]}
    figure, axes = _figure(len(kinds), 6)
    for row, (kind, result) in zip(axes, kinds.items(), strict=True):
        masks, layer, head = _chosen(result["traces"]["mask"])
        side = math.isqrt(masks.shape[-1])
        shown = masks[:, layer, head].reshape(-1, side, side)
        for axis, at in zip(row, (0, len(shown) // 3, len(shown) - 1), strict=False):
            _matrix(axis, shown[at], f"f, step {round(at * steps / (len(shown) - 1))}")
        row[0].set_ylabel(f"{kind}\nlayer {layer}, head {head}")
        tokens = np.indices(((side + 1) // 2,) * 2).reshape(2, -1)
        lags = tokens[:, :, None] - tokens[:, None, :] + side // 2
        _matrix(row[3], np.exp(shown[-1][lags[0], lags[1]]), "exp f, all tokens, end")
        for axis, at in zip(row[4:], (0, -1), strict=True):
            if "density" in result["traces"]:
                spectrum = np.asarray(result["traces"]["density"])[at, layer, head].reshape(side, side)
                _matrix(axis, spectrum, f"spectrum, step {steps if at else 0}")
            else:
                axis.axis("off")
    _save(figure, picture)


def _chosen(masks: Sequence[Any]) -> tuple[np.ndarray, int, int]:
    """All masks, and the layer and head that changed most."""
    values = np.asarray(masks)
    change = np.abs(values[-1] - values[0]).max(-1)
    layer, head = np.unravel_index(change.argmax(), change.shape)
    return values, int(layer), int(head)


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    size = (1.6 * columns, 1.4 * rows)
    with plt.rc_context({"font.size": 6}):
        return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _matrix(axis: Any, values: np.ndarray, title: str) -> None:
    drawn = axis.imshow(values, cmap="viridis", interpolation="nearest")
    axis.set_title(title)
    axis.set(xticks=[], yticks=[])
    axis.figure.colorbar(drawn, ax=axis).ax.tick_params(labelsize=5)


def _save(figure: Any, picture: Path) -> None:
    """Saves as sharply as the limit allows, in few colours."""
    import matplotlib.pyplot as plt
    from PIL import Image

    for dots in (110, 100, 90, 80, 70, 60):
        for axis in figure.axes:
            axis.title.set_fontsize(6)
            axis.tick_params(labelsize=5)
            axis.yaxis.label.set_fontsize(6)
        figure.savefig(picture, dpi=dots)
        Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)
        if picture.stat().st_size <= LIMIT:
            break
    plt.close(figure)


if __name__ == "__main__":
    sequences(*map(Path, sys.argv[1:3]))
