"""What "auto" takes real models for: golden tables in `described/`, each row checked by hand.

`python tests/learned_opt/test_described.py NAME` prints the table of a model.
"""

import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from learned_opt import describe

WIDTH, HEADS, WORDS, LAYERS, EXPERTS = 32, 4, 100, 6, 5
KEY = jax.random.key(0)
TOKENS = jax.ShapeDtypeStruct((2, 10), jnp.int32)


class LinenBlock(nn.Module):
    experts: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS)(nn.LayerNorm()(x))
        y = nn.LayerNorm()(x)
        if self.experts:
            share = nn.softmax(nn.Dense(self.experts, use_bias=False, name="router")(y))
            axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            experts = nn.vmap(LinenMLP, in_axes=None, out_axes=-1, axis_size=self.experts, **axes)
            return x + jnp.einsum("...e,...de->...d", share, experts(name="mlp")(y)), None
        return x + LinenMLP()(y), None


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(WIDTH)(nn.gelu(nn.Dense(2 * WIDTH)(x)))


class LinenTransformer(nn.Module):
    scan: bool = False
    axis: int = 0
    experts: int = 0

    @nn.compact
    def __call__(self, words: jax.Array) -> jax.Array:
        x = nn.Embed(WORDS, WIDTH)(words) + self.param("pos_embedding", nn.initializers.zeros, (1, 10, WIDTH))
        block = LinenBlock
        if self.scan:
            axes = {"variable_axes": {"params": self.axis}, "split_rngs": {"params": True}}
            block = nn.scan(LinenBlock, length=LAYERS, **axes)
        x, _ = block(experts=self.experts)(x, None)
        return nn.Dense(WORDS, name="lm_head")(nn.LayerNorm()(x))


def linen(**options: Any) -> Any:
    return jax.eval_shape(LinenTransformer(**options).init, KEY, TOKENS)["params"]


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, rank: int = 0):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        if rank:
            self.down = nnx.LoRALinear(2 * WIDTH, WIDTH, lora_rank=rank, rngs=rngs)
        else:
            self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)


class NnxTransformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, rank: int = 0):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.first = NnxBlock(rngs, rank)
        repeated = nnx.split_rngs(splits=LAYERS)(nnx.vmap(lambda rngs: NnxBlock(rngs, rank)))
        self.blocks = repeated(rngs)
        self.head = nnx.Linear(WIDTH, WORDS, rngs=rngs)


def nnx_transformer(rank: int = 0) -> Any:
    return nnx.state(nnx.eval_shape(lambda: NnxTransformer(nnx.Rngs(0), rank)), nnx.Param)


def haiku_transformer() -> Any:
    def block(x: jax.Array) -> jax.Array:
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=hk.initializers.Constant(0.0))(y, y, y)
        return x + hk.Linear(WIDTH)(jax.nn.gelu(hk.Linear(2 * WIDTH)(x)))

    def network(words: jax.Array) -> jax.Array:
        x = block(hk.Embed(WORDS, WIDTH)(words))
        x = hk.experimental.layer_stack(LAYERS)(block)(x)
        return hk.Linear(WORDS, name="lm_head")(x)

    return jax.eval_shape(hk.transform(network).init, KEY, TOKENS)


def haiku_resnet() -> Any:
    def network(x: jax.Array) -> jax.Array:
        options = {"blocks_per_group": (1,) * 4, "channels_per_group": (16, 16, 32, 32), "num_classes": 10}
        return hk.nets.ResNet(bottleneck=True, **options)(x, is_training=True)

    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    return jax.eval_shape(hk.transform_with_state(network).init, KEY, image)[0]


class EquinoxVision(eqx.Module):
    stem: eqx.nn.Conv2d
    mixer: eqx.nn.Conv1d
    embedding: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    layers: eqx.nn.MultiheadAttention
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self) -> None:
        self.stem = eqx.nn.Conv2d(3, WIDTH, 4, key=KEY)
        self.mixer = eqx.nn.Conv1d(WIDTH, WIDTH, 5, key=KEY)
        self.embedding = eqx.nn.Embedding(WORDS, WIDTH, key=KEY)
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, use_output_bias=True, key=KEY)
        keys = jax.random.split(KEY, LAYERS)
        self.layers = eqx.filter_vmap(lambda key: eqx.nn.MultiheadAttention(HEADS, WIDTH, key=key))(keys)
        self.cell = eqx.nn.GRUCell(WIDTH, 2 * WIDTH, key=KEY)
        self.head = eqx.nn.Linear(WIDTH, WORDS, key=KEY)


def equinox(make: Any) -> Any:
    return eqx.filter(eqx.filter_eval_shape(make), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))


MODELS = {
    "linen_transformer": linen,
    "linen_scanned": lambda: linen(scan=True),
    "linen_scanned_along_axis_1": lambda: linen(scan=True, axis=1),
    "linen_experts": lambda: linen(experts=EXPERTS),
    "linen_scanned_experts": lambda: linen(scan=True, experts=EXPERTS),
    "nnx_transformer": nnx_transformer,
    "nnx_lora": lambda: nnx_transformer(rank=4),
    "haiku_transformer": haiku_transformer,
    "haiku_resnet": haiku_resnet,
    "equinox_mlp": lambda: equinox(lambda: eqx.nn.MLP(2, 3, 16, 2, key=KEY)),
    "equinox_attention": lambda: equinox(EquinoxVision),
}


@pytest.mark.parametrize("name", MODELS)
def test_auto_is_right_about_every_leaf(name: str) -> None:
    golden = Path(__file__).parent / "described" / f"{name}.txt"
    assert describe(MODELS[name]()) + "\n" == golden.read_text()


if __name__ == "__main__":
    print(describe(MODELS[sys.argv[1]]()))
