"""An image transformer as its public classes hold it: pictures in, tokens and their summary out."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros
from jaxtyping import Array, Bool, Float, Int

from surgjax.models.image_vit import ImageViT
from surgjax.models.layers import Linear
from surgjax.models.video_vit import tubelets


class ImageModel(nnx.Module):
    """`ImageViT` with what public classes have around it.

    Args:
      encoder: arguments of `ImageViT`.
      mask_token: shape of the token that stands for masked patches; None without one.
      pooler: outputs of a map with tanh on the class token (ViT); None without one.
      is_pooled: the class token itself is the summary (DINOv2, DINOv3).
      classes: of a linear head on the class token; None without one.
      head_sees_mean: that head is given the mean of the patches too (DINOv2).
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        *,
        mask_token: tuple[int, ...] | None = None,
        pooler: int | None = None,
        is_pooled: bool = False,
        classes: int | None = None,
        head_sees_mean: bool = False,
        rngs: nnx.Rngs,
    ):
        self.image_encoder = ImageViT(**encoder, rngs=rngs)
        width = self.image_encoder.width
        if mask_token is not None:
            self.mask_token = nnx.Param(zeros(rngs.params(), mask_token, jnp.float32))
        if pooler is not None:
            self.image_pooler = Linear(width, pooler, rngs=rngs)
        if classes is not None:
            self.head = Linear((1 + head_sees_mean) * width, classes, rngs=rngs)
        self.has_pooler, self.is_pooled = pooler is not None, is_pooled
        self.has_head, self.head_sees = classes is not None, 1 + head_sees_mean

    def tokens(
        self,
        pixel_values: Float[Array, "b h w c"],
        masked: Bool[Array, "b n"] | None = None,
        keep: Int[Array, "b k"] | None = None,
    ) -> Float[Array, "b _ d"]:
        """Tokens of normalised pictures.

        Args:
          masked: where the mask token takes a patch's place.
          keep: the patches that are seen, in that order; None for all.
        """
        encoder = self.image_encoder
        grid = tuple(side // encoder.patch for side in pixel_values.shape[1:3])
        x = encoder.embed(tubelets(pixel_values[:, None], (1, encoder.patch, encoder.patch)))
        if masked is not None:
            x = jnp.where(masked[:, :, None], self.mask_token[...].reshape(1, 1, -1), x)
        return encoder.encode(x, grid, keep)

    def outputs(self, tokens: Float[Array, "b n d"]) -> dict[str, Array]:
        """Under the public names: logits of a classifier, or the tokens and their summary."""
        first = tokens[:, 0]
        if self.has_head:
            mean = tokens[:, self.image_encoder.prefix :].mean(axis=1)
            return {"logits": self.head(jnp.concatenate([first, mean][: self.head_sees], axis=-1))}
        out = {"last_hidden_state": tokens}
        if self.has_pooler:
            out["pooler_output"] = jnp.tanh(self.image_pooler(first))
        elif self.is_pooled:
            out["pooler_output"] = first
        return out
