"""Masked video autoencoding with an image teacher (SurgVISTA, npj Digital Medicine 2025).

The autoencoder of VideoMAE with a second decoder, which predicts the frozen teacher's features of
the hidden places; the encoder learns from both.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from surgjax import masking
from surgjax.errors import UserError, nearest
from surgjax.models.image_vit import ImageViT, dimensions
from surgjax.models.video_vit import VideoViT, tubelets
from surgjax.objectives import mae

PUBLISHED_TEACHER = "L"  # EndoSSL's


class Objective(mae.Objective):
    """One video encoder, a pixel decoder and a feature decoder (Methods, "Pre-training").

    Args:
      frames, size, encoder, mask_ratio, decoder_depth: as in the masked autoencoder.
      feature_decoder_depth: blocks of the second decoder.
      pixel_weight, feature_weight: of the two losses.
      beta: where the smooth L1 loss turns from a parabola into a line.
      normalise_features: layer norm without parameters on the targets: "yes", "no", or "auto". The
        published weight of 0.05 belongs to the raw scale of a teacher read without a final norm;
        "auto" normalises those of a teacher that is read after one (DINOv2, DINOv3).
      teacher: of the frozen network: arguments of `ImageViT`, where empty and 0 mean its default;
        weights, a file or folder, or "random" for a network drawn from the seed; resample, frames
        resized where its patch is another; mean and std of the pixels it was trained on, by default
        ImageNet's; final_norm, "yes", "no", or "auto": of a network with layer scale (DINOv2,
        DINOv3), as these are read, others without, as in the paper.

    Raises:
      UserError: a value that does not fit, naming the field.
    """

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        encoder: Mapping[str, Any],
        teacher: Mapping[str, Any],
        mask_ratio: float = 0.85,
        decoder_depth: int | None = None,
        feature_decoder_depth: int = 2,
        pixel_weight: float = 1.0,
        feature_weight: float = 0.05,
        beta: float = 1.0,
        normalise_features: str = "auto",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            frames=frames,
            size=size,
            encoder=encoder,
            mask_ratio=mask_ratio,
            decoder_depth=decoder_depth,
            decoder_norm_eps=encoder.get("layer_norm_eps", 1e-6),
            decoder_embed_bias=True,
            dtype=dtype,
            rngs=rngs,
        )
        if beta <= 0:
            raise UserError(f"objective.beta is {beta}; choose above 0")
        self.weights, self.beta = (pixel_weight, feature_weight), beta
        arguments = teacher_arguments(teacher, self.encoder)
        self.teacher = tuple(sorted(arguments.items()))
        self.teacher_mean = three_numbers(teacher, "mean", mae.IMAGENET_MEAN)
        self.teacher_std = three_numbers(teacher, "std", mae.IMAGENET_STD)
        self.normalise_features = chosen(
            "objective.normalise_features", normalise_features, auto=arguments["final_norm"]
        )
        self.feature_decoder = mae.decoder_of(
            self.encoder,
            encoder,
            dimensions(arguments["size"])[0],
            depth=feature_decoder_depth,
            width=None,
            heads=None,
            norm_eps=self.decoder.norm.eps,
            embed_bias=True,
            dtype=dtype,
            rngs=rngs,
        )

    def make_teacher(self, rngs: nnx.Rngs) -> ImageViT:
        """The frozen network, without the weights it is meant to have."""
        return ImageViT(
            **dict(self.teacher), unroll=self.encoder.unroll, dtype=self.encoder.dtype, rngs=rngs
        )

    def loss(
        self, batch: Mapping[str, Array | np.ndarray], *, rng: jax.Array, teacher: ImageViT
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Weighted sum of both losses, each a mean over the hidden tokens, and scalars to log.

        Args:
          batch: "video" uint8 (b t h w c), "index" (b,) global sample indices.
          rng: the step's key; a sample's mask depends on it and on the sample's index alone.
          teacher: what `make_teacher` makes, with its weights.
        """
        mask_rng, drop_rng = jax.random.split(rng)
        cubes = self.encoder.tubelets(batch["video"])
        keep, hidden = masking.tube(mask_rng, batch["index"], self.encoder.grid, self.mask_ratio)
        keys = masking.sample_keys(drop_rng, batch["index"])
        tokens = self.encode_visible(cubes, keep, rng=keys)
        pixels = self.decoder(tokens, keep, hidden, keys).astype(jnp.float32)
        features = self.feature_decoder(tokens, keep, hidden, keys).astype(jnp.float32)
        target, _, _ = mae.normalised_pixels(masking.gather(cubes, hidden))
        taught = masking.gather(self.features(teacher, batch["video"]), hidden)
        pixel_loss = jnp.square(pixels - target).mean()
        feature_loss = smooth_l1(features - taught, self.beta).mean()
        loss = self.weights[0] * pixel_loss + self.weights[1] * feature_loss
        return loss, {"loss": loss, "pixel_loss": pixel_loss, "feature_loss": feature_loss}

    def features(
        self, teacher: ImageViT, video: UInt8[Array | np.ndarray, "b t h w c"]
    ) -> Float[Array, "b n d"]:
        """The teacher's patch tokens of the first frame of every tubelet, in our token order."""
        time, height, width = self.encoder.grid
        frames = video[:, :: self.encoder.patch[0]]
        frames = frames.reshape(-1, 1, *frames.shape[2:])
        if teacher.patch != self.encoder.patch[1]:
            sides = height * teacher.patch, width * teacher.patch
            shape = (*frames.shape[:2], *sides, 3)
            resized = jax.image.resize(frames.astype(jnp.float32), shape, "bilinear")
            frames = jnp.round(resized).astype(jnp.uint8)
        mean, std = (np.float32(x) for x in (self.teacher_mean, self.teacher_std))
        patches = mae.standardise(tubelets(frames, (1, teacher.patch, teacher.patch)), mean, std)
        tokens = teacher(patches, (height, width))[:, teacher.prefix :].astype(jnp.float32)
        tokens = tokens.reshape(len(video), time * height * width, -1)
        if self.normalise_features:
            tokens = tokens - tokens.mean(axis=-1, keepdims=True)
            tokens *= jax.lax.rsqrt(jnp.square(tokens).mean(axis=-1, keepdims=True) + 1e-6)
        return tokens

    def flops_per_clip(self) -> float:
        """As in the masked autoencoder, with the second decoder; the teacher runs forward only."""
        teacher = nnx.eval_shape(lambda: self.make_teacher(nnx.Rngs(0)))
        feature_decoder = mae.decoder_flops(self.feature_decoder, self.kept, self.hidden)
        picture = picture_flops(teacher, self.encoder.grid[1] * self.encoder.grid[2])
        return super().flops_per_clip() + 3.0 * feature_decoder + self.encoder.grid[0] * picture


