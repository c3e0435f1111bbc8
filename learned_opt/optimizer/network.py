"""The Fourier-Learner Transformer as one Haiku module: from the gradients of a whole tree to its update."""

import functools
import math
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from learned_opt.config import FLTConfig
from learned_opt.optimizer.controller import STATIC_FEATURES, Controller, Past, largest_share
from learned_opt.optimizer.leaf import Leaf, TensorState, join, per_tensor, spread
from learned_opt.optimizer.measure import RELATIVE_EPSILON, TINY, Written, measure, write
from learned_opt.optimizer.memory import Slots, build_memory, slot_powers
from learned_opt.optimizer.rule import ELEMENTWISE, ORTHOGONAL, Rule, Token
from learned_opt.optimizer.units import Units
from learned_opt.optimizer.update import blend, polar_factors, remembered, taken

PACKED_SIZE = 1 << 14  # leaves up to this size go through the rule together
SMALL = 64.0  # a tensor of this size is normalised half by its own rms now, half by the running one
POWER_DECAY = 0.95  # of that running mean square


class Result(NamedTuple):
    """Update of a tree, as lists in leaf order."""

    updates: list[jax.Array]  # step times direction, to be subtracted; the leaves' shapes, at least float32
    slots: list[Slots]  # the new memory
    directions: list[jax.Array]  # directions before the step length; empty without a law
    factors: list[
        jax.Array | None
    ]  # polar factors to be remembered; empty if they are computed at every step
    tensors: TensorState
    finite: jax.Array  # bool scalar: gradients and new state are finite
    schedule: jax.Array  # warm-up times decay, scalar


