"""What a meta-training run is: one dataclass, and the presets."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal, get_args

from learned_opt.config import FLTConfig
from tasks.suites import META_TRAIN, VALIDATION

TruncatedName = Literal["truncated-es", "pes", "nres", "backprop"]
EstimatorName = Literal["es", TruncatedName]
NoiseName = Literal["gaussian", "orthogonal"]
CHUNK = 25  # inner steps of the compiled inner loop; horizons are multiples of it

SIGMA = {
    "step_law": 0.15,
    "blend_law": 0.3,
    "shrink_law": 0.3,
    "log_warmup": 0.2,
    "log_decay_power": 0.1,
    "log_anytime_warmup": 0.2,
    "log_anytime_scale": 0.2,
    "log_anytime_power": 0.1,
    "log_rate": 0.1,
    "frequency": 0.01,
    "phase": 0.1,
    "read_out": 0.05,
    "whitening": 0.2,
}
"""Standard deviation of the perturbation of each group of meta-parameters of the laws, by name."""
NETWORK_SIGMA = 0.05
"""The same for every other name: the layers of the networks."""
LAWS_ONLY = FLTConfig(rule_width=0, controller_width=0)
"""The laws without their networks: as much as evolution strategies can learn in a run of minutes."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. Everything that decides its result is here.

    Attributes:
      steps: outer steps.
      families: names of the META_TRAIN families.
      augmented: share of members that are trained in other coordinates and units, with noisier gradients or
        in lower precision (`tasks.augment`).
      families_per_step: how many of them one outer step uses, in turn.
      pairs: antithetic pairs a family.
      estimator: of the meta-gradient, a name in `meta_train.estimators.ESTIMATORS`.
      network_estimator: of the networks' part of it, one that truncates, while "es" estimates the laws' part;
        empty if `estimator` makes all of it.
      family_estimators: pairs (family, estimator) of the families that do not use `estimator`.
      noise: "gaussian", or "orthogonal": perturbations of the same lengths, at right angles to each other in
        blocks of as many pairs as there are meta-parameters; not for "nres" and "backprop".
      truncation: inner steps of an outer step, a multiple of 25; all of the run for the estimator "es".
      last_truncation: the same at the last outer step, to which it grows log-linearly; 0 if it stays.
      pairs_at_once: pairs that a device evaluates side by side, if not its whole share (0). The meta-gradient
        then does not depend on the number of devices, not even in rounding; small shares cost speed.
      horizons: shortest and longest unroll in inner steps; drawn log-uniformly, one for each outer step.
      longest_at_first: the longest unroll at the first outer step, from which it grows log-linearly; 0 if it
        stays. For the estimator "es".
      anytime: share of pairs that are not told their horizon.
      learning_rate: of the outer Adam, where a perturbation has standard deviation 0.1; decays to a tenth.
      averaging: decay of the running average of the meta-parameters, which is what is measured and exported.
      clip: largest norm of the meta-gradient, in the same units.
      objective: weights of the log loss at the end of a run on validation data, at its end on training
        data, and of its mean on training data. Rewarding the second teaches to overfit where data are few.
      validation: names of the VALIDATION families on which progress is measured.
      validation_steps: their horizon.
      validation_seeds: members of each.
      validate_every: outer steps between measurements, each of which also saves a checkpoint.
      seed: of everything random.
      start: weights to start from, a shipped name or a path; empty for the untrained optimizer.
      optimizer: structure of the learned optimizer.
    """

    steps: int
    families: tuple[str, ...] = tuple(META_TRAIN)
    augmented: float = 0.0
    families_per_step: int = 6
    pairs: int = 48
    estimator: EstimatorName = "es"
    network_estimator: TruncatedName | Literal[""] = ""
    family_estimators: tuple[tuple[str, EstimatorName], ...] = ()
    noise: NoiseName = "gaussian"
    truncation: int = 50
    last_truncation: int = 0
    pairs_at_once: int = 0
    horizons: tuple[int, int] = (100, 1500)
    longest_at_first: int = 0
    anytime: float = 0.2
    learning_rate: float = 0.03
    averaging: float = 0.9
    clip: float = 3.0
    objective: tuple[float, float, float] = (0.8, 0.0, 0.2)
    validation: tuple[str, ...] = tuple(VALIDATION)
    validation_steps: int = 500
    validation_seeds: int = 8
    validate_every: int = 20
    seed: int = 0
    start: str = ""
    optimizer: FLTConfig = LAWS_ONLY

    def __post_init__(self) -> None:
        """Refuses settings that could not run."""
        for name, table in (("families", META_TRAIN), ("validation", VALIDATION)):
            unknown = [value for value in getattr(self, name) if value not in table]
            if unknown:
                raise ValueError(f"{name} has {unknown}; known names are {', '.join(table)}")
        for name in ("steps", "families_per_step", "pairs", "validation_seeds", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.augmented <= 1:
            raise ValueError(f"augmented={self.augmented}: expected a share from 0 to 1")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging={self.averaging}: expected a decay from 0 to below 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: expected a positive number")
        if self.pairs_at_once < 0 or self.pairs % (self.pairs_at_once or self.pairs):
            raise ValueError(
                f"pairs_at_once={self.pairs_at_once}: expected 0 or a divisor of pairs={self.pairs}"
            )
        self._check_estimators()
        if self.network_estimator:
            self._check_mixture()
        self._check_lengths()

    def estimator_of(self, family: str) -> EstimatorName:
        """Which estimator a family uses."""
        return dict(self.family_estimators).get(family, self.estimator)

    def _estimators(self) -> set[str]:
        return {self.estimator, *dict(self.family_estimators).values()}

    def _check_estimators(self) -> None:
        names = get_args(EstimatorName)
        if self.estimator not in names:
            raise ValueError(f"estimator={self.estimator!r}: expected one of {', '.join(names)}")
        for family, name in self.family_estimators:
            if family not in self.families or name not in names:
                raise ValueError(
                    f"family_estimators has {(family, name)}: expected one of `families` and one of "
                    f"{', '.join(names)}"
                )
        if self.noise not in get_args(NoiseName):
            raise ValueError(f"noise={self.noise!r}: expected one of {', '.join(get_args(NoiseName))}")
        without = {"nres", "backprop"} & (self._estimators() | {self.network_estimator})
        if self.noise == "orthogonal" and without:
            raise ValueError(f"noise='orthogonal' with {', '.join(sorted(without))}: expected 'gaussian'")

    def _check_lengths(self) -> None:
        if self.truncation < CHUNK or self.truncation % CHUNK:
            raise ValueError(f"truncation={self.truncation}: expected a positive multiple of {CHUNK}")
        if last := self.last_truncation:
            if last < self.truncation or last % CHUNK:
                raise ValueError(
                    f"last_truncation={last}: expected 0 or a multiple of {CHUNK}, from truncation on"
                )
            if self.network_estimator or "backprop" in self._estimators():
                raise ValueError(f"last_truncation={last}: backprop and network_estimator have a fixed one")
        shortest, longest = self.horizons
        if not CHUNK <= shortest <= longest:
            raise ValueError(f"horizons={self.horizons}: expected {CHUNK} <= shortest <= longest")
        if self.longest_at_first and not shortest <= self.longest_at_first <= longest:
            raise ValueError(
                f"longest_at_first={self.longest_at_first}: expected 0 or a number within {self.horizons}"
            )

    def _check_mixture(self) -> None:
        given = f"network_estimator={self.network_estimator!r}"
        if self.network_estimator not in get_args(TruncatedName):
            raise ValueError(f"{given}: expected '' or one of {', '.join(get_args(TruncatedName))}")
        if self._estimators() != {"es"}:
            raise ValueError(f"{given} with estimator={self.estimator!r}: expected 'es' for the laws")
        if not (self.optimizer.rule_width or self.optimizer.controller_width):
            raise ValueError(f"{given}: expected an optimizer with networks (--networks)")

    def to_json(self) -> str:
        """The settings as a JSON object, with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


