"""Of `make dist`: is everything in what was built, and does the wheel work with only its dependencies?

python tests/check_dist.py dist

`python -m build` makes the wheel from the sdist: what the wheel can do, an installation of the sdist can.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("learned_opt", "meta_train", "tasks")
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


def expected() -> set[str]:
    """All that git keeps, without what is for git itself and for the machine that runs the gates."""
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if not name.startswith(".") and (ROOT / name).is_file()}


def compare(file: Path, found: set[str], wanted: set[str]) -> None:
    assert wanted, "git lists no files"
    assert found == wanted, (
        f"{file.name} lacks {sorted(wanted - found)}, and has {sorted(found - wanted)} too much"
    )


def main(folder: Path) -> None:
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    sources = expected()
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    compare(sdist, files - {"PKG-INFO", ".gitignore"}, sources)
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    compare(wheel, files, {name for name in sources if name.partition("/")[0] in PACKAGES})
    with tempfile.TemporaryDirectory() as place:
        venv.create(Path(place) / "bare", with_pip=True)
        python = Path(place) / "bare" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel.absolute()], check=True)
        subprocess.run([python, "-W", "error", "-c", STEP], check=True, cwd=place)
    print(f"{wheel.name} and {sdist.name} are complete")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
