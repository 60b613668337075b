"""SurgCLIP: a video and a text tower with one space, as in the package `surgclip` 0.1.0."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from surgjax.models.layers import LayerNorm, Linear
from surgjax.models.text import TextTransformer
from surgjax.models.timesformer import TimeSformer


class SurgCLIP(nnx.Module):
    """TimeSformer and BERT, a map from each to the common space, and a temperature.

    Args:
      frames, image_size: of the clips, which are square.
      encoder: arguments of `TimeSformer`; the released weights need compat="surgclip".
      text: arguments of `TextTransformer`.
      dim: of the common space.
      temperature: what similarities are divided by, at the start; learnt as it is, not as a
        logarithm.
      dtype: of the computation; parameters are float32.
    """

    def __init__(
        self,
        *,
        frames: int = 16,
        image_size: int = 224,
        encoder: Mapping[str, Any],
        text: Mapping[str, Any],
        dim: int = 256,
        temperature: float = 0.07,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.encoder = TimeSformer(
            frames=frames, image_size=image_size, dtype=dtype, rngs=rngs, **encoder
        )
        self.text_encoder = TextTransformer(dtype=dtype, rngs=rngs, **text)
        # Of the tokens alone, which no similarity reads.
        self.token_norm = LayerNorm(self.encoder.width, eps=1e-12, dtype=dtype, rngs=rngs)
        self.video_projection = Linear(self.encoder.width, dim, dtype=dtype, rngs=rngs)
        self.text_projection = Linear(self.text_encoder.width, dim, dtype=dtype, rngs=rngs)
        self.temperature = nnx.Param(jnp.float32(temperature))

    def encode_video(
        self, video: Shaped[Array | np.ndarray, "b t h w c"], rng: jax.Array | None = None
    ) -> Float[Array, "b t e"]:
        """One vector of length 1 for each of a normalised clip's steps; float32."""
        return self.project_video(self.encoder.encode(video, rng))

    def encode_text(
        self,
        ids: Int[Array, "b n"],
        mask: Bool[Array, "b n"] | None = None,
        *,
        context: Float[Array, "#b m d"] | None = None,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b e"]:
        """One vector of length 1 a sentence; `mask` is False for padding and `context` as in
        `TextTransformer`; float32."""
        return self.project_text(self.text_encoder.encode(ids, mask, context=context, rng=rng))

    def project_video(self, pooled: Float[Array, "b t d"]) -> Float[Array, "b t e"]:
        """Steps of the video tower in the common space."""
        return unit(self.video_projection(pooled))

    def project_text(self, pooled: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """Sentences of the text tower in the common space."""
        return unit(self.text_projection(pooled))

    def similarity(
        self, video: Float[Array, "b t e"], text: Float[Array, "m e"]
    ) -> Float[Array, "b m"]:
        """Mean cosine of a clip's steps with each sentence, divided by the temperature."""
        return jnp.einsum("bte,me->bm", video, text) / video.shape[1] / self.temperature[...]


def unit(x: Float[Array, "*b e"], eps: float = 1e-12) -> Float[Array, "*b e"]:
    """Vectors of length 1, in float32; shorter ones than `eps` are divided by it."""
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, eps**2))
