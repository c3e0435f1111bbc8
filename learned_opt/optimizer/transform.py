"""The optimizer as an optax transformation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from learned_opt.config import FLTConfig
from learned_opt.geometry import Geometry, GeometryLike, resolve, tree_distances
from learned_opt.optimizer.arguments import (
    check_orthogonalize,
    check_params,
    check_shrink,
    check_state_dtype,
    check_total_steps,
    decay_masks,
    warn_about_rate,
)
from learned_opt.optimizer.controller import SIGNALS
from learned_opt.optimizer.leaf import Leaf, TensorState
from learned_opt.optimizer.memory import slot_powers
from learned_opt.optimizer.network import transformed
from learned_opt.optimizer.rounding import stochastic_round
from learned_opt.optimizer.sharding import automatic
from learned_opt.optimizer.stacks import Stacks
from learned_opt.weights import load_weights

WEIGHT_DECAY_RATE = 1e-3  # the Adam learning rate that a weight decay copied from AdamW was meant for

Weights = str | tuple[Any, FLTConfig] | None


class FLTState(NamedTuple):
    """State of the optimizer. Meta-parameters are not in it."""

    count: jax.Array  # type: ignore[assignment]  # int32 []: steps taken (a tuple has a method of this name)
    skipped: jax.Array  # int32 []: steps skipped because something was not finite
    memory: tuple[Any, ...]  # for each slot a tree shaped like the parameters, float32 (float64 with float64)
    direction: Any  # tree shaped like the parameters, bfloat16: the last direction; () without a law
    factor: Any  # the same: the last orthogonalised direction; () unless it is taken more than once
    tensors: TensorState  # arrays [tensors, ...]


def flt_optimizer(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    weights: Weights = None,
    total_steps: ArrayLike | None = None,
    weight_decay: ArrayLike = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
    shrink: ArrayLike = 1.0,
    geometry: GeometryLike = "auto",
    orthogonalize: int = True,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The Fourier-Learner optimizer: nothing to tune.

    Each parameter's gradients run through a few damped exponential modes; a small network reads them and
    proposes a direction u; a controller sets for every tensor the step length s, which includes warm-up and
    decay, and how much the parameters shrink, w (only where u has their sign).

    .. math::
      p \leftarrow p - \text{learning\_rate} \cdot (s_t (u_t + \text{shrink} \cdot w_t p)
      + \eta_t \cdot \text{weight\_decay} \cdot p),
      \quad \eta_t = 10^{-3} \cdot \text{warm-up}_t \cdot \text{decay}_t

    Args:
      learning_rate: multiplier of the learned step, or a schedule of it. 1.0 is as learned.
      weights: None for the newest shipped weights, a shipped name, a path to a safetensors file, or a pair
        (meta-parameters, FLTConfig).
      total_steps: planned number of updates. Given, the step decays to nearly zero there; None (or infinity)
        runs without an end in sight.
      weight_decay: decoupled, in AdamW's units at its learning rate 1e-3.
      mask: which leaves decay, as in `optax.adamw`: a tree of bools or a function of the parameters.
      shrink: multiplier of the learned shrinking. 1.0 is as learned; 0 is for what must be fitted exactly and
        has no noise to be remembered, such as coordinate networks.
      geometry: what the leaves are: "auto", a function (path, leaf) -> Geometry, or a pytree of Geometry or
        of optax's `MuonDimensionNumbers`. See `describe`, `geometry_of` and docs/geometry.md.
      orthogonalize: every how many steps the direction of matrices is orthogonalised; between, the last such
        direction is taken again, for 2 bytes a parameter. False: never, cheaper steps and a weaker optimizer.
      state_dtype: None keeps the memory in float32; "bfloat16" halves it, rounding stochastically.

    Returns:
      An optax transformation whose `update` needs `params` and ignores unknown keyword arguments. Its state
      holds 14 bytes a parameter with the shipped weights.

    Raises:
      ValueError: non-positive `total_steps`, negative `shrink`, unknown or unreadable weights, a geometry
        that does not fit the parameters, `update` without `params`.
      TypeError: complex or integer parameters.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from learned_opt import flt_optimizer
      >>> loss = lambda p: jnp.sum((p["w"] @ p["w"].T - jnp.eye(4)) ** 2)
      >>> params = {"w": jnp.full((4, 4), 0.1) + jnp.eye(4)}
      >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), flt_optimizer(total_steps=200))
      >>> state = optimizer.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...   updates, state = optimizer.update(jax.grad(loss)(params), state, params)
      ...   return optax.apply_updates(params, updates), state
      >>> for _ in range(200):
      ...   params, state = step(params, state)
      >>> bool(loss(params) < 1e-2)
      True
    """
    warn_about_rate(learning_rate)
    return optax.chain(
        _scale_by_flt(weights, total_steps, shrink, geometry, orthogonalize, state_dtype, weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_flt(
    weights: Weights = None,
    *,
    total_steps: ArrayLike | None = None,
    shrink: ArrayLike = 1.0,
    geometry: GeometryLike = "auto",
    orthogonalize: int = True,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The learned step `s_t (u_t + shrink w_t p)`, to be subtracted; arguments as in `flt_optimizer`."""
    return _scale_by_flt(weights, total_steps, shrink, geometry, orthogonalize, state_dtype, 0.0, None)


def _scale_by_flt(
    weights: Weights,
    total_steps: ArrayLike | None,
    shrink: ArrayLike,
    geometry: GeometryLike,
    orthogonalize: int,
    state_dtype: Any | None,
    weight_decay: ArrayLike,
    mask: Any | Callable[[Any], Any] | None,
) -> optax.GradientTransformationExtraArgs:
    theta, config = weights if isinstance(weights, tuple) else load_weights(weights)
    # Literals compile faster than device arrays.
    theta = jax.tree.map(lambda x: x if isinstance(x, jax.core.Tracer) else np.asarray(x), theta)
    horizon = check_total_steps(total_steps)
    check_shrink(shrink)
    every = check_orthogonalize(orthogonalize)
    storage = check_state_dtype(state_dtype)
    network = transformed(config)
    powers, attends = slot_powers(config), config.law and config.attention_heads > 0

    def init_fn(params: Any) -> FLTState:
        check_params(params)
        leaves = jax.tree.leaves(params)
        geometries = resolve(geometry, params)
        tensors = sum(g.count(p.shape) for g, p in zip(geometries, leaves, strict=True))
        dtype = jnp.result_type(jnp.float32, *map(_compute_dtype, leaves))
        return FLTState(
            count=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            memory=tuple(_zeros(params, lambda p: storage or _compute_dtype(p)) for _ in powers),
            direction=_zeros(params, lambda _: jnp.bfloat16) if config.law else (),
            factor=_zeros(params, lambda _: jnp.bfloat16) if config.law and every > 1 else (),
            tensors=TensorState.zeros(tensors, config, dtype),
        )

    def update_fn(
        updates: Any, state: FLTState, params: Any | None = None, **extra_args: Any
    ) -> tuple[Any, FLTState]:
        del extra_args
        if params is None:
            raise ValueError("flt_optimizer needs params: call optimizer.update(gradients, state, params)")
        gradients, structure = jax.tree.flatten(updates)
        if not gradients:
            return updates, state
        geometries = resolve(geometry, params)
        leaves = _leaves(gradients, jax.tree.leaves(params), state, geometries)
        stacks = Stacks(leaves)
        joined = stacks.stacked(leaves)
        distance = tree_distances(params, geometries)[np.ix_(stacks.rows, stacks.rows)] if attends else None
        result = network.apply(
            theta,
            joined,
            stacks.sorted(state.tensors),
            state.count,
            jnp.asarray(horizon, jnp.float32),
            distance,
            shrink=shrink,
            orthogonalize=every,
        )
        result = stacks.settled(result, joined)
        starts = stacks.starts(state.count)

        def leaves_of(arrays: Sequence[jax.Array]) -> list[jax.Array]:
            views = zip(geometries, stacks.unstacked(arrays, starts), gradients, strict=True)
            return [g.restore(x, leaf.shape) for g, x, leaf in views]

        memory = [leaves_of(column) for column in zip(*result.slots, strict=True)]
        if storage is not None:
            memory = stochastic_round(memory, storage, state.count)
        choose = partial(_choose, result.finite)

        def last(tree: Any, news: Sequence[Any]) -> Any:
            if not jax.tree.leaves(tree):
                return tree
            found = zip(leaves_of(news), jax.tree.leaves(tree), stacks.alone, strict=True)
            kept = [choose(new, old) if alone else new.astype(old.dtype) for new, old, alone in found]
            return jax.tree.unflatten(structure, kept)  # stacks are settled already

        new_state = FLTState(
            count=state.count + result.finite,
            skipped=state.skipped + ~result.finite,
            memory=tuple(jax.tree.unflatten(structure, column) for column in memory),
            direction=last(state.direction, result.directions),
            factor=last(state.factor, result.factors),
            tensors=jax.tree.map(choose, stacks.restored(result.tensors), state.tensors),
        )
        rate = WEIGHT_DECAY_RATE * result.schedule * weight_decay
        decays = decay_masks(weight_decay, mask, params)
        steps = []
        proposed = zip(leaves_of(result.updates), jax.tree.leaves(params), gradients, decays, strict=True)
        for u, p, g, decay in proposed:
            step = u + rate.astype(u.dtype) * p.astype(u.dtype) if decay else u
            steps.append(jnp.where(result.finite, step, 0).astype(g.dtype))
        return jax.tree.unflatten(structure, steps), new_state

    return optax.GradientTransformationExtraArgs(init_fn, automatic(update_fn))


def diagnostics(opt_state: Any) -> dict[str, jax.Array]:
    """What the optimizer is doing, from any optax state that holds an `FLTState`. Works under jit.

    Args:
      opt_state: state of `flt_optimizer`, or of a chain around it.

    Returns:
      "step" (step length in spectral units), "blend" (orthogonal share), "shrink" (weight of the parameter
      beside the direction), "signal_to_noise" and "hypergradient" (cos(g_t, u_{t-1}), a mean of the last few
      steps), float arrays [tensors] in leaf order; "count" and "skipped", int32 [].

    Raises:
      ValueError: there is no FLTState in `opt_state`, or more than one.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, FLTState))
    found = [node for node in nodes if isinstance(node, FLTState)]
    if len(found) != 1:
        raise ValueError(f"diagnostics: expected one FLTState in the optimizer state, found {len(found)}")
    (state,) = found
    return {
        "step": jnp.exp(state.tensors.log_step),
        "blend": state.tensors.blend,
        "shrink": state.tensors.shrink,
        "signal_to_noise": state.tensors.noise,
        "hypergradient": state.tensors.signals[0][:, SIGNALS.index("hypergradient"), 0],
        "count": state.count,
        "skipped": state.skipped,
    }


def _choose(finite: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(finite, new.astype(old.dtype), old)


def _leaves(
    gradients: list[jax.Array], params: list[jax.Array], state: FLTState, geometries: list[Geometry]
) -> list[Leaf]:
    slots = zip(*map(jax.tree.leaves, state.memory), strict=True)
    lasts = [jax.tree.leaves(tree) or [None] * len(params) for tree in (state.direction, state.factor)]
    leaves = []
    for g, p, slot, *last, geometry in zip(gradients, params, slots, *lasts, geometries, strict=True):
        dtype = _compute_dtype(p)
        arrays = [geometry.view(x.astype(dtype)) for x in (g, p, *slot)]
        direction, factor = (None if x is None else geometry.view(x) for x in last)
        operands = jnp.dtype(jnp.bfloat16) if p.dtype.itemsize < 4 else None
        shape = p.shape if geometry.is_reshape(p.shape) else None
        own = arrays[0], arrays[1], tuple(arrays[2:]), direction, geometry.kind
        leaves.append(Leaf(*own, factor, operands, shape, geometry.members))
    return leaves


def _compute_dtype(param: Any) -> jnp.dtype:
    return jnp.promote_types(param.dtype, jnp.float32)


def _zeros(params: Any, dtype: Callable[[Any], Any]) -> Any:
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype(p)), params)
