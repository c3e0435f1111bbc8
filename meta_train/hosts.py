"""Hosts: processes that share one run, through `jax.distributed`. A run of one process needs none of this.

Every host evaluates its share of each population. Results are gathered, so that all hosts compute the same
state; the first one alone keeps the folder and shows progress.
"""

import atexit
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

HEARTBEAT = 30  # seconds without a sign of life after which a host is given up
PATIENCE = 300.0  # seconds to wait for one that gives signs of life, but nothing else
patience: ContextVar[float] = ContextVar("patience", default=PATIENCE)
LOST = (
    "meta-train: another host of this run has ended or cannot be reached, so this one ends too. Its own "
    "output says why, if it could. The same command on all hosts goes on from the newest checkpoint"
)
# Reads until its parent ends. One that JAX aborts, as it does when another host is lost, says nothing before.
HEAR = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.read():
    print(sys.argv[1], file=sys.stderr)
"""


@contextmanager
def joined(
    number: int | Literal["cluster"],
    host: int | None = None,
    coordinator: str | None = None,
    seconds: float = PATIENCE,
) -> Iterator[None]:
    """Makes this process one of several that share a run. Nothing may have been computed before.

    A host that ends by an error, is killed or is stopped ends all others within twice `HEARTBEAT` seconds.

    Args:
      number: how many there are; 1 changes nothing, "cluster" takes everything from what SLURM, Open MPI or
        Kubernetes tell (see `jax.distributed.initialize`).
      host: the number of this process, from 0.
      coordinator: ADDRESS:PORT, the address of host 0 and a free port there.
      seconds: how long this host waits for what another one has to send, once its own part is done. Then its
        process ends, with exit code 1.

    Raises:
      ValueError: the place of this process is not clear, or hosts have different numbers of devices.
      ConnectionError: while it lasts, if another host is lost.
    """
    if number == 1:
        yield
        return
    place: dict[str, Any] = {}
    if number != "cluster":
        if host is None or coordinator is None or not 0 <= host < number:
            raise ValueError(
                f"{number} hosts need a coordinator ADDRESS:PORT and a host from 0 to {number - 1}"
            )
        place = {"coordinator_address": coordinator, "num_processes": number, "process_id": host}
        place["cluster_detection_method"] = "deactivate"  # it would take one device only
    listener = subprocess.Popen(
        [sys.executable, "-S", "-c", HEAR, LOST], stdin=subprocess.PIPE, start_new_session=True
    )
    atexit.register(listener.communicate, b"in good order")
    patience.set(seconds)
    try:
        _initialize(place)
        if jax.device_count() != count() * jax.local_device_count():
            raise ValueError(
                f"{jax.local_device_count()} of {jax.device_count()} devices are on this one of "
                f"{count()} hosts: all hosts must have the same number"
            )
        yield
    except Exception:
        atexit.register(_leave, listener)
        raise


def _initialize(place: dict[str, Any]) -> None:
    # It would handle SIGTERM in its own way.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **place, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT
        )
    except ValueError as error:
        raise ValueError(
            f"JAX cannot tell the place of this host ({error}): give the number of hosts, the number of this "
            "one and the coordinator"
        ) from error


def count() -> int:
    """How many hosts there are."""
    return jax.process_count()


def several() -> bool:
    """Whether there is more than one."""
    return count() > 1


def is_first() -> bool:
    """Whether this host keeps the folder."""
    return jax.process_index() == 0


def share(tree: Any) -> Any:
    """This host's part of leaves [members, ...]."""

    def part(leaf: Any) -> Any:
        size = len(leaf) // count()
        return leaf[jax.process_index() * size :][:size]

    return jax.tree.map(part, tree) if several() else tree


def gather(tree: Any) -> Any:
    """The inverse of `share`; with several hosts it waits for all of them, and leaves are NumPy arrays."""
    if not several():
        return tree
    jax.block_until_ready(tree)
    with _waiting():
        return process_allgather(tree, tiled=True)


def from_first(tree: Any) -> Any:
    """The first host's tree of arrays, on all hosts."""
    if not several():
        return tree
    jax.block_until_ready(tree)
    with _waiting():
        return broadcast_one_to_all(tree)


def largest(number: int) -> int:
    """The largest of the numbers of all hosts."""
    return int(np.max(gather(np.asarray([number]))))


def require_same(settings: str) -> None:
    """Refuses to go on if hosts were given different settings.

    Raises:
      ValueError: on all hosts.
    """
    digest = np.frombuffer(hashlib.sha256(settings.encode()).digest(), np.uint32)[None]
    if (gather(digest) != digest).any():
        raise ValueError("the hosts were given different settings: start all of them with the same ones")


@contextmanager
def _waiting() -> Iterator[None]:
    """Says clearly that another host is lost, or ends the process if it comes to nothing."""
    watchdog = threading.Timer(patience.get(), _give_up, (patience.get(),))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(f"{LOST.removeprefix('meta-train: ')} ({error})") from error
    finally:
        watchdog.cancel()


def _give_up(seconds: float) -> None:
    """Ends the process, whose main thread waits and cannot be interrupted; the listener says the rest."""
    print(f"meta-train: waited {seconds:g} s in vain for another host", file=sys.stderr, flush=True)
    os._exit(1)


def _leave(listener: subprocess.Popen) -> None:
    """Ends the process without waiting for the others, who wait for it somewhere else."""
    sys.stdout.flush()
    sys.stderr.flush()
    listener.communicate(b"with an error of its own")
    os._exit(1)
