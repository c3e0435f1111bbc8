"""The temporal memories against dense attention over the whole history."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import FLTConfig, Mode
from learned_opt.flt.lorentzian import lorentzian_density, lorentzian_mask
from learned_opt.optimizer.memory import ModalMemory, Reads, build_memory, slot_powers

STEPS, SIZE, WINDOW = 24, 3, 5
MODES = (
    Mode("g", 0.8, corrected=False),
    Mode("g", 0.9, "alternating", corrected=False),
    Mode("g", 0.7, "complex", frequency=0.15, corrected=False),
    Mode("g2", 0.95, corrected=False),
)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def gradients() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(STEPS, SIZE))


def exact(config: FLTConfig) -> dict[str, np.ndarray]:
    rates = np.log(-np.log([mode.decay for mode in config.modes]))
    frequencies = [mode.frequency for mode in config.modes if mode.kind == "complex"]
    return {"log_rate": rates} | ({"frequency": np.asarray(frequencies)} if frequencies else {})


def replayed(config: FLTConfig, history: np.ndarray, learned: dict | None = None, all_reads: bool = False):
    """Reads after the last step (or after each) of a history, and the module's meta-parameters."""
    slots_number = len(slot_powers(config))

    def run(history):
        memory = build_memory(config)
        slots = (jnp.zeros(history.shape[1:], history.dtype),) * slots_number
        reads: list[Reads] = []
        for t, g in enumerate(history):
            now = memory.at(jnp.asarray(t, jnp.int32), history.dtype)
            slots = memory.write(slots, g, now)
            reads.append(memory.read(slots, g, now))
        return reads if all_reads else reads[-1]

    module = hk.without_apply_rng(hk.transform(run))
    history = jnp.asarray(history)
    theta = module.init(jax.random.key(0), history[:1])
    theta["memory"] |= exact(config) | (learned or {})  # in float64: meta-parameters are born in float32
    return jax.jit(module.apply)(theta, history), theta


