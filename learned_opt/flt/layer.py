"""Multi-head attention with learned Fourier encodings as a Haiku module."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp

from learned_opt.flt.attention import fourier_attention
from learned_opt.flt.draws import Draws, draw
from learned_opt.flt.inputs import check_positions
from learned_opt.flt.kernels import FavorPlus, Kernel, Softmax
from learned_opt.flt.spectrum import Spectrum


class FourierAttention(hk.Module):
    """Multi-head self-attention, each head with a spectrum of its own (arXiv 2302.01925).

    Parameters are four linear maps and, for each leaf of the spectrum, an array [heads, ...] that starts at
    that leaf: its logarithm, named `log_...`, where it must stay positive. Frequencies and projections follow
    from the seed and from where the spectrum starts. They are constants of the compiled program, neither
    parameters nor state.

    Example:
      >>> import haiku as hk, jax, jax.numpy as jnp
      >>> from learned_opt.flt import ShiftInvariant
      >>> start = ShiftInvariant(jnp.array(0.5), jnp.array([8.0]), "laplace")
      >>> layer = hk.without_apply_rng(hk.transform(
      ...     lambda x, r: FourierAttention(heads=2, head_size=4, spectrum=start, causal=True)(x, r)))
      >>> x, positions = jnp.ones((3, 10, 6)), jnp.arange(10)[:, None]
      >>> params = layer.init(jax.random.key(0), x, positions)
      >>> params["fourier_attention"]["log_length"].shape
      (2, 1)
      >>> layer.apply(params, x, positions).shape
      (3, 10, 6)
    """

    def __init__(
        self,
        heads: int,
        head_size: int,
        spectrum: Spectrum,
        *,
        kernel: Kernel | Softmax | None = None,
        frequencies: int = 64,
        causal: bool = False,
        position_scale: float = 1.0,
        seed: int = 0,
        name: str = "fourier_attention",
    ):
        """Creates the module.

        Args:
          heads: number of heads.
          head_size: d of queries, keys and values.
          spectrum: where every head starts; concrete.
          kernel: the feature map; `FavorPlus()` if left out. `Softmax()` takes the closed form of the mask.
          frequencies: R, of each head.
          causal: whether a token sees only itself and those before.
          position_scale: multiplies positions.
          seed: of the frequencies and projections.
          name: of the module.

        Raises:
          TypeError, ValueError: as `Spectrum.check`.
        """
        super().__init__(name=name)
        spectrum.check()
        if min(heads, head_size) < 1:
            raise ValueError(f"heads = {heads}, head_size = {head_size}: expected positive numbers")
        self.heads, self.head_size, self.spectrum = heads, head_size, spectrum
        self.kernel = FavorPlus() if kernel is None else kernel
        self.frequencies, self.causal, self.position_scale = frequencies, causal, position_scale
        self.seed = seed

    def __call__(
        self, x: jax.Array, positions: jax.Array, padding_mask: jax.Array | None = None
    ) -> jax.Array:
        """Attends.

        Args:
          x: tokens [..., L, F].
          positions: coordinates [..., L, l], finite.
          padding_mask: bool [..., L], False for tokens that nobody sees.

        Returns:
          [..., L, F] in the dtype of x.

        Raises:
          TypeError, ValueError: as `fourier_attention`.
        """
        check_positions("positions", jnp.asarray(positions))

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, spectrum: Spectrum, draws: Draws | None
        ) -> jax.Array:
            return fourier_attention(
                q,
                k,
                v,
                positions,
                spectrum,
                kernel=self.kernel,
                causal=self.causal,
                padding_mask=padding_mask,
                position_scale=self.position_scale,
                draws=draws,
            )

        q, k, v = (
            self._split(hk.Linear(self.heads * self.head_size, name=name)(x)) for name in ("q", "k", "v")
        )
        per_head = jax.vmap(attend, in_axes=(-2, -2, -2, 0, 0), out_axes=-2)
        out = per_head(q, k, v, self._learned_spectrum(), self._draws())
        merged = out.reshape(*out.shape[:-2], self.heads * self.head_size)
        return hk.Linear(x.shape[-1], name="out")(merged).astype(x.dtype)

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, self.head_size)

    def _learned_spectrum(self) -> Spectrum:
        leaves = {}
        for name in self.spectrum.axes:
            start, positive = jnp.asarray(getattr(self.spectrum, name)), name in self.spectrum.positive
            leaf = hk.get_parameter(
                f"log_{name}" if positive else name,
                (self.heads, *start.shape),
                start.dtype,
                init=hk.initializers.Constant(jnp.log(start) if positive else start),
            )
            leaves[name] = jnp.exp(leaf) if positive else leaf
        return dataclasses.replace(self.spectrum, **leaves)  # type: ignore[type-var]

    def _draws(self) -> Draws | None:
        if isinstance(self.kernel, Softmax):
            return None
        with jax.ensure_compile_time_eval():
            keys = jax.random.split(jax.random.key(self.seed), self.heads)
            return jax.vmap(
                lambda key: draw(
                    key, self.spectrum, self.kernel, head_size=self.head_size, frequencies=self.frequencies
                )
            )(keys)
