"""Clips with a caption each, for video-text training: the plan of plan.py over other samples.

A sample is a caption of a training video. A batch then also holds the caption's token ids and their
mask, and what says which rows belong together: the caption's number (equal texts share one), its
recording, and its span there. Options are those of SurgLaVi's loader.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from surgjax.data.plan import ClipShape, Plan, parse_weights
from surgjax.data.record import LEVELS
from surgjax.data.store import Store, Whole
from surgjax.data.transforms import rng_of
from surgjax.errors import UserError, nearest

# sentences -> {"ids": int32 (n, length), "mask": bool (n, length)}, as data/tokenizers.py
Tokenizer = Callable[[Sequence[str]], Mapping[str, np.ndarray]]

LEVEL_IDS = {"1": "fine", "2": "mid", "3": "coarse"}  # in SurgLaVi's database
CLIPS = ("centred", "spread")
_TO_SPACE = str.maketrans({"-": " ", "/": " "} | dict.fromkeys(",.'!?\"()*#:;~", ""))


@dataclass(frozen=True)
class Captions:
    """Which captions are used, and how; the fields of `data.captions`.

    Attributes:
      levels: comma-separated, coarse, mid and fine, or SurgLaVi's level ids 3, 2 and 1.
      quotas: comma-separated shares of a batch, one a level; empty for shares by number.
      filter_pairs: only captions that are both surgical and descriptive.
      enhanced_captions: the column `text`, else `raw_text`.
      text_preprocess: texts go through `clean`.
      min_duration, max_duration: seconds; a span is longer than the first and at most the second.
      clips: "centred", a clip at the clip's stride in the middle of the span, moved to lie within
        the video and on one side of frames that were left out; or "spread", one frame from each of
        as many equal parts of the span's stored frames as the clip has frames: a random one of the
        part in training, the middle one in evaluation.

    Raises:
      UserError: a value that is none of those.
    """

    levels: str = "coarse,mid,fine"
    quotas: str = ""
    filter_pairs: bool = True
    enhanced_captions: bool = True
    text_preprocess: bool = True
    min_duration: float = 0.0
    max_duration: float = 500.0
    clips: str = "spread"

    def __post_init__(self):
        names = self.level_names
        for name in names:
            if name not in LEVELS:
                raise UserError(
                    f"data.captions.levels has {name!r}{nearest(name, LEVELS)}; choose from "
                    f"{', '.join(LEVELS)}"
                )
        if len(set(names)) < len(names):
            raise UserError(f"data.captions.levels is {self.levels!r}; name a level once")
        if self.clips not in CLIPS:
            raise UserError(f"data.captions.clips is {self.clips!r}; choose {' or '.join(CLIPS)}")
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(
                f"data.captions.min_duration={self.min_duration:g} and max_duration="
                f"{self.max_duration:g} leave no length; expected 0 <= min < max, seconds"
            )
        self.shares  # noqa: B018 - checks the quotas

    @property
    def level_names(self) -> list[str]:
        words = [word.strip() for word in self.levels.split(",")]
        return [LEVEL_IDS.get(word, word) for word in words]

    @property
    def shares(self) -> dict[str, float] | None:
        """Share of each level in a batch, None where their numbers decide."""
        if not self.quotas.strip():
            return None
        try:
            values = [float(word) for word in self.quotas.split(",")]
        except ValueError:
            values = []
        names = self.level_names
        if len(values) != len(names) or not all(0 <= v < float("inf") for v in values):
            values = []
        if sum(values) <= 0:
            raise UserError(
                f"data.captions.quotas is {self.quotas!r}; expected {len(names)} shares for "
                f"{', '.join(names)}, as in '{','.join(f'{1 / len(names):.2g}' for _ in names)}'"
            )
        return {name: v / sum(values) for name, v in zip(names, values, strict=True)}


@dataclass(frozen=True)
class Chosen:
    """Captions of one store, in the order of its table; arrays have one entry a caption.

    Attributes:
      video: row of videos.parquet.
      span_ms: (n, 2) from and to.
      dropped: reason -> how many were not chosen for it, each counted once.
    """

    caption_id: np.ndarray
    level: np.ndarray
    video: Int[np.ndarray, "n"]
    span_ms: Int[np.ndarray, "n 2"]
    text: np.ndarray
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.video)

    def where(self, mask: np.ndarray) -> "Chosen":
        """The captions where `mask` is true."""
        names = ("caption_id", "level", "video", "span_ms", "text")
        return Chosen(**{name: getattr(self, name)[mask] for name in names}, dropped=self.dropped)


def clean(text: str) -> str:
    """SurgLaVi's text_preprocess: without "The surgeon" and punctuation, lower case."""
    return " ".join(text.replace("The surgeon", "").lower().translate(_TO_SPACE).split())


