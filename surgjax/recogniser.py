"""Models that say what clips show: runs with a trained head, public classifiers, and prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from ml_collections import ConfigDict

from data_prep.label_files import is_whole
from data_prep.sources import read_rows
from surgjax import build
from surgjax.data.captioned import clean
from surgjax.data.labelled import columns_of
from surgjax.data.plan import ClipShape
from surgjax.data.tokenizers import load as load_tokenizer
from surgjax.digests import is_run
from surgjax.encoder import Encoder, normalised, open_encoder
from surgjax.errors import UserError
from surgjax.evals import zero_shot
from surgjax.evals.model import Space
from surgjax.interop import find_format
from surgjax.interop.public import architecture
from surgjax.state import Params, rebuild, split
from surgjax.words import words_of

CLASSIFIER = "ForVideoClassification"  # how the names of such public classes end

# Waits for a batch: probabilities float32 (b c), and vectors float32 (b d) where asked for.
Answer = Callable[[], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Recogniser:
    """What names the classes that clips show, gives their vectors, or both.

    Attributes:
      about: model, licence, pretrained_on, sha256 and so on, as of `encoder.Encoder`; and the task,
        or the prompts of each class.
      used_cases: ids "<dataset>/<case>" that training has seen; None where not known.
      frames, size: of its clips.
      rate: frames a second inside the clips it was trained on; None where not known.
      anchor: place of the labelled frame in these, "last" or "middle"; None where not known.
      kind: one_of_n or multi_label.
      classes: none where it has no head.
      has_vectors: whether answers hold vectors.
      begin: starts on clips uint8 (b t h w c); the answer can be asked for later.
    """

    about: Mapping[str, Any]
    used_cases: Sequence[str] | None
    frames: int
    size: int
    rate: float | None
    anchor: str | None
    kind: str
    classes: Sequence[str]
    has_vectors: bool
    begin: Callable[[UInt8[np.ndarray, "b t h w c"]], Answer]


@dataclass(frozen=True)
class Head:
    """What makes probabilities of clips.

    Attributes:
      about: the task, or the prompts of each class.
      kind, classes: as of `Recogniser`.
      apply: (params, uint8 (b t h w c)) -> (b k), compiled together with the encoder.
      finish: (b k) -> float32 (b c).
    """

    about: dict[str, Any]
    kind: str
    classes: list[str]
    apply: Callable[[Params, jax.Array], jax.Array]
    finish: Callable[[np.ndarray], np.ndarray] = np.asarray


def open_recogniser(
    path: Path,
    *,
    frames: int | None = None,
    prompts: Path | None = None,
    task: str = "",
    has_vectors: bool = False,
) -> Recogniser:
    """The model at `path`.

    Args:
      frames: of a clip, for image encoders.
      prompts: csv file as of evals/zero_shot.py; its classes are told apart.
      task: of a head that has several.
      has_vectors: whether vectors are wanted, which any encoder has.

    Raises:
      UserError: as `open_encoder`; no head; several tasks and none named, or one it does not have;
        prompts and no text tower.
    """
    encoder = open_encoder(path, frames)
    config = encoder.meta["config"] if is_run(path) else {}
    if prompts is not None:
        head = _prompted(encoder, config, path, prompts)
    else:
        head = _of_run(config, path, task) if config else public_head(encoder)
    if head is None and not has_vectors:
        raise UserError(
            f"{path} has no trained head; expected a run of configs/finetune.py, a public video "
            f"classifier, or a model with a text tower and --prompts; --features writes the "
            f"vectors of any encoder"
        )

    @jax.jit
    def outputs(params: Params, video: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        scores = head.apply(params, video) if head else jnp.zeros((len(video), 0), jnp.float32)
        return scores, encoder.apply(params, video) if has_vectors else None

    params = jax.device_put(encoder.params)

    def begin(video: UInt8[np.ndarray, "b t h w c"]) -> Answer:
        made = outputs(params, video)  # does not wait

        def answer():
            scores, vectors = jax.tree.map(np.asarray, made)
            return head.finish(scores) if head else scores, vectors

        return answer

    trained = config if head and prompts is None else {}
    return Recogniser(
        about=encoder.about | (head.about if head else {}),
        used_cases=encoder.meta.get("used_cases") if config else None,
        frames=encoder.clip.frames,
        size=encoder.clip.size,
        rate=_rate(encoder.meta) if config else None,
        anchor=trained["data"]["anchor"] if trained else None,
        kind=head.kind if head else "one_of_n",
        classes=head.classes if head else [],
        has_vectors=has_vectors,
        begin=begin,
    )


def _of_run(config: Mapping[str, Any], path: Path, task: str) -> Head | None:
    labels = config["objective"].get("labels") or {}
    if not labels:
        return None
    if task not in labels and (task or len(labels) > 1):
        raise UserError(
            f"--task is {task!r}, and the head of {path} has {', '.join(labels)}; choose one"
        )
    task = task or next(iter(labels))
    classes, columns = list(labels[task]["classes"]), columns_of(labels, task)
    graphdef = build.make_learner(ConfigDict(config)).graphdef

    def apply(params: Params, video: jax.Array) -> jax.Array:
        return rebuild(graphdef, params).predict(video)[:, columns]

    return Head({"task": task}, labels[task]["kind"], classes, apply)


def public_head(encoder: Encoder) -> Head | None:
    """The head of a public video classifier; None of other models."""
    config = encoder.meta
    if not architecture(config).endswith(CLASSIFIER):
        return None
    module = find_format(encoder.about["family"])
    graphdef, _ = split(nnx.eval_shape(lambda: module.network(config, rngs=nnx.Rngs(0))))
    mean, std = (encoder.about["pixels"][name] for name in ("mean", "std"))
    several = config.get("problem_type") == "multi_label_classification"

    def apply(params: Params, video: jax.Array) -> jax.Array:
        logits = rebuild(graphdef, params)(normalised(video, mean, std))["logits"]
        return jax.nn.sigmoid(logits) if several else jax.nn.softmax(logits)

    shape = (1, encoder.clip.frames, encoder.clip.size, encoder.clip.size, 3)
    made = jax.eval_shape(apply, encoder.params, jax.ShapeDtypeStruct(shape, jnp.uint8))
    named = config.get("id2label") or {}
    classes = [str(named.get(str(i), f"LABEL_{i}")) for i in range(made.shape[1])]
    return Head({}, "multi_label" if several else "one_of_n", classes, apply)


def _prompted(encoder: Encoder, config: Mapping[str, Any], path: Path, prompts: Path) -> Head:
    if config:
        run = path if (path / "checkpoints").is_dir() else path.absolute().parent.parent
        words = words_of(run, config["objective"])
        tokenizer = words and words.tokenizer
        graphdef = build.make_learner(ConfigDict(config)).graphdef
        apply = lambda params, video: rebuild(graphdef, params).encode_video(video)  # noqa: E731
        text = lambda params, ids, mask: rebuild(graphdef, params).encode_text(ids, mask)  # noqa: E731
    elif towers := encoder.towers:
        folder = path if path.is_dir() else path.parent
        tokenizer = load_tokenizer(folder, towers.family, towers.length)
        apply, text = towers.video, towers.text
    else:
        tokenizer = None
    if tokenizer is None:
        raise UserError(
            f"{path} has no text tower to ask with --prompts; expected a run of "
            f"configs/surgclip.py, or a public model of pictures and texts"
        )
    classes = _classes_of(prompts)
    asked = zero_shot.read_prompts(prompts, classes)
    asked = [[clean(sentence) for sentence in own] for own in asked]  # as captions in training
    compiled = jax.jit(text)

    def embed(sentences: Sequence[str]) -> np.ndarray:
        tokens = tokenizer(list(sentences))
        return np.asarray(compiled(encoder.params, tokens["ids"], tokens["mask"]))

    nearest = zero_shot.class_embeddings(Space(video=apply, text=embed), asked)
    return Head(
        {"prompts": dict(zip(classes, asked, strict=True))},
        *("one_of_n", classes, apply),
        lambda video: zero_shot.probabilities(video, nearest),
    )


def _classes_of(prompts: Path) -> list[str]:
    """Names of the classes of a file of prompts by their numbers; what is wrong with the file,
    `read_prompts` finds."""
    try:
        rows = [row for _, row in read_rows(prompts, list(zero_shot.COLUMNS))]
    except (OSError, UserError):
        return []
    named = {row["class_id"]: row["class"] for row in rows if is_whole(row["class_id"])}
    return [named[number] for number in sorted(named, key=int)]


def _rate(meta: Mapping[str, Any]) -> float | None:
    """Frames a second inside the clips of a run; None where its stores have several rates."""
    data = meta["config"]["data"]
    clip = ClipShape(data["frames"], data["stride"], data["size"])
    if clip.seconds is not None:
        return 1 / clip.seconds
    rates = {store.get("fps") for store in meta["stores"]}
    if len(rates) > 1 or None in rates:
        return None
    return rates.pop() / int(clip.stride)
