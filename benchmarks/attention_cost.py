"""What attention with Fourier encodings costs as sequences grow, beside attention with an array of weights.

    python benchmarks/attention_cost.py
    python benchmarks/attention_cost.py --features 64 --longest 16384

Forward passes of one head in float32 with positions in time. MB are those of compiled temporaries. An
exponent is the slope of log time over log length.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import tyro
from timing import exponent, fastest, megabytes

from learned_opt.flt import FavorPlus, ShiftInvariant, Softmax, draw, fourier_attention

SHORTEST, FITTED_FROM = 1024, 4096


@dataclass(frozen=True)
class Options:
    """Times attention."""

    features: int = 128
    """Features of the kernel."""
    frequencies: int = 16
    """Frequencies of the spectrum."""
    size: int = 32
    """Of queries, keys and values."""
    longest: int = 65536
    """Tokens of the longest sequence."""
    longest_exact: int = 16384
    """The same with an array of weights."""
    repeats: int = 3
    """Timed calls; the fastest counts."""


def main(options: Options) -> None:
    spectrum = ShiftInvariant(jnp.array(1.0), jnp.array([64.0]), "matern32")
    kernel = FavorPlus(options.features)
    draws = draw(jax.random.key(0), spectrum, kernel, head_size=options.size, frequencies=options.frequencies)
    forms = {
        "bidirectional": ({"kernel": kernel, "draws": draws}, options.longest),
        "causal": ({"kernel": kernel, "draws": draws, "causal": True}, options.longest),
        "exact": ({"kernel": Softmax()}, options.longest_exact),
    }
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
    print(f"{options.features} features, {options.frequencies} frequencies, size {options.size}, float32\n")
    print("| tokens | " + " | ".join(f"{name}, ms | MB" for name in forms) + " |")
    print("|---:|" + "---:|" * 2 * len(forms))

    measured: dict[str, dict[int, float]] = {name: {} for name in forms}
    for length in (SHORTEST * 2**i for i in range((options.longest // SHORTEST).bit_length())):
        q, k, v = jax.random.normal(jax.random.key(length), (3, length, options.size))
        positions = jnp.arange(length)[:, None]
        cells = []
        for name, (arguments, longest) in forms.items():
            if length > longest:
                cells += ["–", "–"]
                continue
            attend = jax.jit(lambda q, k, v, r, a=arguments: fourier_attention(q, k, v, r, spectrum, **a))
            program = attend.lower(q, k, v, positions).compile()
            seconds = fastest(lambda p=program, x=(q, k, v, positions): p(*x), options.repeats)
            measured[name][length] = seconds
            cells += [f"{1e3 * seconds:,.1f}", megabytes(program)]
        print(f"| {length:,} | " + " | ".join(cells) + " |", flush=True)
    for label, shortest in (("exponent", 0), (f"exponent from {FITTED_FROM:,} on", FITTED_FROM)):
        slopes = (exponent(times, shortest) for times in measured.values())
        print(f"| {label} | " + " | ".join(f"{slope} | " for slope in slopes) + " |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
