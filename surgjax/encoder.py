"""What turns clips into vectors: the encoder of a run, or of a public model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from surgjax.data.plan import ClipShape
from surgjax.errors import UserError
from surgjax.files import sha256, to_path
from surgjax.state import Params, rebuild, split

FRAMES, SIZE = 16, 224  # where the model leaves the choice
POOLS = ("mean", "cls")
TOKENS = 77  # of a sentence, where a tower has room for more

# Mean and deviation of the pixels that a family was trained with, where its folder does not say.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TIMESFORMER = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
PIXELS = {"clip": OPENAI, "siglip": HALF, "surgclip": HALF, "vit": HALF, "timesformer": TIMESFORMER}


@dataclass(frozen=True)
class Encoder:
    """What turns clips into vectors.

    Attributes:
      about: what features.json says of it: model, family, licence, pretrained_on, sha256, pool,
        frames, size, pixels.
      clip: frames and size of what it is given.
      dim: length of a vector.
      params: on the host.
      tokens: (params, uint8 (b t h w c)) -> float32 (b n d), what a vector is the mean of, those of
        all frames together; to be compiled.
      meta: of a run what its checkpoint says of itself, of a public model its config.json.
      fresh: key -> parameters of the same network, newly drawn; to be compiled.
      towers: of a public model that compares clips with sentences, else None.
    """

    about: dict[str, Any]
    clip: ClipShape
    dim: int
    params: Params
    tokens: Callable[[Params, Array], Array]
    meta: dict[str, Any]
    fresh: Callable[[jax.Array], Params]
    towers: "Towers | None" = None

    def apply(self, params: Params, video: UInt8[Array, "b t h w c"]) -> Float[Array, "b d"]:
        """The vectors of clips, float32; to be compiled."""
        return self.tokens(params, video).mean(axis=1)


@dataclass(frozen=True)
class Towers:
    """A public model's space of clips and sentences.

    Attributes:
      video: (params, uint8 (b t h w c)) -> float32 (b e), mean over the frames.
      text: (params, ids (n l), mask (n l)) -> float32 (n e), perhaps with a `context` as in
        `TextTransformer`.
      scale: params -> factor on similarities.
      starts, width: of the text tower: tokens before a sentence's first word, length of a token.
      family, length: of the tokenizer, see data/tokenizers.py.
    """

    video: Callable[[Params, Array], Array]
    text: Callable[..., Array]
    scale: Callable[[Params], float]
    starts: int
    width: int
    family: str
    length: int


def open_encoder(
    path: str | Path, frames: int | None = None, size: int | None = None, pool: str = "mean"
) -> Encoder:
    """The encoder of a run or of a public model, a folder or a weight file.

    A file without config.json in the names of VideoMAE's, V-JEPA's or SurgVISTA's programs is taken
    for 16 frames of 224 pixels where `frames` and `size` do not say otherwise: it does not tell.

    Args:
      frames, size: of the clips it is given, None for the model's own, or FRAMES and SIZE.
      pool: "mean" of the tokens that stand for a place, or "cls": the class token after the last
        norm (of SigLIP, what its head makes of all tokens).

    Raises:
      UserError: nothing there, a model without an encoder of pictures, or frames, size or pool
        that it does not have.
    """
    from surgjax.digests import is_run

    path = to_path(path)
    for name, value in (("--frames", frames), ("--size", size)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    opened = _of_run if is_run(path) else _of_public
    about, tokens, params, (frames, size), *rest = opened(path, frames, size, pool)
    video = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.uint8)
    dim = jax.eval_shape(tokens, params, video).shape[-1]
    about |= {"pool": pool, "frames": frames, "size": size}
    return Encoder(about, ClipShape(frames, 1, size), dim, params, tokens, *rest)


def normalised(
    video: UInt8[Array | np.ndarray, "b t h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b t h w c"]:
    """Pixels in [0, 1] by the channels' mean and deviation, float32."""
    return (jnp.asarray(video, jnp.float32) / 255 - np.float32(mean)) / np.float32(std)


