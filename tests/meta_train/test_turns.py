"""The turns of the families."""

import string
from collections import Counter

import pytest

from meta_train.turns import Turns


@pytest.mark.parametrize(
    ("families", "per_step", "steps"),
    [(5, 2, 25), (6, 3, 10), (4, 9, 6), (7, 6, 14), (14, 6, 70), (26, 6, 130)],
)
def test_every_family_is_used_equally_often_and_never_twice_in_a_step(
    families: int, per_step: int, steps: int
) -> None:
    names = string.ascii_letters[:families]
    turns = Turns(names, per_step, seed=0)
    chosen = [turns[step] for step in range(steps)]
    counts = Counter(name for step in chosen for name in step)

    assert {len(set(step)) for step in chosen} == {min(per_step, families)}
    assert counts == dict.fromkeys(names, steps * min(per_step, families) // families)
    rounds = [[name for step in chosen for name in step][i : i + families] for i in (0, families)]
    assert rounds[0] != rounds[1]  # an order drawn anew for each round


def test_a_run_that_goes_on_deals_what_it_would_have_dealt() -> None:
    through, later = Turns("abcdefg", 3, seed=1), Turns("abcdefg", 3, seed=1)

    assert later[40] == [through[step] for step in range(41)][40]
    assert later[3] == through[3]