class FourierLearner(hk.Module):
    """Memory, rule, controller and orthogonalisation, applied to all leaves of a tree."""

    def __init__(self, config: FLTConfig, name: str = "flt"):
        super().__init__(name=name)
        self.config = config
        self.memory = build_memory(config)
        self.rule = Rule(config)
        self.controller = Controller(config) if config.law else None

    def __call__(
        self,
        leaves: list[Leaf],
        tensors: TensorState,
        count: jax.Array,
        horizon: jax.Array,
        distance: np.ndarray | None = None,
        shrink: ArrayLike = 1.0,
        orthogonalize: int = 1,
    ) -> Result:
        """One step.

        Args:
          leaves: gradients, parameters, memory and kind.
          tensors: state of each logical tensor.
          count: steps taken so far, int32 scalar.
          horizon: planned number of steps, float scalar, infinite if unknown.
          distance: of every two tensors in the tree of parameters, [tensors, tensors]; for the attention.
          shrink: multiplier of the weight that parameters have beside their direction, scalar.
          orthogonalize: every how many steps the orthogonal direction is computed; 0 leaves it out.
        """
        units, finite = Units.choose(leaves, tensors)
        parameter_rms = jnp.sqrt(join(leaf.mean(leaf.param * leaf.param) for leaf in leaves))
        if self.controller is not None:
            finite = finite & jnp.isfinite(parameter_rms).all()
        if self.config.epsilon is None:
            epsilon = RELATIVE_EPSILON * units.reference + TINY
        else:
            epsilon = self.config.epsilon * units.down
        rows = zip(*(spread(x, leaves) for x in (units.down, units.shift, epsilon)), strict=True)
        now = self.memory.at(count, tensors.root_rms.dtype)
        written = [
            write(self.memory, self.config, leaf, down, shift, leaf_epsilon, now, finite)
            for leaf, (down, shift, leaf_epsilon) in zip(leaves, rows, strict=True)
        ]
        if self.controller is None:
            return self._classical(leaves, written, units, tensors, finite)

        measures, tensors = measure(leaves, written, parameter_rms, units, tensors, count)
        finite = finite & jnp.isfinite(jnp.stack(measures)).all()
        static = jnp.asarray(static_features(leaves), tensors.root_rms.dtype)
        tree = None if distance is None else jnp.asarray(distance)
        past = Past(tensors.signals, tensors.growth, tensors.history, tree)
        decision = self.controller(static, measures, past, count, horizon)
        tokens = self._tokens(leaves, written, parameter_rms, units.reference)
        element, orthogonal = self._directions(leaves, tokens, decision.context)
        scales, power = self._scales(leaves, element, tensors.power, count)
        share = decision.blend * static[:, STATIC_FEATURES.index("matrix")] * bool(orthogonalize)
        factors = polar_factors(leaves, orthogonal, count, orthogonalize)
        directions = blend(leaves, element, factors, scales * (1 - share), share)
        step = jnp.exp(decision.log_step)
        wanted = decision.shrink * jnp.asarray(shrink, step.dtype)
        most = largest_share(count, horizon.astype(step.dtype)) / step
        decision = decision._replace(shrink=jnp.minimum(wanted, most))
        steps, weights = spread(step, leaves), spread(decision.shrink, leaves)
        return Result(
            updates=[
                taken(leaf, *decided)
                for leaf, *decided in zip(leaves, steps, directions, weights, strict=True)
            ],
            slots=[new.slots for new in written],
            directions=directions,
            factors=remembered(leaves, factors) if orthogonalize > 1 else [],
            tensors=tensors._replace(
                power=power,
                signals=decision.signals,
                growth=decision.growth,
                history=decision.history,
                log_step=decision.log_step,
                blend=share,
                shrink=decision.shrink,
            ),
            finite=finite,
            schedule=self.controller.schedule(count, horizon),
        )

    def _classical(
        self,
        leaves: list[Leaf],
        written: list[Written],
        units: Units,
        tensors: TensorState,
        finite: jax.Array,
    ) -> Result:
        """The bare read-out, in the gradient's unit unless the squares divide it."""
        tokens = self._tokens(leaves, written, jnp.ones_like(units.down), units.reference)
        updates = []
        for leaf, new, token, up in zip(leaves, written, tokens, spread(units.up(), leaves), strict=True):
            (direction,) = self.rule(token, [])
            updates.append(direction * leaf.row(up) if new.root is None else direction)
        remembered = [
            new.reads.gradient[0] ** 2 if new.reads.square is None else new.reads.square for new in written
        ]
        root_rms = jnp.sqrt(join(leaf.mean(x) for leaf, x in zip(leaves, remembered, strict=True)))
        root_rms = (root_rms * units.up()).astype(tensors.root_rms.dtype)
        tensors = tensors._replace(exponent=units.exponent, root_rms=root_rms)
        return Result(updates, [new.slots for new in written], [], [], tensors, finite, jnp.ones(()))

    def _tokens(
        self, leaves: list[Leaf], written: list[Written], parameter_rms: jax.Array, reference: jax.Array
    ) -> list[Token]:
        inverse_rms = spread(1 / (parameter_rms + TINY), leaves)
        inverse_reference = spread(1 / (reference + TINY), leaves)
        tokens = []
        for leaf, new, p, r in zip(leaves, written, inverse_rms, inverse_reference, strict=True):
            inverse = 1.0 if new.root is None else 1 / new.root
            tokens.append(
                Token(
                    gradient=new.gradient * inverse,
                    reads=tuple(read * inverse for read in new.reads.gradient),
                    parameter=leaf.param * leaf.row(p),
                    log_root=jnp.log((1.0 if new.root is None else new.root) * leaf.row(r)),
                )
            )
        return tokens

    def _directions(
        self, leaves: list[Leaf], tokens: list[Token], context: jax.Array
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Both heads of the rule for every leaf; the small leaves share one evaluation of its network."""
        if not self.rule.width:
            heads = [self.rule(token, []) for token in tokens]
            return [pair[ELEMENTWISE] for pair in heads], [pair[ORTHOGONAL] for pair in heads]
        rows = [leaf.row(row) for leaf, row in zip(leaves, spread(context, leaves), strict=True)]
        # Without the barrier, each consumer repeats the network.
        heads = jax.lax.optimization_barrier(packed(self.rule, tokens, rows))
        return [pair[ELEMENTWISE] for pair in heads], [pair[ORTHOGONAL] for pair in heads]

    def _scales(
        self, leaves: list[Leaf], directions: list[jax.Array], power: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Factors that give each direction RMS 1 / fan-in, and the running mean squares; both [tensors]."""
        now = join(leaf.mean(u * u) for leaf, u in zip(leaves, directions, strict=True)).astype(power.dtype)
        power = POWER_DECAY * power + (1 - POWER_DECAY) * now
        running = power / -jnp.expm1(np.log(POWER_DECAY) * (count.astype(power.dtype) + 1))
        sizes = per_tensor(leaves, lambda leaf: math.prod(leaf.param.shape[1:]))
        fan_in = per_tensor(leaves, lambda leaf: leaf.fans[0])
        own = sizes / (sizes + SMALL)
        mean_square = own * now + (1 - own) * running
        scale = jax.lax.rsqrt(jnp.where(mean_square > 0, mean_square, 1.0)) / fan_in
        return scale.astype(power.dtype), power


def packed(rule: Rule, tokens: list[Token], contexts: list[jax.Array]) -> list[list[jax.Array]]:
    """The rule on every leaf. Small leaves of one dtype are laid end to end: one kernel instead of many.

    A context is an array [..., units], where the other axes broadcast to the leaf's.
    """
    small = [i for i, token in enumerate(tokens) if token.gradient.size <= PACKED_SIZE]
    dtypes = {tokens[i].gradient.dtype for i in small}
    if len(small) < 2 or len(dtypes) > 1:
        return [rule(token, _units(context)) for token, context in zip(tokens, contexts, strict=True)]
    token = jax.tree.map(lambda *arrays: join(arrays), *(tokens[i] for i in small))
    units = contexts[0].shape[-1]
    wide = [jnp.broadcast_to(contexts[i], (*tokens[i].gradient.shape, units)) for i in small]
    flat = rule(token, _units(jnp.concatenate([context.reshape(-1, units) for context in wide])))
    heads: list[list[jax.Array]] = [[]] * len(tokens)
    start = 0
    for i in small:
        shape = tokens[i].gradient.shape
        stop = start + tokens[i].gradient.size
        heads[i] = [head[start:stop].reshape(shape) for head in flat]
        start = stop
    return [heads[i] or rule(tokens[i], _units(contexts[i])) for i in range(len(tokens))]


def _units(context: jax.Array) -> list[jax.Array]:
    return [context[..., unit] for unit in range(context.shape[-1])]


def static_features(leaves: list[Leaf]) -> np.ndarray:
    """[tensors, len(STATIC_FEATURES)]: what the shapes alone say of each logical tensor."""
    matrix = per_tensor(leaves, lambda leaf: float(leaf.is_matrix))
    fan_in = per_tensor(leaves, lambda leaf: math.log(max(leaf.fans[0], 1) / 32) / 2)
    fan_out = per_tensor(leaves, lambda leaf: math.log(max(leaf.fans[1], 1) / 32) / 2)
    depth = per_tensor(leaves, lambda leaf: leaf.is_matrix / leaf.members).sum()
    columns = {
        "one": np.ones_like(matrix),
        "matrix": matrix,
        "embedding": per_tensor(leaves, lambda leaf: float(leaf.kind == "embedding")),
        "fan_in": matrix * fan_in,
        "fan_out": matrix * fan_out,
        "depth": np.full_like(matrix, math.log(max(depth, 1.0) / 4) / 2),
    }
    return np.stack([columns[name] for name in STATIC_FEATURES], axis=-1)


@functools.lru_cache(maxsize=32)
def transformed(config: FLTConfig) -> hk.Transformed:
    """`FourierLearner` as pure functions: init(key, ...) and apply(theta, None, ...)."""
    return hk.without_apply_rng(hk.transform(lambda *args, **kwargs: FourierLearner(config)(*args, **kwargs)))


def initial_meta_parameters(config: FLTConfig, key: jax.Array | None = None) -> Any:
    """The untrained optimizer's meta-parameters, {module: {name: float32 array}}."""
    matrix = jnp.ones((1, 2, 2), jnp.float32)
    slots = (matrix,) * len(slot_powers(config))
    leaf = Leaf(matrix, matrix, slots, matrix, "matrix")
    tensors = TensorState.zeros(1, config, matrix.dtype)
    key = jax.random.key(0) if key is None else key
    count, horizon = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
    return transformed(config).init(key, [leaf], tensors, count, horizon, np.zeros((1, 1)))


def meta_parameter_shapes(config: FLTConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the meta-parameters that a config implies, {module: {name: shape}}."""
    theta = jax.eval_shape(lambda: initial_meta_parameters(config))
    return {module: {name: array.shape for name, array in group.items()} for module, group in theta.items()}
