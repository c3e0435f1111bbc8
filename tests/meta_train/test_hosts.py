"""Two processes with two devices each: what one process computes, and how they end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.cli import main
from meta_train.devices import Population
from meta_train.ending import TERMINATED
from meta_train.hosts import from_first, gather, largest, share
from meta_train.outer import train

from .bowls import assert_same_run, run_of, saved

ROOT = Path(__file__).parents[2]
# Of every device more than one piece: a loop of one is another program.
CHANGES = {"estimator": "pes", "truncation": 25, "pairs": 8, "pairs_at_once": 1, "validation_seeds": 4}
POPULATION = """
import sys
import jax, jax.numpy as jnp, numpy as np
from meta_train import hosts
from meta_train.devices import Population

def counted(shared, members, offset):
    members, workers = members
    return shared * jnp.sin(members + workers["sum"]) + offset, {"sum": workers["sum"] + members**2 / 3}

place = (2, int(sys.argv[1]), sys.argv[2]) if sys.argv[4] == "flags" else ("cluster",)
with hosts.joined(*place):
    assert (jax.local_device_count(), jax.device_count()) == (2, 4)
    population = Population(counted, 8, piece=2)
    own = population.members
    workers = population.placed({"sum": np.arange(8, dtype=np.float32)})
    for step in range(3):
        found, workers = population(jnp.float32(1.5), jnp.float32(step), workers=workers)
    kept = population.gathered(workers)["sum"]
    first = hosts.from_first({"host": np.full(3, 1.0 + hosts.is_first())})["host"]
    most = hosts.largest(3 - int(sys.argv[1]))
    try:
        hosts.require_same(sys.argv[1])
    except ValueError as error:
        print(error)
    np.savez(sys.argv[3] + sys.argv[1], own=own, found=found, kept=kept, first=first, most=most)
"""
ASLEEP = """
import sys, time
from meta_train import hosts

with hosts.joined(2, int(sys.argv[1]), sys.argv[2]):
    hosts.largest(0)
    print("step 0:")
    time.sleep(90)
"""
BUSY = """
import sys
from meta_train import hosts

with hosts.joined(2, int(sys.argv[1]), sys.argv[2], seconds=5):
    hosts.largest(0)
    while not hosts.is_first():
        pass
    hosts.largest(0)
"""
RUN = f"""
import sys
from tests.meta_train.bowls import run_of
from tests.meta_train.fakes import family
from meta_train.cli import main
from meta_train.config import PRESETS
from tasks.suites import META_TRAIN, VALIDATION

for table, name in ((META_TRAIN, "bowl"), (VALIDATION, "bowl_valid")):
    table[name] = family(name, noise=0.3)
PRESETS["tiny"] = run_of(**{CHANGES})
PRESETS["long"] = run_of(steps=100_000, validate_every=1_000, **{CHANGES})
place = ["--hosts", "2", "--host", sys.argv[1], "--coordinator", sys.argv[2]]
sys.exit(main(["train", *place, *sys.argv[3:]]))
"""


def counted(shared: jax.Array, members: tuple, offset: jax.Array) -> tuple:
    numbers, workers = members
    return shared * jnp.sin(numbers + workers["sum"]) + offset, {"sum": workers["sum"] + numbers**2 / 3}


@contextmanager
def two_hosts(script: str, *arguments: str) -> Iterator[list[subprocess.Popen]]:
    """Two processes, killed at the end if they have not ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        # What SLURM would set; read by "cluster" alone.
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": coordinator.partition(":")[2],
    }
    with ExitStack() as stack:
        processes = []
        for host in range(2):
            command = [sys.executable, "-c", script, str(host), coordinator, *arguments]
            pipe = subprocess.PIPE
            own = environment | {"SLURM_PROCID": str(host), "SLURM_LOCALID": str(host)}
            process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=own)
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def until_step(process: subprocess.Popen, number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {number}:"):
            return
    raise AssertionError(process.stderr and process.stderr.read())


@pytest.mark.parametrize("told_by", ["flags", "slurm"])
def test_two_hosts_evaluate_a_population_as_one_does(told_by: str, tmp_path: Path) -> None:
    population = Population(counted, 8, jax.local_devices()[:1], piece=2)
    workers = population.placed({"sum": np.arange(8, dtype=np.float32)})
    for step in range(3):
        found, workers = population(jnp.float32(1.5), jnp.float32(step), workers=workers)

    with two_hosts(POPULATION, f"{tmp_path}/host", told_by) as processes:
        printed = [process.communicate(timeout=60) for process in processes]

    assert [process.returncode for process in processes] == [0, 0], printed
    assert all("different settings" in out for out, _ in printed)
    assert not any("another host" in errors for _, errors in printed)
    for host, own in enumerate(([[0, 1], [2, 3]], [[4, 5], [6, 7]])):
        with np.load(tmp_path / f"host{host}.npz") as results:
            np.testing.assert_array_equal(results["own"], own)
            np.testing.assert_array_equal(results["found"], found)
            np.testing.assert_array_equal(results["kept"], population.gathered(workers)["sum"])
            np.testing.assert_array_equal(results["first"], [2.0, 2.0, 2.0])
            assert results["most"] == 3


def test_one_host_alone_communicates_nothing() -> None:
    tree = {"x": np.arange(4)}

    assert all(function(tree) is tree for function in (share, gather, from_first))
    assert largest(7) == 7


def test_without_a_cluster_nobody_knows_a_place() -> None:
    script = "from meta_train import hosts\nwith hosts.joined('cluster'): pass"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    process = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)

    assert process.returncode == 1
    assert "JAX cannot tell the place of this host" in process.stderr
    assert "another host" not in process.stderr


