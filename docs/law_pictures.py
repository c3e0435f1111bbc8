"""Draws modes.png, schedule.png and laws.png in docs/img from `flt-v1`, and prints tables beside them.

python docs/law_pictures.py
"""

import math
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import optax

from learned_opt import FLTConfig, diagnostics, flt_optimizer, load_weights
from learned_opt.flt.lorentzian import lorentzian_density, lorentzian_mask
from learned_opt.optimizer.controller import LAWS, Schedule, feature_names

IMAGES = Path(__file__).parent / "img"
CONTROLLER, SCHEDULE = "flt/~/controller", "flt/~/controller/~/schedule"
FAST, SLOW, SQUARE = ("tab:orange", "-"), ("tab:blue", "--"), ("tab:green", "-.")
STEPS = 500
COSINES = {  # what several features remember, and in which mode
    "hypergradient": {
        "hypergradient_0": 0,
        "hypergradient_1": 1,
        "hypergradient_2": 2,
        "mean_hypergradient": 2,
    },
    "alignment": {"alignment_0": 0, "alignment_1": 1, "alignment_2": 2},
}


def canvas(panels: int) -> tuple[Any, Any]:
    """A row of panels with a faint grid."""
    figure, axes = plt.subplots(1, panels, figsize=(11, 2.8), layout="constrained")
    for axis in axes:
        axis.grid(True, alpha=0.25, linewidth=0.5)
    return figure, axes


def modes(theta: Any) -> None:
    """Masks and spectra of the three modes, and what the two heads of the rule make of them."""
    rates, heads = np.exp(theta["flt/~/memory"]["log_rate"]), theta["flt/~/rule"]["read_out"]
    print("| mode | decay a step | mean age, steps | half of its weight is younger than |\n|---|---|---|---|")
    for name, rate in zip(("fast, of g", "slow, of g", "of g²"), rates, strict=True):
        decay = math.exp(-rate)
        print(f"| {name} | {decay:.4f} | {decay / (1 - decay):.1f} | {math.log(2) / rate:.1f} |")
    print("\nread-outs:", [[f"{x:.2f}" for x in head] for head in heads])
    print(f"power of the root in the orthogonal one: {jax.nn.sigmoid(theta['flt/~/rule']['whitening']):.2f}")
    lags, frequencies = np.arange(400), np.geomspace(1e-4, 0.5, 200)
    figure, (left, middle, right) = canvas(3)
    gains = -np.expm1(-rates)
    masks = [
        lorentzian_mask(jnp.asarray(lags, jnp.float32), *pair, 0, 0)
        for pair in zip(gains, rates, strict=True)
    ]
    for (colour, line), name, mask, gain, rate in zip(
        (FAST, SLOW, SQUARE), ("fast", "slow", "squares"), masks, gains, rates, strict=True
    ):
        left.plot(lags + 1, mask, line, color=colour, label=name)
        density = lorentzian_density(jnp.asarray(frequencies, jnp.float32), gain, rate, 0)
        middle.plot(frequencies, density, line, color=colour)
    wave = lorentzian_density(jnp.asarray(frequencies, jnp.float32), 0.05, 0.05, 0.1)
    middle.plot(frequencies, wave, ":", color="gray", label="a complex mode at 0.1")
    for (colour, line), name, (now, fast, slow) in zip(
        (("black", "-"), ("tab:red", "--")), ("elementwise", "orthogonal"), heads, strict=True
    ):
        right.plot(
            lags + 1, now * (lags == 0) + fast * masks[0] + slow * masks[1], line, color=colour, label=name
        )
    for axis, title in ((left, "masks"), (right, "read-out of the two directions")):
        axis.set(
            title=title, xlabel="age of the gradient + 1, steps", ylabel="weight", xscale="log", yscale="log"
        )
        axis.set_ylim(1e-5, 0.5)
        axis.legend(fontsize=7)
    middle.set(title="spectra", xlabel="cycles a step", ylabel="density", xscale="log", yscale="log")
    middle.legend(fontsize=7)
    figure.savefig(IMAGES / "modes.png", dpi=90)


def run(weights: Any, total_steps: int | None) -> dict[str, np.ndarray]:
    """The decisions for the network of the README, arrays [STEPS, tensors]."""
    x = jax.random.normal(jax.random.key(0), (256, 8))
    params = {"in": 0.4 * jax.random.normal(jax.random.key(1), (8, 64)), "out": jnp.zeros(64)}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), flt_optimizer(weights=weights, total_steps=total_steps)
    )

    def loss(p: Any) -> jax.Array:
        return jnp.mean((jnp.tanh(x @ p["in"]) @ p["out"] - jnp.sin(x.sum(1))) ** 2)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), diagnostics(state)

    return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[1])()


