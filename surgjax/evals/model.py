"""What an evaluation receives: functions from numpy to numpy, whatever framework is behind."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from surgjax.benchmark.vectors import Vectors
from surgjax.data.leakage import saw
from surgjax.data.plan import ClipShape
from surgjax.data.store import Store
from surgjax.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class TextTower:
    """A text tower that gradients go through, for what is learnt in front of a sentence.

    Attributes:
      tokenizer: makes ids and masks of sentences.
      encode: (params, ids, mask, context (b m w)) -> float32 (b d) of length 1, in JAX; the context
        takes the places of m tokens, those from `starts` on.
      call: (compiled function, argument) -> function(params, argument) as numpy.
      starts: tokens before a sentence's first word.
      width: w.
      scale: of the model's similarities.
    """

    tokenizer: Tokenizer
    encode: Callable[..., Any]
    call: Callable[[Callable[..., Any], Any], Any]
    starts: int
    width: int
    scale: float


@dataclass(frozen=True)
class Space:
    """Clips and sentences in one space; similarity is the dot product.

    Attributes:
      video: uint8 (b t h w c) -> float32 (b d).
      text: sentences -> float32 (n d).
      tower: what `text` is made of; None where gradients do not reach it.
    """

    video: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b d"]]
    text: Callable[[Sequence[str]], Float[np.ndarray, "n d"]]
    tower: TextTower | None = None


@dataclass(frozen=True)
class Model:
    """An encoder under test.

    Attributes:
      encode: video uint8 (b t h w c) -> float32 (b d), mean over the tokens of a clip; None where
        there are `vectors` in its place.
      clip: the clips it takes.
      used_cases: ids "<dataset>/<case>" that pretraining has seen; None where unknown.
      random_encode: the same network with fresh weights, the floor that pretraining must beat;
        None leaves that floor out.
      tokens, random_tokens: video uint8 (b t h w c) -> float32 (b n d), what `encode` and
        `random_encode` are the mean of; None where these are.
      reconstruct: batch {"video", "index"} -> {"masked" (b m) int, "prediction" (b m 1536),
        "mean", "std" (b m 3)}; None for models that reconstruct nothing.
      classify: video uint8 (b t h w c) -> float32 (b k) probabilities of the trained head, the
        classes of all its tasks side by side; None for models without one.
      labels: task -> {"kind", "classes"} of that head, in the order of its columns.
      space: for models with a text tower, else None. random_space: the same network with fresh
        weights.
      name: row title in tables.
      vectors: features made elsewhere, looked up by video and time.
      about: of the weights, for metrics.json: model, licence, pretrained_on, sha256.
      kept: folder where features are kept from a stopped evaluation to the next, None: nowhere.
      identity, random_identity: what distinguishes the features of `encode` and of `random_encode`
        from those of other networks and weights; "" where that is not known, and nothing is kept.
      go_on: called between pieces of work without an encoder; raises Stopped after SIGTERM.
    """

    encode: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b d"]] | None
    clip: ClipShape
    used_cases: Sequence[str] | None = None
    random_encode: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b d"]] | None = (
        None
    )
    tokens: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b n d"]] | None = None
    random_tokens: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b n d"]] | None = (
        None
    )
    reconstruct: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None
    classify: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b k"]] | None = None
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    space: Space | None = None
    random_space: Space | None = None
    name: str = "pretrained"
    vectors: Vectors | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    kept: Path | None = None
    identity: str = ""
    random_identity: str = ""
    go_on: Callable[[], None] = lambda: None

    def saw(self, store: Store, cases: Iterable[str]) -> str:
        """ "yes", "no" or "unknown": whether pretraining used any of `cases`."""
        return saw(store, map(str, cases), self.used_cases)
