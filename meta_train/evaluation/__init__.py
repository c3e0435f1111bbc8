"""Learned optimizers against tuned baselines: runs, tuning, statistics, tables."""

from meta_train.evaluation.driver import Protocol, evaluate
from meta_train.evaluation.optimizers import Optimizer, anytime, baseline, learned, traced, tuned
from meta_train.evaluation.results import Failure, Outcome, Result

__all__ = [
    "Failure",
    "Optimizer",
    "Outcome",
    "Protocol",
    "Result",
    "anytime",
    "baseline",
    "evaluate",
    "learned",
    "traced",
    "tuned",
]
