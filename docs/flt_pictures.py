"""Draws docs/img/flt_masks.png: masks of the spectra, and their estimates from 64 frequencies.

python docs/flt_pictures.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from learned_opt.flt import GaussianMixture, LocalWindow, LorentzianMixture, ShiftInvariant, encode

SPECTRA = {
    "GaussianMixture": GaussianMixture(
        jnp.array([0.6, 0.4]), jnp.array([[0.0], [0.8]]), jnp.array([0.3, 0.1])
    ),
    "LocalWindow": LocalWindow(jnp.array(1.0), jnp.array([1.0]), jnp.array([0.2])),
    "ShiftInvariant, laplace": ShiftInvariant(jnp.array(1.0), jnp.array([1.0]), "laplace"),
    "LorentzianMixture": LorentzianMixture(
        jnp.array([0.7, 0.3]), jnp.array([0.5, 1.0]), jnp.array([0.6, 0.0]), jnp.array([0.0, 0.0])
    ),
}


def main() -> None:
    """Draws and saves the picture."""
    lags = jnp.linspace(-4, 4, 121)[:, None]
    _, axes = plt.subplots(1, 4, figsize=(11, 2.4), sharey=True, layout="constrained")
    for axis, (name, spectrum) in zip(axes, SPECTRA.items(), strict=True):
        frequencies = spectrum.sample(jax.random.key(0), 64)
        sides = encode(lags, spectrum, frequencies)
        axis.plot(lags, sides.query @ sides.key[60], color="tab:orange", lw=1, label="64 frequencies")
        axis.plot(lags, spectrum.mask(lags), color="black", lw=1.2, label="f")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("lag")
    axes[0].legend(fontsize=7)
    plt.savefig(Path(__file__).parent / "img" / "flt_masks.png", dpi=90)


if __name__ == "__main__":
    main()
