"""The suites of task families, as literal tables."""

from tasks.base import TaskFamily
from tasks.suites.held_out import HELD_OUT
from tasks.suites.meta_train import META_TRAIN
from tasks.suites.validation import VALIDATION

__all__ = ["HELD_OUT", "META_TRAIN", "SUITES", "VALIDATION"]

SUITES: dict[str, dict[str, TaskFamily]] = {
    "meta_train": META_TRAIN,
    "validation": VALIDATION,
    "held_out": HELD_OUT,
}
