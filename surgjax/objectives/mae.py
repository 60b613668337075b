"""Tube-masked video autoencoding: predict the normalised pixels of hidden cubes (VideoMAE)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from surgjax import masking
from surgjax.errors import UserError
from surgjax.models.token_decoder import TokenDecoder
from surgjax.models.video_vit import VideoViT, normalised, size_of

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Objective(nnx.Module):
    """Masked autoencoder: a video transformer on the visible cubes, a narrow decoder for the rest.

    Args:
      frames, size: of the clips (square, pixels).
      encoder: arguments of `VideoViT`: size, positions, remat, drop_path, layer_norm_eps, ...
      mask_ratio: share of places hidden in every frame.
      decoder_depth, decoder_width, decoder_heads: by default those published for `encoder.size`.
      decode_fraction: share of the hidden cubes that are decoded, a fresh uniform subset each time
        (the idea of VideoMAE V2, arXiv 2303.16727, section 3.2); the loss stays an unbiased mean.
      decoder_norm_eps: of the decoder's final norm; 1e-5 is what the public PyTorch class has.
      decoder_embed_bias: a bias for the decoder's first map; the public PyTorch class has none.
      dtype: of the computation; parameters, targets and loss are float32.

    Raises:
      UserError: a value that does not fit, naming the field.
    """

    samples = "clips"
    ema_of = None
    make_teacher = None
    from_stores = None
    init_allow = ()
    batch_extras: Mapping[str, Any] = {}  # name -> (shape of a row, dtype), besides video and index

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        encoder: Mapping[str, Any],
        mask_ratio: float = 0.9,
        decoder_depth: int | None = None,
        decoder_width: int | None = None,
        decoder_heads: int | None = None,
        decode_fraction: float = 1.0,
        decoder_norm_eps: float = 1e-5,
        decoder_embed_bias: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.encoder = VideoViT(frames=frames, image_size=size, dtype=dtype, rngs=rngs, **encoder)
        self.mask_ratio = mask_ratio
        self.kept, self.hidden = masking.tube_counts(self.encoder.grid, mask_ratio)
        if not 0 < decode_fraction <= 1:
            raise UserError(
                f"objective.decode_fraction is {decode_fraction}; choose above 0, at most 1"
            )
        self.decoded = max(1, round(decode_fraction * self.hidden))
        self.decoder = decoder_of(
            self.encoder,
            encoder,
            self.encoder.embed.kernel.shape[0],
            depth=decoder_depth,
            width=decoder_width,
            heads=decoder_heads,
            norm_eps=decoder_norm_eps,
            embed_bias=decoder_embed_bias,
            dtype=dtype,
            rngs=rngs,
        )

    def loss(
        self, batch: Mapping[str, Array | np.ndarray], *, rng: jax.Array, teacher: Any = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean squared error of the decoded cubes' normalised pixels, and scalars to log.

        Args:
          batch: "video" uint8 (b t h w c), "index" (b,) global sample indices.
          rng: the step's key; a sample's mask depends on it and on the sample's index alone.
        """
        mask_rng, subset_rng, drop_rng = jax.random.split(rng, 3)
        cubes = self.encoder.tubelets(batch["video"])
        keep, hidden = masking.tube(mask_rng, batch["index"], self.encoder.grid, self.mask_ratio)
        if self.decoded < self.hidden:
            hidden = masking.subset(subset_rng, batch["index"], hidden, self.decoded)
        prediction = self.predict(
            cubes, keep, hidden, rng=masking.sample_keys(drop_rng, batch["index"])
        )
        target, _, _ = normalised_pixels(masking.gather(cubes, hidden))
        loss = jnp.square(prediction - target).mean()
        return loss, {"loss": loss}

    def predict(
        self,
        cubes: UInt8[Array | np.ndarray, "b n values"],
        keep: Int[Array, "b k"],
        hidden: Int[Array, "b m"],
        *,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b m values"]:
        """The decoder's output for the cubes at `hidden`, seeing only those at `keep`; float32."""
        tokens = self.encode_visible(cubes, keep, rng=rng)
        return self.decoder(tokens, keep, hidden, rng).astype(jnp.float32)

    def encode_visible(
        self,
        cubes: UInt8[Array | np.ndarray, "b n values"],
        keep: Int[Array, "b k"],
        *,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b k d"]:
        """The encoder's tokens of the cubes at `keep`, the only ones it sees."""
        visible = standardise(masking.gather(cubes, keep))
        return self.encoder.encode_tubelets(visible, keep, rng)

    def encode(self, video: UInt8[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b n d"]:
        """Final tokens of whole clips, float32."""
        cubes = standardise(self.encoder.tubelets(video))
        return self.encoder.encode_tubelets(cubes).astype(jnp.float32)

    def reconstruct(
        self, batch: Mapping[str, Array | np.ndarray], rng: jax.Array
    ) -> dict[str, Array]:
        """What pictures need: every hidden cube predicted, whatever `decode_fraction`.

        Returns:
          masked (b m) positions; prediction and target (b m values), normalised as in the loss;
          mean and std (b m 3): pixels in [0, 1] are value * std + mean, channel by channel.
        """
        mask_rng = jax.random.split(rng, 3)[0]
        cubes = self.encoder.tubelets(batch["video"])
        keep, hidden = masking.tube(mask_rng, batch["index"], self.encoder.grid, self.mask_ratio)
        target, mean, std = normalised_pixels(masking.gather(cubes, hidden))
        prediction = self.predict(cubes, keep, hidden)
        return {
            "masked": hidden,
            "prediction": prediction,
            "target": target,
            "mean": mean,
            "std": std,
        }

    def flops_per_clip(self) -> float:
        """Useful floating-point operations of training on one clip: three times the forward pass.

        Matrix products alone, a multiply-add is two; recomputation does not count. The embedding
        counts for all cubes, as published tables have it, although only visible ones are embedded.
        """
        encoder = self.encoder
        values, width = encoder.embed.kernel.shape
        tokens = encoder.grid[0] * encoder.grid[1] * encoder.grid[2]
        forward = 2 * tokens * values * width + block_flops(encoder, self.kept)
        return 3.0 * (forward + decoder_flops(self.decoder, self.kept, self.decoded))


def decoder_of(
    encoder: VideoViT,
    arguments: Mapping[str, Any],
    outputs: int,
    *,
    depth: int | None,
    width: int | None,
    heads: int | None,
    norm_eps: float,
    embed_bias: bool,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> TokenDecoder:
    """A decoder on `encoder` that shares its `arguments`; sizes left None are the published ones.

    Raises:
      UserError: heads are needed for this width and not given.
    """
    published = size_of(arguments["size"])
    width = width or published.decoder_width
    names = ("positions", "layer_norm_eps", "remat", "unroll", "drop_path")
    return TokenDecoder(
        encoder.width,
        outputs,
        width=width,
        depth=depth or published.decoder_depth,
        heads=heads or heads_for(width, published.decoder_width, published.decoder_heads),
        grid=encoder.grid,
        norm_eps=norm_eps,
        embed_bias=embed_bias,
        dtype=dtype,
        rngs=rngs,
        **{name: arguments[name] for name in names if name in arguments},
    )


def block_flops(module: nnx.Module, tokens: int) -> int:
    """Operations of a network's blocks on so many tokens, forward."""
    depth, width, _ = module.blocks.attention.out.kernel.shape
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)


def decoder_flops(decoder: TokenDecoder, kept: int, decoded: int) -> int:
    """Operations of a decoder from its embedding to its predictions, forward."""
    inputs, width = decoder.embed.kernel.shape
    outputs = decoder.head.kernel.shape[1]
    blocks = block_flops(decoder, kept + decoded)
    return 2 * kept * inputs * width + blocks + 2 * decoded * width * outputs


def heads_for(width: int, published_width: int, published_heads: int) -> int:
    """Heads of the published decoder, or heads of 64 channels at another width.

    Raises:
      UserError: 64 does not divide the width.
    """
    if width == published_width:
        return published_heads
    if width % 64:
        raise UserError(
            f"objective.decoder_width is {width}, no multiple of 64; "
            "set objective.decoder_heads too"
        )
    return width // 64


def standardise(
    cubes: UInt8[Array | np.ndarray, "b n values"],
    mean: Float[np.ndarray, "3"] = IMAGENET_MEAN,
    std: Float[np.ndarray, "3"] = IMAGENET_STD,
) -> Float[Array, "b n values"]:
    """uint8 pixels, channel last, with mean and deviation (of pixels in [0, 1]) taken out; float32.

    Both are ImageNet's by default.
    """
    channels = cubes.shape[-1] // 3
    scale = np.tile(1 / (255 * std), channels).astype(np.float32)
    offset = np.tile(mean / std, channels).astype(np.float32)
    return jnp.asarray(cubes, jnp.float32) * scale - offset


def normalised_pixels(
    cubes: UInt8[Array | np.ndarray, "b m values"],
) -> tuple[Float[Array, "b m values"], Float[Array, "b m 3"], Float[Array, "b m 3"]]:
    """`video_vit.normalised` of uint8 cubes; mean and divisor are of pixels in [0, 1]."""
    return normalised(jnp.asarray(cubes, jnp.float32) / 255)