_RELEASE = TrainConfig(
    steps=220,
    pairs=192,
    horizons=(100, 2500),
    learning_rate=0.025,
    validation_steps=1000,
    validate_every=55,
)
_FAMILIES_OF_FLT_V0 = (
    "digits_mlp",
    "digits_thin",
    "digits_deep",
    "digits_plain",
    "digits_wide",
    "digits_shallow",
    "digits_norm",
    "digits_conv",
    "digits_adapters",
    "digits_autoencoder",
    "topics_transformer",
    "topics_transformer_wide",
    "topics_gru",
    "waves",
    "linear_map",
    "cancer_sigmoid",
    "wine",
    "diabetes_huber",
    "ratings",
)
_CHEAP_FAMILIES = (
    "digits_mlp",
    "digits_norm",
    "digits_autoencoder",
    "digits_contrastive",
    "patches_mlp",
    "topics_gru",
    "waves",
    "linear_map",
    "cancer_sigmoid",
    "wine",
    "diabetes_huber",
    "ratings",
)

PRESETS: dict[str, TrainConfig] = {
    "demo": TrainConfig(
        steps=60,
        families=("digits_mlp", "digits_thin", "wine", "linear_map"),
        families_per_step=4,
        pairs=8,
        horizons=(50, 100),
        learning_rate=0.06,
        validation=("iris", "signal_mlp"),
        validation_steps=100,
        validation_seeds=16,
        validate_every=30,
        objective=(0.2, 0.4, 0.4),  # runs too short to overfit, and too few to average over luck
    ),
    "small": TrainConfig(
        steps=100,
        families=_CHEAP_FAMILIES,
        families_per_step=4,
        pairs=16,
        horizons=(50, 400),
        validation=("signal_mlp", "signal_plain", "checkerboard", "iris"),
        validation_steps=300,
    ),
    "release": _RELEASE,
    "flt-v0": dataclasses.replace(_RELEASE, families=_FAMILIES_OF_FLT_V0),
}
