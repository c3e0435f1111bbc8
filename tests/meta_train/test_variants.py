"""Learned optimizers that are told less, or more, than usual."""

import dataclasses

import numpy as np
import optax

from meta_train.baselines import Setting
from meta_train.evaluation import anytime, traced
from meta_train.evaluation.runs import Runner, geometry
from tasks.suites import META_TRAIN

from .fakes import family, sgd


def test_an_anytime_optimizer_is_not_told_the_length_of_its_run():
    told = []
    plain = sgd(name="learned")
    plain = dataclasses.replace(plain, build=lambda _, setting, steps: told.append(steps))
    one, again = anytime(plain), anytime(plain)
    one.build((), Setting(), 30)
    assert told == [np.inf]
    assert one.build is again.build  # so that they share programs
    assert (one.name, one.learned) == ("learned anytime", True)
    assert one.fingerprint != plain.fingerprint


def test_a_traced_optimizer_is_told_what_the_program_does():
    given = []

    def build(_, setting, steps, geometry="auto"):
        given.append(geometry)
        return optax.sgd(setting.rate)

    plain = dataclasses.replace(sgd(name="learned"), build=build)
    one, again = traced(plain), traced(plain)
    for optimizer in (plain, one):
        Runner(family(), 10, 1).run(optimizer, [(0, Setting(1.0))])
    assert given[0] == "auto"
    assert given[-1]["w"].kind == "vector"
    assert geometry(META_TRAIN["ratings"])["rows"]["bias"].kind == "embedding"  # named like a vector
    assert one.build is again.build  # so that they share programs
    assert (one.name, one.learned) == ("learned traced", True)
