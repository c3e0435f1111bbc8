"""Which subtrees of the parameters are stacked: modules under scan or vmap, experts, ensembles."""

import re
from collections import defaultdict
from itertools import takewhile

from learned_opt.geometry.leaves import Leaf

_LAYER_NAMES = "scan|stack|repeat|(layers|blocks)$|^h$"
_LAYERS = re.compile(f"(?i){_LAYER_NAMES}")
_STACK = re.compile(f"(?i)vmap|ensemble|expert|{_LAYER_NAMES}")


def unstack(leaves: dict[int, Leaf], depth: int = 0) -> dict[int, Leaf]:
    """Takes the stacked axes off the leaves of a subtree, outermost first.

    Args:
      leaves: those that share their first `depth` names, by their place in the tree.
      depth: where the subtree begins.
    """
    if len(leaves) < 2:
        return leaves
    node = next(iter(leaves.values())).names[depth - 1] if depth else ""
    while (axis := _stacked_axis(list(leaves.values()), node, depth)) is not None:
        leaves = {place: leaf.without(axis, node) for place, leaf in leaves.items()}
    children: dict[str, dict[int, Leaf]] = defaultdict(dict)
    for place, leaf in leaves.items():
        children[leaf.names[depth] if len(leaf.names) > depth + 1 else ""][place] = leaf
    direct = children.pop("", {})
    return direct | {
        place: leaf for child in children.values() for place, leaf in unstack(child, depth + 1).items()
    }


def is_ensemble(leaves: list[Leaf]) -> bool:
    """Whether all leaves are stacked along one axis, and not under a name that layers have."""
    if not all(leaf.stacked for leaf in leaves):
        return False
    common = zip(*(leaf.names[:-1] for leaf in leaves), strict=False)
    names = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, common)]
    sizes = {(leaf.stacks[0], leaf.shape[leaf.stacked[0]]) for leaf in leaves}
    return len(sizes) == 1 and not any(map(_LAYERS.search, names))


def _stacked_axis(leaves: list[Leaf], node: str, depth: int) -> int | None:
    """The axis along which all of these leaves are stacked, if there is one.

    They must have it in common, and keep what their names promise without it. Evidence is a vector with an
    axis too many, a telling name, or that there are matrices only and each has an axis too many. The second
    axis needs both of the former.
    """
    children = {leaf.names[depth] for leaf in leaves}
    named = _STACK.search(node) is not None and not any(child.isdecimal() for child in children)
    vector = any(leaf.is_vector and _rank(leaf) > 1 + leaf.reads for leaf in leaves)
    large = not any(leaf.is_convolution and len(leaf.rest) < 5 for leaf in leaves)
    evidence = (
        vector
        or (named and large and any(len(leaf.rest) > 2 for leaf in leaves))
        or (large and all(len(leaf.rest) > 2 for leaf in leaves)),
        vector and named,
    )
    for axis, enough in enumerate(evidence):
        if enough and all(len(leaf.rest) > max(axis, 2 * leaf.is_matrix) for leaf in leaves):
            sizes = {leaf.rest[axis] for leaf in leaves}
            if len(sizes) == 1 and sizes != {1}:
                return axis
    return None


def _rank(leaf: Leaf) -> int:
    """Number of axes longer than one."""
    return sum(size > 1 for size in leaf.rest)
