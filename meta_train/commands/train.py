"""`meta-train train` and `meta-train export`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from tyro.conf import Positional

from meta_train.config import EstimatorName, NoiseName, TruncatedName
from meta_train.lookup import UsageError, one_of


@dataclass(frozen=True)
class Train:
    """Meta-train an optimizer; the same command again continues where it stopped."""

    out: Path
    """Folder of the run: checkpoints and logs. An unfinished run found there is continued."""
    preset: str = "demo"
    """Which settings to start from; `list` shows them."""
    steps: int | None = None
    """Number of outer steps; None keeps the preset's."""
    seed: int | None = None
    """Seed of everything random in the run; None keeps the preset's."""
    families: tuple[str, ...] | None = None
    """Names of META_TRAIN families to train on; None keeps the preset's."""
    estimator: EstimatorName | None = None
    """Of the meta-gradient: evolution strategies on whole runs (es) or on stretches of them (truncated-es),
    persistent (pes) or with reused noise (nres), or truncated backpropagation. None keeps the preset's."""
    pairs: int | None = None
    """Antithetic pairs of runs that a family trains in an outer step; None keeps the preset's."""
    learning_rate: float | None = None
    """Of the outer Adam. Too large a one makes a noisy meta-gradient wander; None keeps the preset's."""
    averaging: float | None = None
    """Decay of the running average of the meta-parameters, which is measured and exported. None keeps the
    preset's."""
    network_estimator: TruncatedName | None = None
    """Another one for the networks' part of it, while es makes that of the laws. None keeps the preset's."""
    family_estimators: tuple[tuple[str, EstimatorName], ...] | None = None
    """Families that use another estimator: FAMILY ESTIMATOR, as often as needed. None keeps the preset's."""
    noise: NoiseName | None = None
    """Perturbations of pairs: gaussian, or orthogonal to each other. None keeps the preset's."""
    networks: bool = False
    """Give the rule and the controller networks, which begin without effect."""
    augmented: float | None = None
    """Share of members that are trained in other coordinates and units, with noisier gradients or in lower
    precision, from 0 to 1. None keeps the preset's."""
    truncation: int | None = None
    """Inner steps of a stretch, a multiple of 25; None keeps the preset's."""
    last_truncation: int | None = None
    """The same at the last outer step, to which it grows; None keeps the preset's, 0 lets it stay."""
    longest_at_first: int | None = None
    """Longest run of the first outer step of es, from which it grows; None keeps the preset's, 0 lets it
    stay."""
    pairs_at_once: int | None = None
    """Antithetic pairs that a device evaluates side by side: bounds memory, and makes rounding the same on
    any number of devices. None keeps the preset's, 0 takes all."""
    start: str | None = None
    """Weights to start from, a shipped name or a file; the run keeps their structure, but for --networks.
    None starts from the untrained optimizer."""
    override: bool = False
    """Go on with a run that began with other settings, as far as its checkpoint fits."""
    time_limit: float | None = None
    """Minutes after which to write a checkpoint and stop with exit code 0; None for no limit."""
    hosts: int | Literal["cluster"] = 1
    """How many processes share the run, usually one on each machine: the same command on all of them, each
    with its own --host. "cluster" asks SLURM, Open MPI or Kubernetes for all three; see docs/hosts.md."""
    host: int | None = None
    """Number of this process, from 0. The first alone writes to the folder and shows progress."""
    coordinator: str | None = None
    """ADDRESS:PORT of host 0, with a port that is free there."""
    patience: float = 300.0
    """Seconds to wait for a host that is alive, but sends nothing."""

    def run(self, console: Console) -> int:
        """Delegate to the outer loop."""
        import learned_opt
        from meta_train.config import PRESETS
        from meta_train.hosts import joined
        from meta_train.outer import train

        if self.time_limit is not None and self.time_limit <= 0:
            raise UsageError(f"--time-limit is in minutes and must be positive, not {self.time_limit:g}")
        if self.patience <= 0:
            raise UsageError(f"--patience is in seconds and must be positive, not {self.patience:g}")
        preset = one_of(PRESETS, self.preset, "preset")
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("steps", "seed", "families", "pairs", "learning_rate", "averaging", "augmented", "start"),
                *("estimator", "network_estimator", "family_estimators", "noise", "pairs_at_once"),
                *("truncation", "last_truncation", "longest_at_first"),
            )
        }
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            with joined(self.hosts, self.host, self.coordinator, self.patience):
                if self.start is not None:
                    given["optimizer"] = learned_opt.load_weights(self.start)[1]
                if self.networks:
                    structure = given.get("optimizer", preset.optimizer)
                    given["optimizer"] = replace(structure, rule_width=8, controller_width=8)
                train(replace(preset, **given), self.out, self.time_limit, self.override)
        # Impossible settings, a folder that holds another run, or another host that is lost.
        except (ValueError, ConnectionError) as error:
            raise UsageError(str(error)) from error
        except OSError as error:  # a folder that is in use, read-only or full
            raise UsageError(f"--out {self.out}: {error}") from error
        return 0


@dataclass(frozen=True)
class Export:
    """Write the meta-parameters of a run, with their card, as a weights file."""

    run_dir: Positional[Path]
    """Folder of a run made by `train`."""
    file: Positional[Path]
    """The file to write; its name ends in .safetensors."""
    share: float = 1.0
    """How much of the way from the run's start to take, above 0 and at most 1. Less than all of it when a run
    moved too far for networks unlike those it was trained on."""

    def run(self, console: Console) -> int:
        """Load the newest checkpoint and save it."""
        from learned_opt.weights import save_weights
        from meta_train.trained import load_trained

        if self.file.suffix != ".safetensors":
            raise UsageError(f"the file must end in .safetensors, not {self.file.name!r}")
        if not self.run_dir.is_dir():
            raise UsageError(f"there is no run in {str(self.run_dir)!r}: the folder does not exist")
        try:
            theta, config, card = load_trained(self.run_dir, self.share)
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(f"nothing to export from {str(self.run_dir)!r}: {error}") from error
        self.file.parent.mkdir(parents=True, exist_ok=True)
        save_weights(self.file, theta, config, card)
        line = f"wrote {self.file}; use it as flt_optimizer(weights={str(self.file)!r})"
        console.print(line, markup=False, soft_wrap=True)
        return 0
