"""Settings for every test. Warnings are errors (pyproject.toml)."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two devices, so that code for several devices runs as such; read when JAX starts its backend.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
    )
os.environ.setdefault("MPLBACKEND", "agg")

from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings

# Deadlines would time compilation; a fixed choice of examples fails the same way everywhere.
settings.register_profile("repository", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-contract", action="store_true", help="write docs/contract.md anew")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs() -> Iterator[None]:
    """Keeps the memory of a long test run bounded."""
    yield
    jax.clear_caches()