def teacher_arguments(teacher: Mapping[str, Any], encoder: VideoViT) -> dict[str, Any]:
    """Arguments of the `ImageViT` whose patches lie on the places of `encoder`'s tokens.

    Raises:
      UserError: an unknown field, or another patch size without `resample`.
    """
    parameters = signature(ImageViT.__init__).parameters
    known = [name for name in parameters if name not in ("self", "unroll", "dtype", "rngs")]
    known += ["weights", "resample", "mean", "std"]
    for name in teacher:
        if name not in known:
            raise UserError(
                f"objective.teacher has no field {name!r}{nearest(name, known)}; "
                f"choose from {', '.join(known)}"
            )
    given = {name: value for name, value in teacher.items() if value or value is False}
    is_resampled = given.pop("resample", False)
    for name in ("weights", "mean", "std"):
        given.pop(name, None)
    size = given.pop("size", PUBLISHED_TEACHER)
    patch = given.setdefault("patch", encoder.patch[1])
    if patch != encoder.patch[1] and not is_resampled:
        raise UserError(
            f"objective.teacher.patch is {patch} and the encoder's is {encoder.patch[1]}, so their "
            f"tokens do not lie on the same places; set objective.teacher.resample=True to show "
            f"the teacher frames of {encoder.grid[1] * patch} pixels"
        )
    given.setdefault("image_size", encoder.grid[1] * patch)
    given["final_norm"] = chosen(
        "objective.teacher.final_norm", given.get("final_norm", "auto"), auto="layer_scale" in given
    )
    return given | {"size": size if isinstance(size, str) else tuple(size)}


def chosen(field: str, value: str, *, auto: bool) -> bool:
    """True for "yes", False for "no", `auto` for "auto". Raises UserError for another value."""
    if value not in ("auto", "yes", "no"):
        raise UserError(f"{field} is {value!r}; choose auto, yes or no")
    return auto if value == "auto" else value == "yes"


def three_numbers(
    teacher: Mapping[str, Any], field: str, default: Float[np.ndarray, "3"]
) -> tuple[float, ...]:
    """objective.teacher.mean or std. Raises UserError for what is not one number a channel."""
    values = tuple(teacher.get(field) or map(float, default))
    lowest = 1e-6 if field == "std" else 0.0
    if len(values) != 3 or not all(isinstance(x, int | float) and x >= lowest for x in values):
        raise UserError(
            f"objective.teacher.{field} is {values}; expected three numbers of pixels in [0, 1], "
            f"one for each of red, green and blue"
        )
    return values


def picture_flops(teacher: ImageViT, patches: int) -> int:
    """Operations of the teacher on one picture, forward; matrix products alone."""
    tokens, (depth, width, _) = teacher.prefix + patches, teacher.blocks.attention.out.kernel.shape
    mlp = teacher.blocks.mlp
    maps = (3 if mlp.gated else 2) * 2 * tokens * width * mlp.up.kernel.shape[-1]
    blocks = depth * (8 * tokens * width**2 + 4 * tokens**2 * width + maps)
    return 2 * patches * teacher.embed.kernel.shape[0] * width + blocks


def smooth_l1(error: Float[Array | np.ndarray, "*n"], beta: float) -> Float[Array, "*n"]:
    """error^2 / (2 beta) below beta, |error| - beta / 2 above (Girshick, arXiv 1504.08083)."""
    size = jnp.abs(error)
    return jnp.where(size < beta, jnp.square(error) / (2 * beta), size - beta / 2)
