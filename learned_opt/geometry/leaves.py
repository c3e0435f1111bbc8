"""What names say of a leaf, before its shape is looked at."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax


def _matcher(pattern: str) -> Callable[[str], bool]:
    found = re.compile(pattern)
    return lambda name: found.search(name) is not None


_vector = _matcher(r"(?i:bias|scale|gain|gamma|beta|offset|shift)|^b(_|\d|$)")
_norm = _matcher(r"(?i)(norm|(^|_)ln)(_?\d+)*(_f)?$")
_matrix = _matcher(r"^(w|weights?|kernel|embeddings?)$|^weight_|^lora_")
_embedding = _matcher(
    r"(?i)embed|(^|[^a-z])(emb|wte|wpe)([^a-z]|$)"
    r"|^(tok(en)?s?|pos(ition(s|al)?)?|vocab(ulary)?|lookup|codebook)(_?(table|enc(oding)?s?))?$"
)
_head = _matcher(r"(?i)^(lm_?head|head|logits|classifier|readout|output_head|unembed\w*)$")
_read = _matcher(r"(?i)^(q|k|v|query|key|value|w[qkv]|[qkv]_proj|(query|key|value)_proj)$")
_write = _matcher(r"(?i)^(o|out|output|wo|o_proj|out_proj|output_proj)$")


@dataclass(frozen=True)
class Leaf:
    """A leaf as `auto` sees it.

    Attributes:
      names: the components of its path: keys, attributes, indices; a Haiku module's path is cut at slashes.
      shape: its shape.
      axes: the axes that are not yet known to be stacked.
      attribute: its last name is an attribute, as in Equinox, whose weights are (out, in, window...).
      stacked: the axes that are, outermost first.
      stacks: the names of the nodes that are stacked along them.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    attribute: bool = False
    stacked: tuple[int, ...] = ()
    stacks: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: tuple[Any, ...], shape: tuple[int, ...]) -> "Leaf":
        """The leaf at a path of JAX keys."""
        names = path_name(path).replace("~/", "").split("/")
        attribute = _is_attribute(path) and not _boxed(path)
        return cls(tuple(names), shape, tuple(range(len(shape))), attribute)

    def without(self, place: int, node: str) -> "Leaf":
        """This leaf, its `place`-th remaining axis known to be stacked."""
        axis, rest = self.axes[place], self.axes[:place] + self.axes[place + 1 :]
        return replace(self, axes=rest, stacked=(*self.stacked, axis), stacks=(*self.stacks, node))

    @property
    def rest(self) -> tuple[int, ...]:
        """Sizes of the axes that are not stacked."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def name(self) -> str:
        """The leaf's own name."""
        return self.names[-1]

    @property
    def owner(self) -> str:
        """The name of its module; its own where there is none."""
        return self.names[-2] if len(self.names) > 1 else self.name

    @property
    def is_vector(self) -> bool:
        """Named like a bias or a scale, or a parameter of a normalisation."""
        norm = _norm(self.name) or (_norm(self.owner) and self.name not in ("kernel", "w"))
        return norm or _vector(self.name)

    @property
    def is_matrix(self) -> bool:
        """Named like something with an input and an output."""
        return _matrix(self.name) and not self.is_vector

    @property
    def is_embedding(self) -> bool:
        """Named like a table; in Flax, a "kernel" is never one."""
        return not self.is_head and self.name != "kernel" and any(map(_embedding, self.names[-2:]))

    @property
    def is_head(self) -> bool:
        """Named like the last layer."""
        return any(map(_head, self.names[-2:]))

    @property
    def is_convolution(self) -> bool:
        """Named like one; or with a window as they have: odd in a module that is named so, or square."""
        names, rest = [name.lower() for name in self.names], self.rest
        if len(rest) < 3 or any("expert" in name for name in names):
            return False
        named, named_above = ("conv" in "/".join(some) for some in (names[-2:], names))
        odd = all(size % 2 == 1 and size <= 11 for size in self.window)
        few = all(size <= 16 for size in self.window) and rest[1 if self.attribute else -2] <= 4
        square = len(self.window) > 1 and len(set(self.window)) == 1
        return named or (named_above and odd) or (square and (odd or few))

    @property
    def window(self) -> tuple[int, ...]:
        """The axes of the window, if this is the kernel of a convolution."""
        return self.rest[2:] if self.attribute else self.rest[:-2]

    @property
    def reads(self) -> bool:
        """A query, key or value of attention."""
        return _read(self.name) or _read(self.owner)

    @property
    def writes(self) -> bool:
        """Named as attention's output is."""
        return _write(self.name) or _write(self.owner)


def path_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf in words, such as "layers/0/weight"."""
    return jax.tree_util.keystr(path[:-1] if _boxed(path) else path, simple=True, separator="/")


def _boxed(path: tuple[Any, ...]) -> bool:
    """Whether the last key leads into a box around one array, such as a variable of Flax."""
    return len(path) > 1 and _is_attribute(path) and path[-1].name in ("value", "raw_value")


def _is_attribute(path: tuple[Any, ...]) -> bool:
    return isinstance(path[-1], jax.tree_util.GetAttrKey) if path else False
