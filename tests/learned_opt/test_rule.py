"""The per-parameter rule: its symmetries, and that each parameter chooses its own mask over the past."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import FLTConfig, Mode, flt_optimizer, untrained
from learned_opt.optimizer import network
from learned_opt.optimizer.memory import ModalMemory
from learned_opt.optimizer.rule import Rule, Token, features

from .common import moved, start

MODES = (
    Mode("g", 0.8, corrected=False),
    Mode("g", 0.9, "alternating", corrected=False),
    Mode("g", 0.7, "complex", frequency=0.15, corrected=False),
    Mode("g2", 0.95, corrected=False),
)
CLASSICAL = FLTConfig(modes=MODES, law=False, rule_width=3, epsilon=1e-8)
WITH_LAW = FLTConfig(rule_width=3, controller_width=2)
SHAPE = (4, 3)


def rule_parameters(theta: Any) -> Any:
    return {"rule": theta["flt/~/rule"]}


@functools.partial(jax.jit, static_argnames="config")
def read_outs(theta: Any, token: Token, config: FLTConfig) -> list[list[jax.Array]]:
    """The weights of each head at a token, without a context."""
    rule = hk.without_apply_rng(hk.transform(lambda token: Rule(config).read_outs(token, [])))
    return rule.apply(rule_parameters(theta), token)


@functools.partial(jax.jit, static_argnames="config")
def directions(theta: Any, token: Token, config: FLTConfig) -> list[jax.Array]:
    """The direction of each head."""
    rule = hk.without_apply_rng(hk.transform(lambda token: Rule(config)(token, [])))
    return rule.apply(rule_parameters(theta), token)


def kernels(theta: Any, lags: np.ndarray) -> list[np.ndarray]:
    """The mask over the past of each read of the memory."""
    memory = hk.without_apply_rng(hk.transform(lambda x: ModalMemory(MODES).kernels(x)))
    return [np.asarray(k) for k in memory.apply({"memory": theta["flt/~/memory"]}, jnp.asarray(lags, float))]


def token(seed: int, config: FLTConfig, shape: tuple[int, ...] = SHAPE) -> Token:
    reads = sum(1 + (mode.kind == "complex") for mode in config.modes if mode.value == "g")
    gradient, *others = np.random.default_rng(seed).normal(size=(reads + 3, *shape)).astype(np.float32)
    return Token(gradient, tuple(others[:reads]), others[reads], others[reads + 1])


def reflected(token: Token) -> Token:
    return Token(-token.gradient, tuple(-read for read in token.reads), -token.parameter, token.log_root)


def test_features_do_not_see_a_reflection():
    found, mirrored = features(token(0, WITH_LAW)), features(reflected(token(0, WITH_LAW)))
    jax.tree.map(np.testing.assert_array_equal, found, mirrored)


def test_directions_are_odd_under_reflection():
    theta = moved(WITH_LAW, 0.5)
    there = directions(theta, token(0, WITH_LAW), WITH_LAW)
    mirrored = directions(theta, reflected(token(0, WITH_LAW)), WITH_LAW)
    assert len(there) == 2
    for u, v in zip(there, mirrored, strict=True):
        np.testing.assert_array_equal(u, -v)
        assert np.all(u != 0)


def test_nothing_remembered_nothing_proposed():
    seen = token(0, WITH_LAW)
    nothing = seen._replace(gradient=0 * seen.gradient, reads=tuple(0 * read for read in seen.reads))
    for direction in directions(moved(WITH_LAW, 0.5), nothing, WITH_LAW):
        np.testing.assert_array_equal(direction, np.zeros(SHAPE))


def test_untrained_directions_are_the_nominal_read_out():
    seen = token(0, WITH_LAW)
    element, orthogonal = directions(start(WITH_LAW), seen, WITH_LAW)
    nominal = 0.1 * seen.gradient + 0.65 * seen.reads[0] + 0.25 * seen.reads[1]
    np.testing.assert_allclose(element, nominal, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(orthogonal, nominal * np.exp(seen.log_root / 2), rtol=1e-5, atol=1e-6)


def test_small_leaves_laid_end_to_end_give_the_same():
    shapes = [(4, 3), (), (5,), (130, 130)]  # the last one is large enough to go alone
    tokens = [token(seed, WITH_LAW, shape) for seed, shape in enumerate(shapes)]
    contexts = [0.1 * jnp.arange(3.0) + seed for seed in range(len(shapes))]

    def both(tokens, contexts):
        rule = Rule(WITH_LAW)
        return network.packed(rule, tokens, contexts), [
            rule(token, list(context)) for token, context in zip(tokens, contexts, strict=True)
        ]

    theta = rule_parameters(moved(WITH_LAW, 0.5))
    together, alone = jax.jit(hk.without_apply_rng(hk.transform(both)).apply)(theta, tokens, contexts)
    for heads, expected, shape in zip(together, alone, shapes, strict=True):
        assert [head.shape for head in heads] == [shape, shape]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), heads, expected)


# Which mask a parameter applies to its past: M(delta) = w_0 [delta = 0] + sum_m w_m(token) kernel_m(delta).


def effective_masks(theta: Any, seen: Token, lags: np.ndarray) -> np.ndarray:
    """[lags, *shape]: the mask of each parameter, given its token now."""
    (weights,) = read_outs(theta, seen, CLASSICAL)
    weights = [np.broadcast_to(weight, seen.gradient.shape) for weight in weights]
    masks = [lags == 0, *kernels(theta, lags)]
    return np.einsum("mij,md->dij", np.stack(weights), np.stack(masks))


def test_the_mask_depends_on_the_current_token():
    lags = np.arange(12)
    theta = moved(CLASSICAL, 0.5)
    mine, other = (effective_masks(theta, token(seed, CLASSICAL), lags) for seed in (0, 1))
    assert np.abs(mine - other).max() > 0.1
    assert np.ptp(mine / mine[:1], axis=(1, 2)).max() > 0.1  # and of another form in each parameter

    theta["flt/~/rule"]["w3"] = np.zeros_like(theta["flt/~/rule"]["w3"])
    mine, other = (effective_masks(theta, token(seed, CLASSICAL), lags) for seed in (0, 1))
    np.testing.assert_array_equal(mine, other)
    assert np.ptp(mine, axis=(1, 2)).max() == 0


def test_an_update_is_the_masked_sum_of_past_gradients_over_the_root_of_the_squares():
    steps = 9
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda x: np.asarray(x, np.float64), moved(CLASSICAL, 0.5))
        optimizer = flt_optimizer(weights=(theta, CLASSICAL))
        params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=SHAPE))}
        history = np.random.default_rng(2).normal(size=(steps, *SHAPE))

        def step(state, g):
            updates, state = optimizer.update({"w": g}, state, params)
            return state, updates["w"]

        _, updates = jax.jit(lambda history: jax.lax.scan(step, optimizer.init(params), history))(history)

        lags = np.arange(steps)
        decay = np.exp(-np.exp(theta["flt/~/memory"]["log_rate"][-1]))
        squares = [
            np.einsum("d,d...->...", (1 - decay) * decay ** np.arange(t), history[:t][::-1] ** 2)
            for t in (steps - 1, steps)
        ]
        root = np.sqrt(squares[1]) + 1e-8
        reference = max(np.abs(history[-1]).mean(), np.sqrt(squares[0].mean()))
        reads = [np.einsum("d,d...->...", kernel, history[::-1]) for kernel in kernels(theta, lags)]
        seen = Token(
            jnp.asarray(history[-1] / root),
            tuple(jnp.asarray(read / root) for read in reads),
            params["w"],
            jnp.log(root / reference),
        )
        masks = effective_masks(theta, seen, lags)
        np.testing.assert_allclose(
            updates[-1], -np.einsum("d...,d...->...", masks, history[::-1]) / root, rtol=1e-8, atol=1e-10
        )


def test_updates_are_odd_under_reflection():
    theta = moved(WITH_LAW, 0.1)
    optimizer = flt_optimizer(weights=(theta, WITH_LAW), total_steps=10, weight_decay=0.1)
    key = jax.random.key(1)

    @jax.jit
    def run(sign):
        params = jax.tree.map(lambda p: sign * p, {"w": jax.random.normal(key, (4, 3)), "b": jnp.ones(3)})
        state = optimizer.init(params)
        for t in range(3):
            gradients = jax.tree.map(lambda p, t=t: jnp.sin(30 * p) + sign * t, params)
            updates, state = optimizer.update(gradients, state, params)
        return updates

    jax.tree.map(lambda u, v: np.testing.assert_array_equal(u, -v), run(1.0), run(-1.0))


def test_rows_of_an_embedding_that_are_never_seen_stay():
    theta = moved(WITH_LAW, 0.1)
    optimizer = flt_optimizer(weights=(theta, WITH_LAW), total_steps=10)
    params = {"embed": jnp.ones((6, 2))}
    gradients = {"embed": jnp.zeros((6, 2)).at[jnp.array([1, 4])].set(0.3)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = update(gradients, state, params)
        changed = np.flatnonzero(np.abs(updates["embed"]).sum(1))
        np.testing.assert_array_equal(changed, [1, 4])


def test_the_compiled_start_of_these_tests_is_the_untrained_optimizer():
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7),
        start(WITH_LAW),
        untrained(WITH_LAW)[0],
    )
