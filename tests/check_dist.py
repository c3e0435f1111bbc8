"""Of `make dist`: is everything in what was built, and does the wheel work with only its dependencies?

python tests/check_dist.py dist
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

IN_WHEEL = {
    "learned_opt/py.typed",
    "learned_opt/weights/flt-v0.safetensors",
    "meta_train/py.typed",
    "meta_train/evaluation/baselines.jsonl.gz",
    "tasks/py.typed",
}
PACKAGES = {"learned_opt", "meta_train", "tasks"}
# Tests read the documentation, the examples and the benchmarks.
IN_SDIST = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "benchmarks/step_cost.py",
    "docs/contract.md",
    "docs/img/ladder_size.png",
    "examples/finetune.py",
    "examples/look_inside.ipynb",
    "tests/conftest.py",
    "tests/examples/test_examples.py",
    *IN_WHEEL,
}
STEP = """
import importlib.metadata, importlib.util
import jax, jax.numpy as jnp, optax
import learned_opt

assert "site-packages" in learned_opt.__file__, learned_opt.__file__
assert not any(map(importlib.util.find_spec, ("flax", "orbax", "matplotlib", "tyro"))), "not bare"
params = {"w": jnp.eye(4), "b": jnp.ones(4)}
optimizer = learned_opt.flt_optimizer(total_steps=10)
updates, state = jax.jit(optimizer.update)(params, optimizer.init(params), params)
assert optax.tree.vdot(updates, params) < 0  # downhill on a bowl
(command,) = importlib.metadata.entry_points(group="console_scripts", name="meta-train")
assert command.value == "meta_train.cli:main"
print("one step with the shipped weights, JAX", jax.__version__)
"""


def main(folder: Path) -> None:
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    files = set(zipfile.ZipFile(wheel).namelist())
    assert files >= IN_WHEEL, f"{wheel.name} lacks {sorted(IN_WHEEL - files)}"
    tops = {name.partition("/")[0] for name in files if ".dist-info/" not in name}
    assert tops == PACKAGES, f"{wheel.name} has {sorted(tops)}, expected {sorted(PACKAGES)}"
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert files >= IN_SDIST, f"{sdist.name} lacks {sorted(IN_SDIST - files)}"
    unwanted = {name for name in files if name.startswith(("runs/", "docs/_build", ".venv"))}
    assert not unwanted, f"{sdist.name} has {sorted(unwanted)}"
    with tempfile.TemporaryDirectory() as place:
        venv.create(Path(place) / "bare", with_pip=True)
        python = Path(place) / "bare" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel.absolute()], check=True)
        subprocess.run([python, "-W", "error", "-c", STEP], check=True, cwd=place)
    print(f"{wheel.name} and {sdist.name} are complete")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