@pytest.mark.parametrize("place", [[], ["--host", "2", "--coordinator", "localhost:1"], ["--host", "0"]])
def test_a_host_without_a_place_is_refused(
    place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", str(tmp_path), "--hosts", "2", *place]) == 2

    message = " ".join(capsys.readouterr().err.split())
    assert "2 hosts need a coordinator ADDRESS:PORT and a host from 0 to 1" in message


@pytest.mark.slow
@pytest.mark.usefixtures("bowls_in_suites")
def test_two_hosts_train_as_one_does_and_go_on_from_their_checkpoint(tmp_path: Path) -> None:
    config = run_of(**CHANGES)
    train(config, tmp_path / "alone")

    for limit in (["--time-limit", "1e-9"], []):
        with two_hosts(RUN, "--preset", "tiny", "--out", f"{tmp_path}/shared", *limit) as processes:
            printed = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], printed
        assert "step" not in printed[1][0]
    assert len(list((tmp_path / "shared" / "events").iterdir())) == 2

    shared, alone = (saved(tmp_path / each, config) for each in ("shared", "alone"))
    np.testing.assert_allclose(shared.best_score, alone.best_score, rtol=1e-6)  # in shares of other sizes
    assert_same_run(shared._replace(best_score=0), alone._replace(best_score=0))


@pytest.mark.slow
def test_sigterm_to_one_host_ends_both_after_a_checkpoint(tmp_path: Path) -> None:
    with two_hosts(RUN, "--preset", "long", "--out", str(tmp_path)) as processes:
        until_step(processes[0], 2)
        processes[1].send_signal(signal.SIGTERM)
        printed = [process.communicate(timeout=60) for process in processes]

    assert [process.returncode for process in processes] == [TERMINATED, TERMINATED], printed
    assert not any("another host" in errors for _, errors in printed)
    assert [int(step.name) >= 2 for step in (tmp_path / "checkpoints").iterdir()] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_is_killed_ends_the_other_with_a_clear_error(killed: int, tmp_path: Path) -> None:
    with two_hosts(RUN, "--preset", "long", "--out", str(tmp_path)) as processes:
        until_step(processes[0], 2)
        processes[killed].kill()
        _, errors = processes[1 - killed].communicate(timeout=60)

    check_lost(processes[1 - killed].returncode, errors)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_host_that_is_stopped_but_lives_ends_the_other_within_a_minute(
    stopped: int, tmp_path: Path
) -> None:
    with two_hosts(RUN, "--preset", "long", "--out", str(tmp_path)) as processes:
        until_step(processes[0], 2)
        processes[stopped].send_signal(signal.SIGSTOP)
        _, errors = processes[1 - stopped].communicate(timeout=60)

    check_lost(processes[1 - stopped].returncode, errors)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_it_does_so_even_if_nothing_is_gathered(killed: int) -> None:
    with two_hosts(ASLEEP) as processes:
        until_step(processes[0], 0)
        processes[killed].kill()
        _, errors = processes[1 - killed].communicate(timeout=60)

    check_lost(processes[1 - killed].returncode, errors)


@pytest.mark.slow
def test_a_host_that_lives_but_sends_nothing_is_not_waited_for_beyond_patience() -> None:
    with two_hosts(BUSY) as processes:
        _, errors = processes[0].communicate(timeout=60)

    check_lost(processes[0].returncode, errors)
    assert "waited 5 s in vain for another host" in errors


def check_lost(code: int, errors: str) -> None:
    assert code in (1, -signal.SIGABRT), errors  # JAX aborts, if the error is not met first
    assert "another host of this run has ended or cannot be reached" in errors
    assert "The same command on all hosts goes on" in errors