def dense(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`sum_delta mask[delta] values[t - delta]` at the last step."""
    return np.einsum("d,d...->...", mask[: len(values)], values[::-1])


def geometric(mode: Mode) -> np.ndarray:
    return (1 - mode.decay) * mode.decay ** np.arange(STEPS)


def test_modal_memory_is_a_masked_sum_of_the_history():
    reads, theta = replayed(FLTConfig(modes=MODES), gradients())
    lags = np.arange(STEPS)
    turn = 2 * np.pi * 0.15 * lags
    masks = [
        geometric(MODES[0]),
        geometric(MODES[1]) * (-1.0) ** lags,
        geometric(MODES[2]) * np.cos(turn),
        geometric(MODES[2]) * np.sin(turn),
    ]
    for read, mask in zip(reads.gradient, masks, strict=True):
        np.testing.assert_allclose(read, dense(mask, gradients()), atol=1e-10)
    np.testing.assert_allclose(reads.square, dense(geometric(MODES[3]), gradients() ** 2), atol=1e-10)

    kernels = hk.without_apply_rng(hk.transform(lambda x: ModalMemory(MODES).kernels(x)))
    for kernel, mask in zip(kernels.apply(theta, jnp.asarray(lags, float)), masks, strict=True):
        np.testing.assert_allclose(kernel, mask, atol=1e-10)


def test_complex_weights_make_a_damped_cosine_of_any_phase():
    """`Re(conj(w) S)` is attention with the mask (1 - |rho|) |w| rho^delta cos(2 pi xi delta - arg w)."""
    reads, _ = replayed(FLTConfig(modes=MODES), gradients())
    weight = 0.7 * np.exp(1.1j)
    mixed = weight.real * reads.gradient[2] + weight.imag * reads.gradient[3]
    mask = geometric(MODES[2]) * abs(weight) * np.cos(2 * np.pi * 0.15 * np.arange(STEPS) - np.angle(weight))
    np.testing.assert_allclose(mixed, dense(mask, gradients()), atol=1e-10)


def test_bias_correction_makes_averages():
    modes = (Mode("g", 0.8), Mode("g", 0.99), Mode("g2", 0.9))
    history = np.broadcast_to(np.asarray([-2.0, 0.5, 3.0]), (STEPS, SIZE))
    constant, _ = replayed(FLTConfig(modes=modes), history, all_reads=True)
    for reads in constant:
        for read in reads.gradient:
            np.testing.assert_allclose(read, history[0], rtol=1e-12)
        np.testing.assert_allclose(reads.square, history[0] ** 2, rtol=1e-12)

    varied, _ = replayed(FLTConfig(modes=modes), gradients())
    weights = geometric(modes[1]) / geometric(modes[1]).sum()
    np.testing.assert_allclose(varied.gradient[1], dense(weights, gradients()), atol=1e-12)


def test_reading_ahead_is_nesterovs_momentum():
    """The average a step later plus the new gradient again, each corrected for its own time, as in NAdam."""
    mode = Mode("g", 0.8, read_ahead=True)
    reads, _ = replayed(FLTConfig(modes=(mode, Mode("g2", 0.9))), gradients())
    state = dense(geometric(mode), gradients())
    ahead = 0.8 * state / (1 - 0.8 ** (STEPS + 1)) + 0.2 * gradients()[-1] / (1 - 0.8**STEPS)
    np.testing.assert_allclose(reads.gradient[0], ahead, atol=1e-12)


WINDOWED = (Mode("g", 0.9), Mode("g2", 0.8))


def test_a_window_starts_as_exponential_averages():
    reads, _ = replayed(
        FLTConfig(memory="window", window=WINDOW, modes=WINDOWED), gradients()[:WINDOW], all_reads=True
    )
    averages, _ = replayed(FLTConfig(modes=WINDOWED), gradients()[:WINDOW], all_reads=True)
    for read, average in zip(reads, averages, strict=True):
        np.testing.assert_allclose(read.gradient[0], average.gradient[0], atol=1e-10)
        np.testing.assert_allclose(read.square, average.square, atol=1e-10)


def test_a_window_is_softmax_attention_with_an_additive_encoding():
    config = FLTConfig(memory="window", window=WINDOW, modes=WINDOWED)
    amplitude, frequency, content = np.array([0.6, -0.4]), np.array([0.2, 0.05]), np.array([0.5, -0.3])
    rate = -np.log([0.9, 0.8])
    learned = {"amplitude": amplitude, "frequency": frequency, "content": content, "log_rate": np.log(rate)}
    reads, _ = replayed(config, gradients(), learned)

    kept = gradients()[::-1][:WINDOW]  # newest first
    sizes = np.abs(kept) / np.sqrt(np.mean(kept**2, axis=0))
    age = np.arange(WINDOW)[:, None]
    for index, (read, values) in enumerate([(reads.gradient[0], kept), (reads.square, kept**2)]):
        bump = amplitude[index] * np.exp(-rate[index] * age) * np.cos(2 * np.pi * frequency[index] * age)
        scores = np.exp(content[index] * sizes[0] * sizes - rate[index] * age + bump)
        np.testing.assert_allclose(read, (scores * values).sum(0) / scores.sum(0), atol=1e-10)


def test_a_window_forgets_what_left_it():
    config = FLTConfig(memory="window", window=WINDOW, modes=WINDOWED)
    changed = gradients()
    changed[: STEPS - WINDOW] *= -100.0
    before, _ = replayed(config, gradients())
    after, _ = replayed(config, changed)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("frequency", [0.0, 0.1, 0.5])
def test_a_lorentzian_mask_is_the_fourier_transform_of_its_density(frequency):
    """By the residue theorem; numerically, by quadrature with the tail's integral added in closed form."""
    weight, rate, edge = 1.5, 0.3, 400.0
    xi = jnp.linspace(-edge, edge, 4_000_001)
    density = lorentzian_density(xi, weight, rate, frequency)
    tail = weight * rate / (np.pi**2 * edge)  # of the integral over |xi| > edge, at lag 0
    for lag, missing in ((0.0, tail), (1.0, 0.0), (2.5, 0.0), (-4.0, 0.0)):
        found = jnp.trapezoid(density * jnp.cos(2 * jnp.pi * xi * lag), xi) + missing
        expected = lorentzian_mask(jnp.asarray(lag), weight, rate, frequency, 0.0)
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_mask_is_even_and_weighted():
    lags = jnp.arange(-4.0, 5.0)
    mask = lorentzian_mask(lags, 2.0, 0.5, 0.25, 0.3)
    np.testing.assert_array_equal(mask, mask[::-1])
    np.testing.assert_allclose(mask[4], 2.0 * np.cos(0.3))
