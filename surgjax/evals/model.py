"""What an evaluation receives: functions from numpy to numpy, whatever framework is behind."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from surgjax.data.leakage import names_of
from surgjax.data.plan import ClipShape
from surgjax.data.store import Store


@dataclass(frozen=True)
class Space:
    """Clips and sentences in one space; similarity is the dot product.

    Attributes:
      video: uint8 (b t h w c) -> float32 (b d).
      text: sentences -> float32 (n d).
    """

    video: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b d"]]
    text: Callable[[Sequence[str]], Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Model:
    """An encoder under test.

    Attributes:
      encode: video uint8 (b t h w c) -> float32 (b d), mean over the tokens of a clip.
      clip: the clips it takes.
      used_cases: ids "<dataset>/<case>" that pretraining has seen; None where unknown.
      random_encode: the same network with fresh weights, the floor that pretraining must beat;
        None leaves that floor out.
      reconstruct: batch {"video", "index"} -> {"masked" (b m) int, "prediction" (b m 1536),
        "mean", "std" (b m 3)}; None for models that reconstruct nothing.
      classify: video uint8 (b t h w c) -> float32 (b k) probabilities of the trained head, the
        classes of all its tasks side by side; None for models without one.
      labels: task -> {"kind", "classes"} of that head, in the order of its columns.
      space: for models with a text tower, else None. random_space: the same network with fresh
        weights.
      name: row title in tables.
    """

    encode: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b d"]]
    clip: ClipShape
    used_cases: Sequence[str] | None = None
    random_encode: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b d"]] | None = (
        None
    )
    reconstruct: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None
    classify: Callable[[UInt8[np.ndarray, "b t h w c"]], Float[np.ndarray, "b k"]] | None = None
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    space: Space | None = None
    random_space: Space | None = None
    name: str = "pretrained"

    def saw(self, store: Store, cases: Iterable[str]) -> str:
        """ "yes", "no" or "unknown": whether pretraining used any of `cases`, under whatever name
        the store knows for them."""
        if self.used_cases is None:
            return "unknown"
        return "yes" if set(self.used_cases) & names_of([store], map(str, cases)) else "no"
