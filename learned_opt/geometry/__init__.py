"""What the leaves of a parameter tree are: which axes are stacked, which are inputs, which are outputs.

`layout` describes one leaf, `auto` finds the description from names and shapes (`leaves` reads the names,
`stacking` finds axes that enumerate layers), `traced` from what a program does with the parameters (`program`
reads it, `primitives` knows its operations), `resolve` takes it from the user, and `table` shows it.
"""

from learned_opt.geometry.auto import auto
from learned_opt.geometry.distances import tree_distances
from learned_opt.geometry.layout import Geometry
from learned_opt.geometry.resolve import GeometryFn, GeometryLike, resolve
from learned_opt.geometry.table import describe
from learned_opt.geometry.traced import geometry_of

__all__ = [
    "Geometry",
    "GeometryFn",
    "GeometryLike",
    "auto",
    "describe",
    "geometry_of",
    "resolve",
    "tree_distances",
]
