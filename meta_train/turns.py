"""Which families an outer step uses."""

from collections.abc import Sequence

import numpy as np


class Turns:
    """Deals names to steps: all equally often, none twice in a step, in an order drawn anew for each round.

    Args:
      names: of the families.
      per_step: how many a step uses; all of them if there are fewer.
      seed: of the orders.
    """

    def __init__(self, names: Sequence[str], per_step: int, seed: int):
        self._names, self._seed = list(names), seed
        self._per_step = min(per_step, len(self._names))
        self._dealt: list[str] = []

    def __getitem__(self, step: int) -> list[str]:
        """The names of a step, counted from 0."""
        end = (step + 1) * self._per_step
        while len(self._dealt) < end:
            self._deal_a_round()
        return self._dealt[end - self._per_step : end]

    def _deal_a_round(self) -> None:
        complete = len(self._dealt) // self._per_step
        in_begun_step = set(self._dealt[complete * self._per_step :])
        turn = len(self._dealt) // len(self._names)
        order = np.random.default_rng([self._seed, turn]).permutation(len(self._names))
        names = [self._names[place] for place in order]
        self._dealt += sorted(names, key=lambda name: name in in_begun_step)
