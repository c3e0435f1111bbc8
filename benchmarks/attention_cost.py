"""What attention with Fourier encodings costs as sequences grow, beside attention with an array of weights.

    python benchmarks/attention_cost.py
    python benchmarks/attention_cost.py --features 64 --longest 16384

Forward passes of one head in float32 with positions in time. One call compiles, then the fastest of `repeats`
counts. The exponent is the slope of log time over log length from 4,096 tokens on.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.flt import FavorPlus, ShiftInvariant, Softmax, draw, fourier_attention

SHORTEST, FITTED_FROM = 1024, 4096


def seconds(attend: Callable, length: int, size: int, repeats: int) -> float:
    q, k, v = jax.random.normal(jax.random.key(length), (3, length, size))
    positions = jnp.arange(length)[:, None]
    times = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        jax.block_until_ready(attend(q, k, v, positions))
        times.append(time.perf_counter() - started)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--frequencies", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="of queries, keys and values")
    parser.add_argument("--longest", type=int, default=65536)
    parser.add_argument("--longest-dense", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([64.0]), "matern32")
    kernel = FavorPlus(options.features)
    draws = draw(jax.random.key(0), spectrum, kernel, head_size=options.size, frequencies=options.frequencies)
    forms = {
        "bidirectional": ({"kernel": kernel, "draws": draws}, options.longest),
        "causal": ({"kernel": kernel, "draws": draws, "causal": True}, options.longest),
        "exact": ({"kernel": Softmax()}, options.longest_dense),
    }
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), JAX {jax.__version__}")
    print(f"{options.features} features, {options.frequencies} frequencies, size {options.size}, float32\n")
    print("| tokens | " + " | ".join(f"{name}, ms" for name in forms) + " |")
    print("|---:|" + "---:|" * len(forms))

    measured: dict[str, dict[int, float]] = {name: {} for name in forms}
    for length in (SHORTEST * 2**i for i in range((options.longest // SHORTEST).bit_length())):
        cells = []
        for name, (arguments, longest) in forms.items():
            if length > longest:
                cells.append("–")
                continue
            attend = jax.jit(lambda q, k, v, r, a=arguments: fourier_attention(q, k, v, r, spectrum, **a))
            measured[name][length] = seconds(attend, length, options.size, options.repeats)
            cells.append(f"{1e3 * measured[name][length]:,.1f}")
        print(f"| {length:,} | " + " | ".join(cells) + " |", flush=True)

    exponents = []
    for times in measured.values():
        points = [(length, t) for length, t in times.items() if length >= FITTED_FROM]
        exponents.append(f"{np.polyfit(*np.log(points).T, 1)[0]:.2f}" if len(points) > 1 else "–")
    print("| exponent | " + " | ".join(exponents) + " |")


if __name__ == "__main__":
    main()