def about_run(folder: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """model, family, licence, pretrained_on and sha256 of a run's step, which says `meta`."""
    from surgjax.interop import licence

    return {
        "model": f"{folder.parent.parent.name}, step {folder.name}",
        "family": "surgjax run",
        "licence": licence.combined(licence.licences(meta).values()),
        "pretrained_on": licence.pretrained_on(meta),
        "sha256": sha256(folder / "DIGESTS.json"),
    }


def _of_run(path: Path, frames: int | None, size: int | None, pool: str):
    from surgjax import build
    from surgjax.checkpoint import read_model
    from surgjax.digests import find_step

    folder = find_step(path)
    params, meta = read_model(folder)
    cfg = ConfigDict(meta["config"])
    if pool == "cls":
        raise UserError(f"{path} is a run, whose tokens have no class token; give --pool=mean")
    shape = _own(path, "frames", frames, cfg.data.frames), _own(path, "size", size, cfg.data.size)
    learner = build.make_learner(cfg)

    def tokens(params: Params, video: UInt8[Array, "b t h w c"]) -> Float[Array, "b n d"]:
        return rebuild(learner.graphdef, params).encode(video).astype(jnp.float32)

    about = about_run(folder, meta) | {"pixels": "of the run"}
    return about, tokens, params, shape, meta, lambda key: split(learner.fresh(key))[1]


def _of_public(path: Path, frames: int | None, size: int | None, pool: str):
    from surgjax import interop
    from surgjax.interop.sources import open_outside

    outside = open_outside(path)
    if not hasattr(outside.module, "network"):
        return _of_file(path, outside, frames, size, pool)
    model = interop.load(path)
    family = model.config.get("model_type") or model.family
    module = interop.find_format(model.family)
    make = lambda key: module.network(model.config, rngs=nnx.Rngs(key))  # noqa: E731
    network = nnx.eval_shape(lambda: make(0))
    graphdef, _ = split(network)
    is_video = hasattr(network, "encoder")
    if not is_video and not hasattr(network, "image_encoder"):
        raise UserError(
            f"{path} is a {model.family} model without an encoder of pictures; expected an image "
            f"or video encoder, such as DINOv3"
        )
    if is_video:
        tower = network.encoder
        own = [count * patch for count, patch in zip(tower.grid, tower.patch, strict=True)]
        shape = _own(path, "frames", frames, own[0]), _own(path, "size", size, own[1])
        has_cls = hasattr(tower, "cls_token") and not getattr(tower, "is_surgclip", False)
    else:
        tower = network.image_encoder
        shape = frames or FRAMES, _image_size(path, family, tower, size)
        has_cls = hasattr(tower, "cls_token") or hasattr(tower, "head")
    found = _video_tokens if is_video else _image_tokens
    (mean, std), origin = _pixels(path, family)
    if pool == "cls" and not has_cls:
        raise UserError(f"{path} is a {family} model without a class token; give --pool=mean")

    def pixels(video: UInt8[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        return normalised(video, mean, std)

    def tokens(params: Params, video: UInt8[Array, "b t h w c"]) -> Float[Array, "b n d"]:
        return found(rebuild(graphdef, params), pixels(video), pool).astype(jnp.float32)

    towers = None
    if hasattr(network, "text_encoder"):
        whole = lambda params: rebuild(graphdef, params)  # noqa: E731
        towers = Towers(
            lambda params, video: _embed_video(whole(params), pixels(video)),
            lambda params, ids, mask, context=None: _embed_text(whole(params), ids, mask, context),
            _scale,
            network.text_encoder.starts,
            network.text_encoder.width,
            network.text_encoder.family,
            min(TOKENS, network.text_encoder.length),
        )

    about = {
        "model": model.provenance["source"],
        "family": model.family,
        "licence": model.licence,
        "pretrained_on": model.pretrained_on,
        "sha256": model.provenance["sha256"],
        "pixels": {"mean": list(mean), "std": list(std), "from": origin},
    }
    fresh = lambda key: split(make(key))[1]  # noqa: E731
    return about, tokens, model.params, shape, model.config, fresh, towers


def _of_file(path: Path, outside, frames: int | None, size: int | None, pool: str):
    """A video transformer in a program's own file, which has no settings."""
    from surgjax.complete import video_encoder
    from surgjax.interop.sources import init_params
    from surgjax.models.video_vit import VideoViT

    if pool == "cls":
        raise UserError(f"{path} has no class token; give --pool=mean")
    settings = video_encoder(str(path))
    shape = frames or FRAMES, size or SIZE
    names = outside.module.canonical(outside.weights.tensors)
    # Fine-tuned files have their norm behind the mean, as ours of `classify`.
    is_fine_tuned = "fc_norm.weight" in names

    def make(key: jax.Array | int) -> nnx.Module:
        made = nnx.Module()
        rngs = nnx.Rngs(key)
        kinds = {"positions": settings["positions"], "qkv_bias": settings["qkv_bias"]}
        made.encoder = VideoViT(
            settings["size"], *shape, final_norm=not is_fine_tuned, rngs=rngs, **kinds
        )
        return made

    graphdef, shapes = split(nnx.eval_shape(lambda: make(0)))
    config = {"encoder": settings, "data": {"frames": shape[0], "size": shape[1]}}
    loaded = init_params(
        path, expected=jax.tree.map(lambda leaf: leaf.shape, shapes), config=config
    )
    if loaded.missing:
        raise UserError(
            f"{path} lacks {loaded.missing[0]}, which the encoder has ({len(loaded.missing)} such "
            f"tensors); get the complete file"
        )
    (mean, std), origin = _pixels(path, loaded.provenance["format"])

    def tokens(params: Params, video: UInt8[Array, "b t h w c"]) -> Float[Array, "b n d"]:
        pixels = normalised(video, mean, std)
        return rebuild(graphdef, params).encoder(pixels).astype(jnp.float32)

    known = ("licence", "pretrained_on", "sha256")
    about = {
        "model": loaded.provenance["source"],
        "family": loaded.provenance["format"],
        **{name: loaded.provenance[name] for name in known},
        "pixels": {"mean": list(mean), "std": list(std), "from": origin},
    }
    fresh = lambda key: split(make(key))[1]  # noqa: E731
    return about, tokens, loaded.params, shape, config, fresh


def _embed_video(network: nnx.Module, video: Float[Array, "b t h w c"]) -> Float[Array, "b e"]:
    """Mean over a clip's frames of their vectors of length 1: the product with a sentence's is the
    mean of the frames' cosines."""
    if hasattr(network, "encode_video"):
        return network.encode_video(video).mean(axis=1)
    found = network.image_encoder.encode(video.reshape(-1, *video.shape[2:]))
    if hasattr(network, "image_projection"):
        found = network.image_projection(found)
    found = found / jnp.linalg.norm(found, axis=-1, keepdims=True)
    return found.reshape(*video.shape[:2], -1).mean(axis=1).astype(jnp.float32)


def _embed_text(
    network: nnx.Module, ids: Array, mask: Array, context: Array | None
) -> Float[Array, "n e"]:
    if hasattr(network, "encode_text"):
        return network.encode_text(ids, mask, context=context)
    found = network.text_projection(network.text_encoder.encode(ids, mask, context=context))
    return (found / jnp.linalg.norm(found, axis=-1, keepdims=True)).astype(jnp.float32)


def _scale(params: Params) -> float:
    if "temperature" in params:
        return float(1 / params["temperature"])
    return float(np.exp(params["logit_scale"]))


def _image_tokens(
    network: nnx.Module, video: Float[Array, "b t h w c"], pool: str
) -> Float[Array, "b n d"]:
    """What an image network says of the places of a clip's frames, or one class token a frame."""
    pictures = video.reshape(-1, *video.shape[2:])
    tower = network.image_encoder
    if hasattr(network, "tokens"):  # ViT and the DINO families
        tokens = network.tokens(pictures)
        tokens = tokens[:, :1] if pool == "cls" else tokens[:, tower.prefix :]
    else:  # CLIP and SigLIP
        tokens = tower(pictures)
        places = tokens[:, 1:] if tower.is_clip else tokens
        tokens = tower.pool(tokens)[:, None] if pool == "cls" else places
    return tokens.reshape(len(video), -1, tokens.shape[-1])


def _video_tokens(
    network: nnx.Module, video: Float[Array, "b t h w c"], pool: str
) -> Float[Array, "b n d"]:
    """What a video network says of the places of a clip, or the class token alone."""
    tower = network.encoder
    if getattr(tower, "is_surgclip", False):
        return tower.encode(video)  # one vector a frame
    tokens = tower(video)
    if not hasattr(tower, "cls_token"):
        return tokens
    return tokens[:, :1] if pool == "cls" else tokens[:, 1:]


def _image_size(path: Path, family: str, tower: nnx.Module, size: int | None) -> int:
    """Pixels a side: DINO's classes take any whole number of patches, the others one size."""
    if not family.startswith("dinov"):
        return _own(path, "size", size, tower.side * tower.patch)
    size = size or SIZE
    if size % tower.patch:
        raise UserError(
            f"--size is {size}, which patches of {tower.patch} pixels do not divide; expected "
            f"{max(1, round(size / tower.patch)) * tower.patch}"
        )
    return size


def _own(path: Path, name: str, asked: int | None, own: int) -> int:
    if asked not in (None, own):
        raise UserError(
            f"--{name} is {asked}, but {path} was made for {own}; give --{name}={own}, or leave it "
            f"out"
        )
    return own


def _pixels(path: Path, family: str) -> tuple[tuple, str]:
    """((mean, deviation), where they are from): the folder's processor, else the family's usual."""
    from surgjax.interop.files import read_json

    folder = path if path.is_dir() else path.parent
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        file = folder / name
        settings = read_json(file) if file.is_file() else {}
        if not settings.get("do_normalize", True):
            return ((0.0,) * 3, (1.0,) * 3), name
        if settings.get("image_mean") and settings.get("image_std"):
            return (settings["image_mean"], settings["image_std"]), name
    return PIXELS.get(family.split("_")[0], IMAGENET), "assumed: usual of the family"