def schedules(theta: Any, config: FLTConfig) -> None:
    """Warm-up and decay with and without a horizon, and the steps of a run."""
    schedule = hk.without_apply_rng(hk.transform(lambda count, horizon: Schedule()(count, horizon)))
    print(
        "\nschedule:", {name.removeprefix("log_"): f"{np.exp(x):.3g}" for name, x in theta[SCHEDULE].items()}
    )
    print("decays of the signals:", [f"{math.exp(-math.exp(x)):.2f}" for x in theta[CONTROLLER]["log_rate"]])
    counts = np.unique(np.geomspace(1, 20_000, 400).astype(int)) - 1
    figure, (left, middle, right) = canvas(3)
    for horizon, (colour, line) in {100: FAST, 1000: SLOW, 10_000: SQUARE, None: ("black", ":")}.items():
        length = jnp.float32(np.inf if horizon is None else horizon)
        factor = [
            float(schedule.apply({"schedule": theta[SCHEDULE]}, jnp.asarray(t), length)) for t in counts
        ]
        left.plot(
            counts + 1, factor, line, color=colour, label="not known" if horizon is None else f"{horizon:,}"
        )
    left.set(title="schedule", xlabel="step", ylabel="factor", xscale="log", yscale="log", ylim=(5e-4, 1.5))
    left.legend(fontsize=7, title="total_steps", title_fontsize=7)
    steps = np.arange(STEPS) + 1
    for total_steps, line in ((STEPS, "-"), (None, ":")):
        seen = run((theta, config), total_steps)
        for tensor, (name, colour) in enumerate({"in, a matrix": FAST[0], "out, a vector": SLOW[0]}.items()):
            known = "not known" if total_steps is None else f"{total_steps:,}"
            middle.plot(steps, seen["step"][:, tensor], line, color=colour, label=f"{name}, {known}")
            right.plot(steps, seen["shrink"][:, tensor], line, color=colour)
    middle.set(title="steps of a run", xlabel="step", ylabel="step length", yscale="log")
    right.set(title="shrinking in that run", xlabel="step", ylabel="weight", yscale="log")
    middle.legend(fontsize=6)
    figure.savefig(IMAGES / "schedule.png", dpi=90)


def lasting(controller: Any) -> np.ndarray:
    """What remains of a signal that stays the same in each of the controller's modes, [modes]."""
    rate, angle = np.exp(controller["log_rate"]), 2 * np.pi * controller["frequency"]
    pole = np.exp(-rate + 1j * angle)
    return np.real(np.exp(1j * controller["phase"]) * -np.expm1(-rate) / (1 - pole))


def laws(theta: Any, config: FLTConfig) -> None:
    """Every exponent of the three laws, and four features at work."""
    names = feature_names(config)
    tables = {law: dict(zip(names, map(float, theta[CONTROLLER][law]), strict=True)) for law in LAWS}
    print("\n| feature | step | blend | shrink |\n|---|---:|---:|---:|")
    for name in names:
        print(f"| `{name}` | {' | '.join(f'{tables[law][name]:+.2f}' for law in LAWS)} |")
    remain = lasting(theta[CONTROLLER])
    print("\nof a cosine that stays remain", [f"{share:.2f}" for share in remain])
    lasts = {
        cosine: sum(tables["step_law"][name] * remain[mode] for name, mode in members.items())
        for cosine, members in COSINES.items()
    }
    print("exponent of the step:", {cosine: f"{exponent:+.2f}" for cosine, exponent in lasts.items()})
    step, shrink = tables["step_law"], tables["shrink_law"]
    figure, axes = canvas(4)
    matrices, cosine, spread = np.geomspace(1, 200, 50), np.linspace(-1, 1, 50), np.linspace(0, 2, 50)
    vector = np.exp(step["one"] + step["depth"] * np.log(matrices / 4) / 2)
    axes[0].loglog(matrices, vector * np.exp(step["matrix"]), FAST[1], color=FAST[0], label="matrix")
    axes[0].loglog(matrices, vector, SLOW[1], color=SLOW[0], label="vector")
    axes[0].set(title="step length", xlabel="matrices in the network")
    for (colour, line), (name, exponent) in zip((FAST, SLOW), lasts.items(), strict=True):
        axes[1].plot(cosine, np.exp(exponent * cosine), line, color=colour, label=name)
    axes[1].set(title="factor of the step", xlabel="cosine, if it lasts")
    axes[2].semilogy(spread, np.exp(shrink["spread"] * spread), FAST[1], color=FAST[0], label="shrink")
    axes[2].semilogy(spread, np.exp(step["spread"] * spread), SLOW[1], color=SLOW[0], label="step")
    axes[2].set(title="factor", xlabel="spread of the gradients' log size")
    axes[3].semilogy(-spread, np.exp(-shrink["decline"] * spread), FAST[1], color=FAST[0], label="shrink")
    axes[3].semilogy(-spread, np.exp(-step["decline"] * spread), SLOW[1], color=SLOW[0], label="step")
    axes[3].set(title="factor", xlabel="decline of the gradients' log size")
    for axis in axes:
        axis.legend(fontsize=7)
        axis.set_title(axis.get_title(), fontsize=9)
        axis.xaxis.label.set_fontsize(8)
    figure.savefig(IMAGES / "laws.png", dpi=90)


def main() -> None:
    """Draws and prints all."""
    theta, config = load_weights("flt-v1")
    modes(theta)
    schedules(theta, config)
    laws(theta, config)


if __name__ == "__main__":
    main()
