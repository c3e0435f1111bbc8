"""What the contract of optax asks beyond the wrappers, and the table of the whole contract in the docs.

`python -m pytest tests/learned_opt/test_contract.py --write-contract` writes the table anew.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from . import test_gradients, test_transformations, test_wrappers
from .contract import CONTRACT, EVERY, build, close, compiled, equal, gradient, holds, loss, parameters, run

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "contract.md"
FILLED_BY = (test_gradients, test_transformations, test_wrappers)  # with the properties that they test


@holds("one compilation", EVERY)
def test_one_compilation(name: str) -> None:
    optimizer, params, traces = build(name), parameters(), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        traces.append(None)
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)
    assert len(traces) == 1


@holds("chain hands extra arguments on", EVERY)
def test_a_chain_hands_extra_arguments_on(name: str) -> None:
    def scale(updates: Any, state: Any, params: Any = None, *, factor: jax.Array, **extra: Any) -> Any:
        return jax.tree.map(lambda g: factor * g, updates), state

    first = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale)
    optimizer, params = optax.chain(first, build(name)), parameters()
    found, _ = jax.jit(optimizer.update)(
        gradient(params, 0.0), optimizer.init(params), params, factor=jnp.asarray(0.5)
    )
    halves = jax.tree.map(lambda g: g / 2, gradient(params, 0.0))
    expected, _ = compiled(name)(halves, build(name).init(params), params)
    close(found, expected, 1e-6)


def through_flax(state: Any, empty: Any, folder: Path) -> Any:
    return flax.serialization.from_bytes(empty, flax.serialization.to_bytes(state))


def through_orbax(state: Any, empty: Any, folder: Path) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", empty)


@holds("orbax and flax round trips", EVERY)
@pytest.mark.parametrize("through", [through_flax, through_orbax])
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name: str, through: Any, tmp_path: Path) -> None:
    params, state = run(name, parameters(), 2)
    found = through(state, build(name).init(parameters()), tmp_path)
    equal(found, state)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    gradients = gradient(params, 2.0)
    equal(compiled(name)(gradients, found, params), compiled(name)(gradients, state, params))


@holds("losses under jax.checkpoint", EVERY)
def test_a_loss_that_is_computed_twice(name: str) -> None:
    optimizer, params = build(name), parameters()

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        gradients = jax.grad(jax.checkpoint(loss))(params, 0.0)
        return optimizer.update(gradients, state, params)[0]

    expected, _ = compiled(name)(gradient(params, 0.0), optimizer.init(params), params)
    close(step(params, optimizer.init(params)), expected, 1e-5)


@holds("frozen leaves and embedding rows never seen stay", EVERY)
def test_what_has_no_gradient_stays(name: str) -> None:
    params = parameters() | {"embed": jnp.ones((5, 3))}

    def change(gradients: Any, t: int) -> Any:
        unseen = {"b": jnp.zeros(3), "embed": gradients["embed"].at[2:4].set(0.0)}
        return gradients | unseen

    found, _ = run(name, params, change=change)
    equal(found["b"], params["b"])
    equal(found["embed"][2:4], params["embed"][2:4])
    assert np.abs(found["embed"] - params["embed"])[[0, 1, 4]].min() > 0


@holds("adapters and heads that start at zero learn within 20 and 100 steps", EVERY)
@pytest.mark.parametrize("steps", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_zeros_learn(name: str, steps: int) -> None:
    draw = np.random.default_rng(4).normal
    x, frozen, target = (jnp.asarray(draw(size=shape), jnp.float32) for shape in ((32, 6), (6, 5), (6, 5)))
    params = {
        "adapter": {"down": jnp.asarray(draw(size=(6, 2)) / 6**0.5, jnp.float32), "up": jnp.zeros((2, 5))},
        "head": jnp.zeros((5, 4)),
    }

    def error(params: Any) -> jax.Array:
        hidden = jnp.tanh(x @ (frozen + params["adapter"]["down"] @ params["adapter"]["up"]))
        return jnp.mean((hidden @ params["head"] - jnp.tanh(x @ target)[:, :4]) ** 2)

    options = {} if name in ("adamw", "muon", "scale_by_flt") else {"total_steps": steps}
    optimizer = build(name, **options)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(error)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (found, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, steps))(params)
    assert error(found) < 0.9 * error(params)
    assert all(np.abs(zeros).max() > 0 for zeros in (found["adapter"]["up"], found["head"]))


def on_eight_devices(name: str, kind: str) -> None:
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "tests.learned_opt.sharded", name, kind]
    subprocess.run(command, env=environment, cwd=ROOT, check=True)


@holds("automatic sharding of 8 devices equals one", EVERY, quick=())
def test_automatic_sharding(name: str) -> None:
    on_eight_devices(name, "automatic")


@holds("explicit sharding of 8 devices equals one", EVERY, quick=(), fails=("muon",))
def test_explicit_sharding(name: str) -> None:
    on_eight_devices(name, "explicit")


def table() -> str:
    """Markdown, one row a property: yes, no, or a dash where it is not tested."""
    words = {True: "yes", False: "no", None: "–"}
    lines = ["| | " + " | ".join(EVERY) + " |", "| --- |" + " --- |" * len(EVERY)]
    for what, row in sorted(CONTRACT.items()):  # whichever file was read first
        lines.append(f"| {what} | " + " | ".join(words[row.get(name)] for name in EVERY) + " |")
    return "\n".join(lines) + "\n"


def test_the_docs_list_what_is_tested(request: pytest.FixtureRequest) -> None:
    start = "<!-- written by tests/learned_opt/test_contract.py -->\n"
    text, _, written = TABLE.read_text().partition(start)
    if request.config.getoption("--write-contract"):
        TABLE.write_text(text + start + table())
    else:
        assert written == table()