def choose(store: Store, videos: Bool[np.ndarray, "v"], options: Captions) -> Chosen:
    """The captions of `videos` (a mask over the store's) that `options` let through.

    Raises:
      UserError: the store has no captions.
    """
    table = store.captions()
    texts = table["text" if options.enhanced_captions else "raw_text"]
    if options.text_preprocess:
        texts = np.array([clean(text) for text in texts], object)
    seconds = (table["end_ms"] - table["start_ms"]) / 1000
    passes = {
        "of held-out videos": videos[table["video"]],
        "of other levels": np.isin(table["level"].astype(str), options.level_names),
        "not surgical and descriptive": table["surgical"] & table["descriptive"]
        | (not options.filter_pairs),
        "too short or long": (options.min_duration < seconds) & (seconds <= options.max_duration),
        "without words": texts != "",
    }
    keep, dropped = np.ones(len(texts), bool), {}
    for reason, passed in passes.items():
        dropped[reason] = int((keep & ~passed).sum())
        keep &= passed.astype(bool)
    span = np.stack([table["start_ms"], table["end_ms"]], axis=1)
    first, end = store.frames_in(table["video"][keep], span[keep]).T
    dropped["without stored frames"] = int((first == end).sum())
    keep[keep] = first < end
    columns = {name: table[name][keep] for name in ("caption_id", "level", "video")}
    return Chosen(**columns, span_ms=span[keep], text=texts[keep], dropped=dropped)


def training_texts(
    stores: Sequence[Store], masks: Sequence[np.ndarray], options: Captions
) -> list[str]:
    """All texts that a plan of these stores trains on."""
    pairs = zip(stores, masks, strict=True)
    return [text for store, mask in pairs for text in choose(store, mask, options).text]


def numbered_texts(texts: np.ndarray) -> Int[np.ndarray, "n"]:
    """int32 numbers of texts; equal texts have equal ones."""
    return np.unique(texts.astype(str), return_inverse=True)[1].astype(np.int32)


