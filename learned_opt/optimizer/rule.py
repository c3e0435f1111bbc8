"""The per-parameter rule: each parameter chooses its own read-out of the temporal memory, at every step."""

from collections.abc import Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from learned_opt.config import FLTConfig
from learned_opt.optimizer.memory import read_count

ELEMENTWISE, ORTHOGONAL = 0, 1  # heads: the direction used as it is, and the one that is orthogonalised
INITIAL_READ_OUT = (0.1, 0.65, 0.25)  # gradient, first read, second read; further reads start at 0


class Token(NamedTuple):
    """What the rule sees of a leaf: arrays of its shape, of order one, blind to the gradient's unit."""

    gradient: jax.Array  # g / root
    reads: tuple[jax.Array, ...]  # reads of the memory / root
    parameter: jax.Array  # p / rms(p)
    log_root: jax.Array  # log(root / rms(root)), root being the square root of the remembered squares


def features(token: Token) -> list[jax.Array]:
    """Inputs of the rule's network.

    Every one keeps its value when gradient, reads and parameter all change sign, so the update is odd under
    the reflection that maps a network onto its mirror image.
    """
    fast = token.reads[0]
    return [
        jnp.minimum(jnp.abs(token.gradient), 5.0) / 2,
        *(jnp.minimum(jnp.abs(read), 3.0) for read in token.reads),
        jnp.clip(token.gradient * fast, -3.0, 3.0),
        jnp.clip(token.parameter * fast, -3.0, 3.0),
        jnp.clip(token.log_root, -4.0, 4.0) / 2,
    ]


class Rule(hk.Module):
    """A network on each parameter's token whose outputs are the read-out weights of two heads.

    It is written as sums of scalars times arrays, one hidden unit after the other, so that a compiler keeps a
    parameter's whole network in registers. The last layer starts at zero: untrained, the read-out is fixed.
    """

    def __init__(self, config: FLTConfig, name: str = "rule"):
        super().__init__(name=name)
        self.heads = 2 if config.law else 1
        self.width, self.reads = config.rule_width, 1 + read_count(config.modes)
        start = (INITIAL_READ_OUT + (0.0,) * self.reads)[: self.reads]
        self.base = hk.get_parameter(
            "read_out", (self.heads, self.reads), init=hk.initializers.Constant(jnp.asarray(start))
        )
        if config.law:
            self.whitening = jax.nn.sigmoid(hk.get_parameter("whitening", (), init=jnp.zeros))
        if self.width:
            self._build_network(inputs=self.reads + 3)

    def _build_network(self, inputs: int) -> None:
        width, outputs = self.width, self.heads * (1 + self.reads)
        fan_in = hk.initializers.VarianceScaling(1.0, "fan_in", "normal")
        w1 = hk.get_parameter("w1", (inputs, width), init=fan_in)
        w2 = hk.get_parameter("w2", (width, width), init=fan_in)
        w3 = hk.get_parameter("w3", (width, outputs), init=jnp.zeros)
        self.weights = [_columns(w) for w in (w1, w2, w3)]
        self.biases = [_columns(hk.get_parameter(name, (1, width), init=jnp.zeros)) for name in ("b1", "b2")]

    def read_outs(self, token: Token, context: list[jax.Array]) -> list[list[jax.Array]]:
        """Weights of the gradient and of each read, one list for each head.

        Args:
          token: a leaf's token.
          context: one value for each hidden unit, broadcastable to the leaf: the tensor's own bias; an empty
            list for none.
        """
        dtype = token.gradient.dtype
        base = [[self.base[h, m].astype(dtype) for m in range(self.reads)] for h in range(self.heads)]
        if not self.width:
            return base
        units = features(token)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=False)):
            shift = context if layer == 0 and context else [jnp.zeros((), dtype)] * self.width
            sums = [_affine(units, weight[j], bias[j][0] + shift[j], dtype) for j in range(self.width)]
            units = [jax.nn.relu(total) for total in sums]
        outputs = [_affine(units, column, 0.0, dtype) for column in self.weights[2]]
        stride = 1 + self.reads
        return [
            [
                (base[h][m] + outputs[h * stride + 1 + m]) * jnp.exp(jnp.clip(outputs[h * stride], -6.0, 6.0))
                for m in range(self.reads)
            ]
            for h in range(self.heads)
        ]

    def __call__(self, token: Token, context: list[jax.Array]) -> list[jax.Array]:
        """One direction for each head, arrays of the leaf's shape.

        The elementwise head is fully whitened (divided by the root of the squares), as in Adam; the
        orthogonal head to a learned power, between Muon's raw momentum (0) and Adam's (1). Where gradient and
        memory are zero, so is every direction.
        """
        seen = (token.gradient, *token.reads)
        directions = [_combined(weights, seen) for weights in self.read_outs(token, context)]
        if self.heads > ORTHOGONAL:
            power = 1 - self.whitening.astype(token.gradient.dtype)
            colour = jnp.exp(power * jnp.clip(token.log_root, -8.0, 8.0))
            directions[ORTHOGONAL] = directions[ORTHOGONAL] * colour
        return directions


def _columns(matrix: jax.Array) -> list[list[jax.Array]]:
    """The scalars of a matrix, column by column: cut once, used by every leaf."""
    return [[matrix[i, j] for i in range(matrix.shape[0])] for j in range(matrix.shape[1])]


def _combined(weights: Sequence[jax.Array], values: Sequence[jax.Array]) -> jax.Array:
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total


def _affine(
    units: Sequence[jax.Array], weights: Sequence[jax.Array], bias: jax.Array | float, dtype: jnp.dtype
) -> jax.Array:
    total = jnp.asarray(bias, dtype)
    for unit, weight in zip(units, weights, strict=True):
        total = total + weight.astype(dtype) * unit
    return total
