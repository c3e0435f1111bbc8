"""The optimizer: memory of each parameter, rule, controller, and the optax transformation around them."""

from typing import Any

import jax

from learned_opt.config import FLTConfig
from learned_opt.optimizer.network import initial_meta_parameters


def untrained(config: FLTConfig | None = None, key: jax.Array | None = None) -> tuple[Any, FLTConfig]:
    """The hand-designed optimizer that meta-training starts from: (meta-parameters, config).

    Args:
      config: structure; the release's by default.
      key: draws the input layers of the networks, whose output layers start at zero.
    """
    config = config or FLTConfig()
    return initial_meta_parameters(config, key), config
