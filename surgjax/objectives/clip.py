"""Video and text in one space: captions near the clips they belong to (SurgCLIP, arXiv 2509.10555).

A video tower and a text tower, a map from each to the common space, and a temperature. The loss is
that of `contrastive.py`, over the whole global batch.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from surgjax import contrastive, masking
from surgjax.errors import UserError, nearest
from surgjax.models.layers import LayerNorm, Linear
from surgjax.models.surgclip import unit
from surgjax.models.text import TextTransformer
from surgjax.models.timesformer import TimeSformer
from surgjax.models.video_vit import VideoViT
from surgjax.objectives import mae

VIDEO = ("vit", "timesformer")
LOSSES = ("info_nce", "sigmoid")
TEMPERATURES = ("divisor", "log_scale")
FIRST_TEMPERATURE = 0.07  # of CLIP, VindLU and SurgCLIP
DIVISOR_BOUNDS = (0.001, 0.5)  # VindLU's and SurgCLIP's
MOST_LOG_SCALE = float(np.log(100))  # CLIP's
SIGMOID_START = (float(np.log(10)), -10.0)  # log scale and bias of SigLIP


class Objective(nnx.Module):
    """Contrastive video-text training.

    Args:
      frames, size: of the clips (square, pixels).
      encoder: arguments of the video tower; those that a TimeSformer does not have (positions,
        qkv_bias) are a "vit"'s.
      text: arguments of `TextTransformer`: family, vocab_size, length, width, depth, heads, ...
      tokenizer: folder or file with the text tower's vocabulary, or "captions" for word pieces of
        the training captions, as many as `text.vocab_size`; read where batches are made.
      tokens: ids a sentence is cut or padded to.
      video: "vit" (`VideoViT`, mean token) or "timesformer" (SurgCLIP's; a vector a frame, each of
        length 1, whose similarities are averaged).
      compat: "surgclip" gives the TimeSformer the released weights' computation.
      dim: of the common space.
      loss: "info_nce", or "sigmoid" with SigLIP's scale and bias.
      temperature: of info_nce: "divisor", learnt as it is within [0.001, 0.5] from 0.07 on
        (SurgCLIP), or "log_scale", at most ln 100 (CLIP).
      overlap: pairs of one video whose spans overlap are "masked", "positive" or "negative".
      dtype: of the computation; parameters, embeddings and loss are float32.

    Raises:
      UserError: a value that does not fit, naming the field.
    """

    samples = "captioned"
    ema_of = None
    make_teacher = None
    from_stores = None
    init_allow = ()

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        encoder: Mapping[str, Any],
        text: Mapping[str, Any],
        tokenizer: str = "",
        tokens: int = 77,
        video: str = "vit",
        compat: str = "",
        dim: int = 256,
        loss: str = "info_nce",
        temperature: str = "divisor",
        overlap: str = "masked",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        for field, value, known in (
            ("video", video, VIDEO),
            ("loss", loss, LOSSES),
            ("temperature", temperature, TEMPERATURES),
            ("overlap", overlap, contrastive.OVERLAPS),
        ):
            if value not in known:
                raise UserError(
                    f"objective.{field} is {value!r}{nearest(value, known)}; choose one of "
                    f"{', '.join(known)}"
                )
        if compat and video != "timesformer":
            raise UserError(
                f"objective.compat is {compat!r} and objective.video is {video!r}; only the "
                f"timesformer has a form of released weights"
            )
        if loss == "sigmoid" and temperature != "log_scale":
            raise UserError(
                "objective.loss=sigmoid learns a log scale and a bias; set "
                "objective.temperature=log_scale"
            )
        named = {"frames": frames, "image_size": size, "dtype": dtype, "rngs": rngs}
        if video == "vit":
            self.encoder = VideoViT(**named, **encoder)
        else:
            known = inspect.signature(TimeSformer.__init__).parameters
            given = {name: value for name, value in encoder.items() if name in known}
            self.encoder = TimeSformer(**named, **given, compat=compat)
            # Of the released weights; no similarity reads it.
            self.token_norm = LayerNorm(self.encoder.width, eps=1e-12, dtype=dtype, rngs=rngs)
        unroll = encoder.get("unroll", 1)
        self.text_encoder = TextTransformer(
            **{"unroll": unroll} | text_arguments(text), dtype=dtype, rngs=rngs
        )
        if not 0 < tokens <= self.text_encoder.length:
            raise UserError(
                f"objective.tokens is {tokens}; the text tower has positions for "
                f"{self.text_encoder.length}"
            )
        self.tokens = tokens
        self.video_projection = Linear(self.encoder.width, dim, dtype=dtype, rngs=rngs)
        # CLIP's own projection has no bias, so that its weights fit.
        bias = {"bias": None} if self.text_encoder.family == "clip" else {}
        self.text_projection = Linear(self.text_encoder.width, dim, dtype=dtype, rngs=rngs, **bias)
        self.video, self.loss_name, self.overlap = video, loss, overlap
        self.temperature_name = temperature
        if loss == "sigmoid":
            self.logit_scale = nnx.Param(jnp.float32(SIGMOID_START[0]))
            self.logit_bias = nnx.Param(jnp.float32(SIGMOID_START[1]))
        elif temperature == "log_scale":
            self.logit_scale = nnx.Param(jnp.float32(-np.log(FIRST_TEMPERATURE)))
        else:
            self.temperature = nnx.Param(jnp.float32(FIRST_TEMPERATURE))

    @property
    def batch_extras(self) -> dict[str, Any]:
        """Name -> (shape of a row, dtype), besides video and index."""
        tokens = {"tokens": ((self.tokens,), np.int32), "token_mask": ((self.tokens,), np.bool_)}
        pairs = {"caption": ((), np.int32), "recording": ((), np.int32), "span": ((2,), np.int32)}
        return tokens | pairs

    def loss(
        self, batch: Mapping[str, Array | np.ndarray], *, rng: jax.Array, teacher: Any = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """`compare` of `embed`: the loss of a batch that is embedded in one go."""
        return self.compare(self.embed(batch, rng=rng), batch)

    def embed(
        self, batch: Mapping[str, Array | np.ndarray], *, rng: jax.Array
    ) -> dict[str, Float[Array, "b e"]]:
        """{"video", "text"}: what the loss compares, a row at a time a function of that row alone.

        Args:
          batch: "video" uint8 (b t h w c), "tokens" (b n), "token_mask" (b n), "index" (b,).
          rng: the step's key, for drop path.
        """
        keys = [masking.sample_keys(key, batch["index"]) for key in jax.random.split(rng)]
        return {
            "video": self.encode_video(batch["video"], keys[0]),
            "text": self.encode_text(batch["tokens"], batch["token_mask"], keys[1]),
        }

    def compare(
        self,
        embeddings: Mapping[str, Float[Array, "b e"]],
        batch: Mapping[str, Array | np.ndarray],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss of the rows of a whole global batch, and scalars to log.

        Args:
          batch: "caption", "recording" and "span", see `contrastive.py`.
        """
        video, text = embeddings["video"], embeddings["text"]
        pairs = {name: jnp.asarray(batch[name]) for name in ("caption", "recording", "span")}
        scale = self.scale()
        if self.loss_name == "sigmoid":
            bias = self.logit_bias[...]
            loss = contrastive.sigmoid(video, text, scale, bias, pairs, overlap=self.overlap)
        else:
            loss = contrastive.info_nce(video, text, scale, pairs, overlap=self.overlap)
        return loss, {
            "loss": loss,
            "scale": scale,
            "similarity": (video * text).sum(axis=1).mean(),
            "same_video_rate": contrastive.same_video_rate(pairs["recording"]),
        }

    def scale(self) -> Float[Array, ""]:
        """Factor on similarities."""
        if self.temperature_name == "divisor":
            return 1 / held(self.temperature[...], *DIVISOR_BOUNDS)
        return jnp.exp(held(self.logit_scale[...], -np.inf, MOST_LOG_SCALE))

    def logits(self, similarity: Float[Array | np.ndarray, "b m"]) -> Float[Array, "b m"]:
        """Similarities times the scale, plus the bias of the sigmoid loss."""
        bias = self.logit_bias[...] if self.loss_name == "sigmoid" else 0.0
        return self.scale() * jnp.asarray(similarity) + bias

    def encode_video(
        self, video: UInt8[Array | np.ndarray, "b t h w c"], rng: jax.Array | None = None
    ) -> Float[Array, "b e"]:
        """Clips in the common space, float32. Of length 1, or the mean of such vectors, so that
        a product with a sentence is the mean of its similarities with the clip's frames.

        Args:
          rng: one key per sample for drop path, or None in evaluation.
        """
        return self.encode_pixels(self._normalised(video), rng)

    def encode_pixels(
        self, video: Float[Array | np.ndarray, "b t h w c"], rng: jax.Array | None = None
    ) -> Float[Array, "b e"]:
        """`encode_video` of clips that are normalised already, with `pixel_statistics`."""
        return unit(self.video_projection(self._pooled(video, rng))).mean(axis=1)

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of the channels, of pixels in [0, 1], that the tower wants gone."""
        if self.video == "timesformer":
            return (0.5,) * 3, (0.5,) * 3
        return tuple(mae.IMAGENET_MEAN.tolist()), tuple(mae.IMAGENET_STD.tolist())

    def encode_text(
        self,
        tokens: Int[Array | np.ndarray, "b n"],
        mask: Bool[Array | np.ndarray, "b n"],
        rng: jax.Array | None = None,
        *,
        context: Float[Array, "#b m d"] | None = None,
    ) -> Float[Array, "b e"]:
        """Sentences in the common space, of length 1, float32; `mask` is False for padding and
        `context` as in `TextTransformer`."""
        # CLIP's sentence ends before its padding, and SigLIP was trained to read it.
        seen = jnp.asarray(mask) if self.text_encoder.family == "bert" else None
        pooled = self.text_encoder.encode(jnp.asarray(tokens), seen, context=context, rng=rng)
        return unit(self.text_projection(pooled))

    def encode(self, video: UInt8[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b n d"]:
        """What the video tower says of whole clips before the projection, float32."""
        return self._pooled(self._normalised(video), None).astype(jnp.float32)

    def _normalised(self, video) -> Float[Array, "b t h w c"]:
        mean, std = (np.array(values, np.float32) for values in self.pixel_statistics)
        return jnp.asarray(video, jnp.float32) * (1 / (255 * std)) - mean / std

    def _pooled(self, video, rng: jax.Array | None) -> Float[Array, "b n d"]:
        """One vector a frame of the TimeSformer, one a clip of the ViT."""
        if self.video == "timesformer":
            return self.encoder.encode(video, rng)
        return self.encoder(video, rng=rng).mean(axis=1, keepdims=True)

    def flops_per_clip(self) -> float:
        """Useful floating-point operations of training on one pair: three times the forward pass.

        As in the masked autoencoder; of sentences all positions count.
        """
        encoder, text = self.encoder, self.text_encoder
        values, width = encoder.embed.kernel.shape
        times, places = encoder.grid[0], encoder.grid[1] * encoder.grid[2]
        forward = 2 * times * places * values * width
        if self.video == "vit":
            forward += mae.block_flops(encoder, times * places)
        else:
            forward += times * mae.block_flops(encoder, 1 + places)
            depth = encoder.blocks.time_out.kernel.shape[0]
            # Attention over a place's times, then one more linear map.
            forward += depth * places * times * (10 * width**2 + 4 * times * width)
        forward += mae.block_flops(text, self.tokens)
        dim = self.video_projection.kernel.shape[1]
        forward += 2 * dim * (width + text.width)
        return 3.0 * forward


def text_arguments(text: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `TextTransformer` that a config gives.

    Raises:
      UserError: no family, or an unknown field.
    """
    made = inspect.signature(TextTransformer.__init__).parameters
    known = [name for name in made if name not in ("self", "dtype", "rngs", "unroll")]
    for name in text:
        if name not in known:
            raise UserError(
                f"objective.text has no field {name!r}{nearest(name, known)}; choose from "
                f"{', '.join(known)}"
            )
    if "family" not in text:
        raise UserError("objective.text.family must be given: bert, clip or siglip")
    return dict(text)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def held(x: Float[Array, ""], low: float, high: float) -> Float[Array, ""]:
    """`x` within bounds. Outside them only a gradient that leads back comes through, where that of
    a plain clip is zero and would leave a value that overshot outside for good."""
    return jnp.clip(x, low, high)


def _held_forward(x, low, high):
    return held(x, low, high), x


def _held_backward(low, high, x, d_x):
    leads_out = ((x <= low) & (d_x > 0)) | ((x >= high) & (d_x < 0))  # descent goes against d_x
    return (jnp.where(leads_out, 0.0, d_x),)


held.defvjp(_held_forward, _held_backward)
