"""A small pre-norm transformer whose attention has one of several relative positional encodings (RPEs).

Language model and image classifier share it. A layer with an RPE of its own for each head:

    none       FAVOR+ features of queries and keys, nothing added to the logits
    table      the same features under a (block-)Toeplitz mask exp(f), f a table of learned values
    mixture    logits + f by `fourier_attention`, the spectrum of f a mixture of Gaussians
    local      the same, f a window with smooth edges
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.flt import (
    FavorPlus,
    GaussianMixture,
    LocalWindow,
    ShiftInvariant,
    Softmax,
    Spectrum,
    draw,
    encode,
    fourier_attention,
)
from learned_opt.masks import BlockToeplitz, masked_attention

# Updates of masks are this many times those of weights: widths and heights have some way to go in few steps.
MASK_RATE = 10.0


@dataclass(frozen=True)
class Attention:
    """What attends: the kind of mask on a grid of tokens, and how logits are made.

    A spectrum lives in units of `unit` tokens. `starts` are the reaches, in tokens, at which heads start.
    """

    mask: Literal["none", "table", "mixture", "local"]
    grid: tuple[int, ...]
    causal: bool
    heads: int
    head_size: int
    features: int = 64
    frequencies: int = 32
    exact: bool = False
    unit: float = 16.0
    starts: tuple[float, ...] = (2.0, 8.0, 32.0, 128.0)

    @property
    def kernel(self) -> FavorPlus | Softmax:
        return Softmax() if self.exact else FavorPlus(self.features)

    @property
    def positions(self) -> jax.Array:
        """Coordinates [L, l] in units of the spectrum."""
        axes = np.meshgrid(*(np.arange(n) for n in self.grid), indexing="ij")
        return jnp.asarray(np.stack([axis.ravel() for axis in axes], -1) / self.unit, jnp.float32)

    def start(self) -> tuple[Any, Any]:
        """Where the mask of every head starts: what is learned, and what the draws follow."""
        reach = np.resize(self.starts, self.heads) / self.unit
        full = jnp.asarray(reach, jnp.float32)[:, None]
        scale = 1 / (2 * jnp.pi * full * 4.0 ** jnp.arange(-1, 2))  # a quarter, once and four times the reach
        each = jnp.ones((1, len(self.grid)))
        starts: dict[str, Any] = {
            # No weight: the mask is 0 exactly.
            "none": ShiftInvariant(jnp.zeros(self.heads), full * each),
            "mixture": GaussianMixture(
                jnp.full(scale.shape, 0.25), scale[..., None] * each / (2 * each.size**0.5), scale
            ),
            "local": LocalWindow(jnp.full(self.heads, 0.5), full * each, full * each / 4),
        }
        spectrum = starts.get(self.mask)
        if self.mask == "none":
            return {}, spectrum
        if self.mask == "table":
            return {"values": jnp.zeros((self.heads, *self._table_shape()))}, None
        leaves = {name: getattr(spectrum, name) for name in spectrum.axes}
        if self.mask == "mixture":  # means are learned in units of scales, which differ a thousandfold
            leaves["mean"] = leaves["mean"] / leaves["scale"][..., None]
        return {n: jnp.log(x) if n in spectrum.positive else x for n, x in leaves.items()}, spectrum

    def spectrum(self, learned: Any) -> Spectrum:
        """The spectrum of one head, or of stacked ones."""
        start = self.start()[1]
        if not learned:
            return jax.tree.map(lambda leaf: leaf[0], start)
        leaves = {name: jnp.exp(x) if name in start.positive else x for name, x in learned.items()}
        if self.mask == "mixture":
            leaves["mean"] = leaves["mean"] * leaves["scale"][..., None]
        return dataclasses.replace(start, **leaves)

    def log_table(self, learned: Any) -> jax.Array:
        """The mask f of one head at all differences of positions, [2 n_1 - 1, ..., 2 n_l - 1]."""
        if len(self.grid) > 1:
            return learned["values"]
        lags = jnp.abs(jnp.arange(1 - self.grid[0], self.grid[0]))
        return jnp.interp(jnp.log1p(lags), _knots(self.grid[0]), learned["values"])

    def _table_shape(self) -> tuple[int, ...]:
        """Free values on a grid; along a sequence one for each of some log-spaced distances."""
        return tuple(2 * n - 1 for n in self.grid) if len(self.grid) > 1 else _knots(self.grid[0]).shape

    def draws(self, key: jax.Array) -> Any:
        """What each head draws once: frequencies and projections."""
        keys = jax.random.split(key, self.heads)
        if self.exact:
            return None
        if self.mask == "table":
            kernel = FavorPlus(self.features)
            return jax.vmap(lambda key: kernel.projection(key, self.head_size))(keys)
        number = 1 if self.mask == "none" else self.frequencies
        return jax.vmap(
            lambda key, spectrum: draw(
                key, spectrum, self.kernel, head_size=self.head_size, frequencies=number
            )
        )(keys, self.start()[1])

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, learned: Any, draws: Any) -> jax.Array:
        """Attends: arrays [batch, heads, L, size]."""
        head = self._under_table if self.mask == "table" else self._with_spectrum
        return jax.vmap(head, in_axes=(1, 1, 1, 0, 0), out_axes=1)(q, k, v, learned, draws)

    def _with_spectrum(self, q: jax.Array, k: jax.Array, v: jax.Array, learned: Any, draws: Any) -> jax.Array:
        # Batches under vmap: what depends on positions alone is made once.
        def one(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return fourier_attention(
                q,
                k,
                v,
                self.positions,
                self.spectrum(learned),
                kernel=self.kernel,
                draws=draws,
                causal=self.causal,
            )

        return jax.vmap(one)(q, k, v)

    def _under_table(self, q: jax.Array, k: jax.Array, v: jax.Array, learned: Any, draws: Any) -> jax.Array:
        kernel, scale = FavorPlus(self.features), self.head_size**-0.25
        queries, keys = (kernel(x * scale, draws) for x in (q, k))
        largest = jax.lax.stop_gradient(keys.log_scale.max(-1, keepdims=True))  # cancels
        keys_scaled = keys.values * jnp.exp(keys.log_scale - largest)[..., None]
        values = jnp.exp(self.log_table(learned))
        if self.causal:
            values = values.at[: self.grid[0] - 1].set(0)
        return masked_attention(queries.values, keys_scaled, v, BlockToeplitz(values), lambda x: x).values

    def used(self, learned: Any, draws: Any, lags: jax.Array) -> jax.Array:
        """The mask f of one head at differences [n, l] in tokens, as its frequencies estimate it."""
        if self.mask == "table":
            index = tuple(jnp.round(lags).astype(int).T + jnp.array(self.grid)[:, None] - 1)
            return self.log_table(learned)[index]
        spectrum = self.spectrum(learned)
        if self.exact:
            return spectrum.mask(lags / self.unit)
        sides = encode(jnp.concatenate([lags, 0 * lags[:1]]) / self.unit, spectrum, draws.frequencies)
        return sides.query[:-1] @ sides.key[-1]


def _knots(length: int) -> jax.Array:
    """Logarithms of 1 + distance, three to an octave."""
    return jnp.linspace(0, jnp.log(length), 3 * int(np.ceil(np.log2(length))) + 1)


def init_layers(key: jax.Array, attention: Attention, layers: int, width: int) -> tuple[Any, Any]:
    """Parameters and draws of all layers, stacked; weights are the same for any kind of mask."""
    inner = attention.heads * attention.head_size

    def layer(key: jax.Array) -> tuple[Any, Any]:
        keys = jax.random.split(key, 5)
        shapes = {"qkv": (width, 3 * inner), "out": (inner, width), "up": (width, 4 * width)}
        weights = {
            name: jax.random.normal(key, shape) / shape[0] ** 0.5
            for key, (name, shape) in zip(keys, {**shapes, "down": (4 * width, width)}.items(), strict=False)
        }
        norms = {"norm_attend": jnp.ones(width), "norm_mlp": jnp.ones(width)}
        return {**weights, **norms, "mask": attention.start()[0]}, attention.draws(keys[4])

    return jax.vmap(layer)(jax.random.split(key, layers))


def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def run_layers(x: jax.Array, params: Any, draws: Any, attention: Attention) -> jax.Array:
    """Tokens [batch, L, width] through all layers."""

    def layer(x: jax.Array, of_layer: tuple[Any, Any]) -> tuple[jax.Array, None]:
        p, draws = of_layer
        qkv = norm(x, p["norm_attend"]) @ p["qkv"]
        qkv = qkv.reshape(*x.shape[:2], 3, attention.heads, attention.head_size)
        q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))
        attended = jnp.swapaxes(attention(q, k, v, p["mask"], draws), 1, 2).reshape(*x.shape[:2], -1)
        x = x + attended @ p["out"]
        return x + jax.nn.gelu(norm(x, p["norm_mlp"]) @ p["up"]) @ p["down"], None

    return jax.lax.scan(layer, x, (params, draws))[0]


def optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with warm-up and cosine decay; masks learn `MASK_RATE` times as fast."""

    def masks(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "'mask'" in jax.tree_util.keystr(path), params
        )

    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b2=0.98),
        optax.masked(optax.scale(MASK_RATE), masks),
        optax.scale_by_learning_rate(schedule),
    )
