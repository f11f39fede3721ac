"""CLIP's text encoder, a causal transformer (Radford et al. 2021, arXiv 2103.00020, section 2.4)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdd.ground.errors import InputError
from jaxdd.ground.promotion import standard
from jaxdd.ground.settings import CHANNELS, LAYERS, SHARE, Bounds, bounded
from jaxdd.nn.classifier import Variables

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "gelu": partial(nn.gelu, approximate=False),
}


@dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes, with the field names of published JSON files; the defaults are CLIP ViT-L/14 (Stable Diffusion v1)."""

    vocab_size: int = bounded(49408, Bounds(1, 10**6))
    hidden_size: int = bounded(768, CHANNELS)
    intermediate_size: int = bounded(3072, Bounds(1, 2**15))
    num_hidden_layers: int = bounded(12, LAYERS)
    num_attention_heads: int = bounded(12, Bounds(1, 256))
    max_position_embeddings: int = bounded(77, Bounds(1, 2**12))
    hidden_act: str = "quick_gelu"
    """"quick_gelu", x sigmoid(1.702 x), or "gelu"."""
    layer_norm_eps: float = bounded(1e-5, SHARE)


class TextEncoder(NamedTuple):
    """Pure functions of tokens.

    Attributes:
      init: key -> variables.
      apply: (variables, tokens int [N, L]) -> float32 [N, L, hidden_size], the last hidden states after the last
        LayerNorm, to which Stable Diffusion attends. L is at most ``max_position_embeddings``. Attention is causal, and
        padding is not masked.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[[Variables, jax.Array], jax.Array]


@cache
def text_encoder(config: CLIPTextConfig, dtype: jnp.dtype | None = None) -> TextEncoder:
    """The text encoder of these sizes; ``dtype`` is the dtype of activations, and parameters are float32.

    Raises:
      InputError: an unknown activation, or heads that do not divide the width; at ``apply``, too many tokens.
    """
    if config.hidden_act not in _ACTIVATIONS:
        raise InputError(f"unknown hidden_act {config.hidden_act!r} of CLIP; use {' or '.join(_ACTIVATIONS)}")
    if config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"hidden_size {config.hidden_size} of CLIP does not divide into {config.num_attention_heads} heads"
            " (num_attention_heads); change either"
        )
    module = CLIPText(config, dtype)

    def init(key):
        return standard(jax.jit(module.init))(key, jnp.zeros((1, config.max_position_embeddings), jnp.int32))

    def apply(variables, tokens):
        if tokens.shape[1] > config.max_position_embeddings:
            raise InputError(f"{tokens.shape[1]} tokens: CLIP reads {config.max_position_embeddings}; cut the text")
        return standard(module.apply)(variables, tokens)

    return TextEncoder(init, apply)


class CLIPText(nn.Module):
    """Tokens int [N, L] -> hidden states float32 [N, L, hidden_size]."""

    config: CLIPTextConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        embed = partial(nn.Embed, features=c.hidden_size, dtype=self.dtype, embedding_init=nn.initializers.normal(0.02))
        x = embed(c.vocab_size, name="text_model.embeddings.token_embedding")(tokens)
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        x += embed(c.max_position_embeddings, name="text_model.embeddings.position_embedding")(positions)
        for i in range(c.num_hidden_layers):
            x = Layer(c, self.dtype, name=f"text_model.encoder.layers.{i}")(x)
        norm = nn.LayerNorm(epsilon=c.layer_norm_eps, dtype=self.dtype, name="text_model.final_layer_norm")
        return norm(x).astype(jnp.float32)


class Layer(nn.Module):
    """Causal self-attention, then an MLP, each after a LayerNorm and with a shortcut."""

    config: CLIPTextConfig
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        dense = partial(nn.Dense, dtype=self.dtype)
        norm = partial(nn.LayerNorm, epsilon=c.layer_norm_eps, dtype=self.dtype)
        y = norm(name="layer_norm1")(x)
        q, k, v = (
            dense(c.hidden_size, name=f"self_attn.{name}_proj")(y).reshape(*x.shape[:2], c.num_attention_heads, -1)
            for name in "qkv"
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        x += dense(c.hidden_size, name="self_attn.out_proj")(y)
        y = dense(c.intermediate_size, name="mlp.fc1")(norm(name="layer_norm2")(x))
        return x + dense(c.hidden_size, name="mlp.fc2")(_ACTIVATIONS[c.hidden_act](y))
