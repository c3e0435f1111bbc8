"""Learned optimizers against tuned baselines: runs, tuning, statistics, tables."""

from meta_train.evaluation.driver import Protocol, evaluate
from meta_train.evaluation.optimizers import Optimizer, baseline, learned
from meta_train.evaluation.results import Failure, Result

__all__ = ["Failure", "Optimizer", "Protocol", "Result", "baseline", "evaluate", "learned"]
