"""`surgjax.load`: a video-text model with what prepares its videos and its sentences.

model, preprocess, tokenizer = surgjax.load("RUN")
video = model.encode_video(preprocess("clip.mp4")[None])
text = model.encode_text(tokenizer(["a grasper holds the gallbladder"]))
logits = model(preprocess("clip.mp4")[None], tokenizer(["cut", "clip"]))
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from surgjax.data.tokenizers import Tokenizer
from surgjax.data.tokenizers import load as load_tokenizer
from surgjax.errors import UserError
from surgjax.preprocess import VideoPreprocessor
from surgjax.state import Params, rebuild, split

RELEASED = {"SurgCLIP-B": "surgclip_beta.pth"}  # name -> file in the cache
HUB = "aleperez24/SurgCLIP"
TOKENS = 77  # of a sentence, for the released weights


@dataclass(frozen=True)
class VideoTextModel:
    """A video tower and a text tower with one space.

    Attributes:
      params: nested dict of float32 arrays, under our names.
      provenance: where the weights come from, their licence and what they have seen.
    """

    params: Params
    provenance: Mapping[str, Any]
    _video: Callable[[Params, jax.Array], jax.Array]
    _text: Callable[[Params, jax.Array, jax.Array], jax.Array]
    _logits: Callable[[Params, jax.Array], jax.Array]  # of similarities

    def encode_video(self, video: Any) -> Float[np.ndarray, "b e"]:
        """Embeddings of clips, float32; the product with a text's is their similarity.

        Args:
          video: what the preprocessor returns, stacked to (b t h w c); one clip (t h w c) is a
            batch of one.
        """
        video = np.asarray(video, np.float32)
        if video.ndim not in (4, 5) or video.shape[-1] != 3:
            raise UserError(
                f"video has the shape {video.shape}; expected (clips, frames, height, width, 3), "
                f"as the preprocessor makes it, channel last"
            )
        return np.asarray(self._video(self.params, video if video.ndim == 5 else video[None]))

    def encode_text(self, words: Any) -> Float[np.ndarray, "n e"]:
        """Embeddings of sentences, float32, of what the tokenizer returns."""
        if not isinstance(words, Mapping):
            raise UserError("encode_text takes what the tokenizer returns: tokenizer(sentences)")
        return np.asarray(self._text(self.params, words["ids"], words["mask"]))

    def __call__(self, video: Any, words: Any) -> Float[np.ndarray, "b n"]:
        """Logits of every clip with every sentence: similarity times the learnt scale."""
        similarity = self.encode_video(video) @ self.encode_text(words).T
        return np.asarray(self._logits(self.params, similarity))


def available_models() -> list[str]:
    """Names that `load` knows besides folders."""
    return sorted(RELEASED)


def load(
    source: str | Path = "SurgCLIP-B", num_frames: int | None = None
) -> tuple[VideoTextModel, VideoPreprocessor, Tokenizer]:
    """(model, preprocessor, tokenizer).

    Args:
      source: a run of the clip objective; or SurgCLIP's released weights: their file, a folder with
        it and BERT's vocab.txt, or the name "SurgCLIP-B" for such a folder at $SURGCLIP_CACHE or
        ~/.cache/surgclip. Nothing is downloaded.
      num_frames: of the preprocessor's clips, by default as trained.

    Raises:
      UserError: nothing there, weights of another family (what they look like), or no tokenizer
        (which file is expected where).
    """
    if str(source) in RELEASED:
        cache = Path(os.environ.get("SURGCLIP_CACHE") or Path.home() / ".cache" / "surgclip")
        source, name = cache / RELEASED[str(source)], str(source)
        if not source.is_file():
            raise UserError(
                f"{name} is not at {source}; get it once: hf download {HUB} {source.name} "
                f"--local-dir {cache}"
            )
    path = Path(source)
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        return _of_run(path, num_frames)
    return _released(path, num_frames)


def _of_run(run: Path, num_frames: int | None):
    from surgjax import build
    from surgjax.checkpoint import read_params
    from surgjax.words import words_of

    cfg = build.read_config(run)
    words = words_of(run, cfg.objective.to_dict())
    if words is None:
        raise UserError(
            f"{run} is a run of objective {cfg.objective.name!r}, which has no text tower; "
            f"expected a run of objective 'clip'"
        )
    params, meta = read_params(run)
    learner = build.make_learner(cfg, jnp.float32)
    whole = lambda params: rebuild(learner.graphdef, params)  # noqa: E731
    mean, std = nnx.eval_shape(lambda: learner.fresh(jax.random.key(0))).pixel_statistics
    model = VideoTextModel(
        params,
        {name: meta[name] for name in ("licences", "pretrained_on", "used_cases")},
        jax.jit(lambda params, video: whole(params).encode_pixels(video)),
        jax.jit(lambda params, ids, mask: whole(params).encode_text(ids, mask)),
        jax.jit(lambda params, similarity: whole(params).logits(similarity)),
    )
    # As evaluations see clips: the largest centred square, bilinear.
    options = dict(mean=mean, std=std, crop=True)
    preprocess = VideoPreprocessor(num_frames or cfg.data.frames, cfg.data.size, **options)
    return model, preprocess, words.tokenizer


def _released(path: Path, num_frames: int | None):
    from surgjax.interop import find_format, public

    weights = path
    if path.is_dir():
        found = sorted([*path.glob("*.pth"), *path.glob("*.safetensors")])
        if len(found) != 1:
            raise UserError(
                f"{path} is no run of the clip objective and holds {len(found)} weight files; "
                f"expected a run, or a folder with {RELEASED['SurgCLIP-B']} and vocab.txt"
            )
        weights = found[0]
    loaded = public.load(weights)
    if loaded.family != "surgclip":
        raise UserError(
            f"{weights} looks like a {loaded.family} model; expected SurgCLIP's weights or a run; "
            f"ask it in its own words: surgjax.interop.load({str(path)!r}).apply(...)"
        )
    tokenizer = load_tokenizer(weights.parent, "bert", TOKENS)
    module = find_format("surgclip")
    network = nnx.eval_shape(lambda: module.network(loaded.config, rngs=nnx.Rngs(0)))
    whole = functools.partial(rebuild, split(network)[0])
    # The mean over steps of products is the product with the mean.
    model = VideoTextModel(
        loaded.params,
        loaded.provenance,
        jax.jit(lambda params, video: whole(params).encode_video(video).mean(axis=1)),
        jax.jit(lambda params, ids, mask: whole(params).encode_text(ids, mask)),
        jax.jit(lambda params, similarity: similarity / params["temperature"]),
    )
    frames, size = loaded.config["num_frames"], loaded.config["image_size"]
    return model, VideoPreprocessor(num_frames or frames, size), tokenizer
