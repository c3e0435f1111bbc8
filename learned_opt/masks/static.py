"""NumPy arrays as static metadata."""

import functools
import hashlib

import numpy as np
from numpy.typing import ArrayLike


class Fixed:
    """A read-only NumPy array that is compared and hashed by its content.

    JAX wants static metadata hashable, and refuses gradients with respect to integer leaves: so the index
    arrays of trees and graphs are kept like this.

    Args:
      values: anything that `np.asarray` takes; it is copied.

    Example:
      >>> from learned_opt.masks.static import Fixed
      >>> Fixed([1, 2]) == Fixed([1, 2]), Fixed([1, 2]) == Fixed([1, 3]), Fixed([[1, 2]]).array.shape
      (True, False, (1, 2))
    """

    def __init__(self, values: ArrayLike):
        self.array = np.array(values)
        self.array.setflags(write=False)

    @functools.cached_property
    def _digest(self) -> bytes:
        head = f"{self.array.dtype.str}{self.array.shape}".encode()
        return hashlib.blake2b(head + self.array.tobytes(), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Fixed) and self._digest == other._digest)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Fixed({self.array.dtype}{list(self.array.shape)})"