def frames_of(
    store: Store,
    video: Whole,
    span_ms: Sequence[Whole] | np.ndarray,
    clip: ClipShape,
    options: Captions,
    crop_seed: Whole | None = None,
) -> Int[np.ndarray, "t"]:
    """Stored frames that show a caption's span.

    Args:
      crop_seed: of the random frames of "spread"; None takes the middle ones.

    Raises:
      ValueError: no frame of the span is stored.
    """
    video, count = int(video), clip.frames
    first, end = map(int, store.frames_in([video], [span_ms])[0])
    if first == end:
        raise ValueError(f"{store.video_id(video)} has no stored frame in {tuple(span_ms)} ms")
    if options.clips == "spread":
        place = 0.5 if crop_seed is None else rng_of(crop_seed).random(count)
        parts = first + (np.arange(count) + place) / count * (end - first)
        return np.minimum(parts.astype(np.int64), end - 1)
    stride = clip.stride_in(store, video)
    length = (count - 1) * stride
    middle = (first + end - 1) // 2
    low, high = next(part for part in store.stretches(video) if middle < part[1])
    start = max(low, min((first + end - 1 - length) // 2, high - 1 - length))
    return np.minimum(start + stride * np.arange(count, dtype=np.int64), high - 1)


class CaptionedPlan(Plan):
    """The order of a video-text run. Stores at one level each are what it takes turns over.

    Args:
      stores, masks, clip, batch_size, seed: as in `Plan`; `masks` are the training videos.
      weights: "" for stores in proportion to their captions, or one number a store, which holds
        within each level.
      options: which captions, and how.
      tokenizer: for their texts; called where batches are loaded.

    Attributes:
      report: how many captions are used of each level, and why others are not, in a line.

    Raises:
      UserError: no caption is left, of a level or at all; `weights` as in `Plan`.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        masks: Sequence[np.ndarray],
        clip: ClipShape,
        batch_size: int,
        seed: int,
        weights: str = "",
        *,
        options: Captions,
        tokenizer: Tokenizer,
    ):
        self.options, self.tokenizer = options, tokenizer
        if options.clips == "centred":
            for store in stores:
                clip.strides(store)  # one that cannot be fails here
        chosen = [choose(store, mask, options) for store, mask in zip(stores, masks, strict=True)]
        names = options.level_names
        counts = np.array([[(c.level == name).sum() for c in chosen] for name in names])
        self.report = _report(names, counts, chosen)
        shares = _shares(counts, options, weights, stores)
        pools = np.argwhere(shares > 0)
        parts = [chosen[s].where(chosen[s].level == names[n]) for n, s in pools]
        recordings = [
            np.array([f"{stores[s].videos['dataset'][v]}/{stores[s].video_id(v)}" for v in p.video])
            for (_, s), p in zip(pools, parts, strict=True)
        ]
        self._texts = np.concatenate([part.text for part in parts])
        self._caption = numbered_texts(self._texts)
        self._recording = numbered_texts(np.concatenate(recordings))
        self._span = np.concatenate([part.span_ms for part in parts]).astype(np.int32)
        super().__init__(
            [stores[s] for _, s in pools],
            [part.video for part in parts],  # a pool's samples, in place of a mask
            clip,
            batch_size,
            seed,
            ",".join(repr(float(shares[n, s])) for n, s in pools),
        )

    def extras(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """{"tokens": int32 (n, length), "token_mask": bool (n, length), "caption": int32 (n,),
        "recording": int32 (n,), "span": int32 (n, 2) milliseconds}"""
        at = rows["index"]
        words = self.tokenizer(self._texts[at].tolist())
        return {
            "tokens": words["ids"],
            "token_mask": words["mask"],
            "caption": self._caption[at],
            "recording": self._recording[at],
            "span": self._span[at],
        }

    def frames(self, rows: np.ndarray) -> Int[np.ndarray, "k t"]:
        """Stored frames of clips (k,) of one video."""
        store = self.stores[int(rows["store"][0])]
        return np.stack(
            [
                frames_of(
                    store,
                    r["video"],
                    self._span[r["index"]],
                    self.clip,
                    self.options,
                    r["crop_seed"],
                )
                for r in rows
            ]
        )

    def _numbered(self, store: Store, mask: np.ndarray) -> "_CaptionSamples":
        return _CaptionSamples(mask)


class _CaptionSamples:
    """The numbered samples of one pool: its captions, in the order of the table."""

    def __init__(self, video: np.ndarray):
        self._video, self.count = video, len(video)

    def window(self, local: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Video (n,), start (1, n) and sample number (1, n) of n clips; k is 1. Where a clip starts
        is for `CaptionedPlan.frames` to say."""
        return self._video[local], np.zeros((1, len(local)), np.int64), local[None]


def _report(names: list[str], counts: np.ndarray, chosen: Sequence[Chosen]) -> str:
    used = ", ".join(f"{n} {name}" for name, n in zip(names, counts.sum(axis=1), strict=True))
    reasons = {reason: sum(c.dropped[reason] for c in chosen) for reason in chosen[0].dropped}
    dropped = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
    return f"{counts.sum()} captions ({used}); dropped: {dropped or 'none'}"


def _shares(
    counts: np.ndarray, options: Captions, weights: str, stores: Sequence[Store]
) -> np.ndarray:
    """Share of every level (rows) of every store (columns). Quotas hold for the levels exactly;
    within a level, `weights` or the numbers of captions decide."""
    for store, count in zip(stores, counts.sum(axis=0), strict=True):
        if not count:
            raise UserError(
                f"no caption of {store.path} is left for training; see data.captions and "
                f"`python -m data_prep inspect {store.path}`"
            )
    size = counts.astype(np.float64)
    if weights.strip():
        size = np.where(counts > 0, parse_weights(weights, len(stores)), 0.0)
    total = size.sum(axis=1, keepdims=True)
    within = np.divide(size, total, out=np.zeros_like(size), where=total > 0)
    if options.shares is None:
        levels = counts.sum(axis=1) * within.any(axis=1)
        return levels[:, None] / levels.sum() * within
    for name, row in zip(options.level_names, within, strict=True):
        if options.shares[name] > 0 and not row.any():
            raise UserError(
                f"data.captions.quotas wants {options.shares[name]:.0%} {name} captions and none "
                f"is left; set its quota to 0 or choose other data.captions.levels"
            )
    return np.array([options.shares[name] for name in options.level_names])[:, None] * within
