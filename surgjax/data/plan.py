"""Which clips make up a batch: a pure function of (seed, step), contract 3 of DESIGN.md.

A sample is a clip's first frame; every start at which the whole clip fits is one (of x264 at a
stride of 4 or 8, every fourth: record.REFERENCE_STEP), and none is ever listed: samples are
numbered video by video and store by store, and a number is turned into (store, video, start) by a
search in cumulative counts. Each store is passed in a new random order every epoch, the next epoch
begins when every sample was delivered, and the stores take turns by exact quotas, so the position
of a run is the step and nothing else. Of a curated list of clips, samples are the starts inside the
clips, and an epoch gives every clip as many turns as its weight. No sample reaches over a place
where frames were left out of the store.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgjax.data.permutation import hash_words, permute
from surgjax.data.record import REFERENCE_STEP
from surgjax.data.store import Store, Whole
from surgjax.errors import UserError

ROW = np.dtype(
    [
        ("index", np.int64),  # global sample index; repeats have other ones
        ("store", np.int32),
        ("video", np.int32),  # row of the store's videos.parquet
        ("start", np.int64),  # first stored frame of the clip
        ("crop_seed", np.uint64),
    ]
)
# Stored frames [first, end) of a video (row of videos.parquet) and its turns in an epoch, above 0.
SPAN = np.dtype([("video", "i4"), ("first", "i8"), ("end", "i8"), ("weight", "f8")])
# With the frames [low, high) around it that a clip may show.
_PART = np.dtype([*SPAN.descr, ("low", "i8"), ("high", "i8")])

# First words of the hash keys, so that no two uses of a seed share a stream.
ORDER, SHUFFLE, CROP, OFFSET, START = 1, 2, 3, 4, 5
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: its multiples are spread evenly
_QUOTA_BITS = np.uint64(32)


@dataclass(frozen=True)
class ClipShape:
    """What a clip is.

    Attributes:
      frames: frames in a clip.
      stride: from one frame of the clip to the next, in stored frames (4) or seconds ("0.16s"),
        rounded to whole stored frames of each video; or "spread", the video's frames by the clip's,
        rounded down, as SurgVISTA samples short videos.
      size: side of the square picture, pixels.

    Raises:
      UserError: a size that is not positive, or a stride that is neither.
    """

    frames: int
    stride: int | str
    size: int

    def __post_init__(self):
        for name in ("frames", "size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"clip {name} is {value!r}, expected a positive whole number")
        self.seconds  # noqa: B018 - parses the stride

    @property
    def seconds(self) -> float | None:
        """The stride in seconds, None where it counts stored frames."""
        stride = self.stride
        if isinstance(stride, int) and not isinstance(stride, bool) and stride > 0:
            return None
        if isinstance(stride, str):
            if stride == "spread" or (stride.isdecimal() and int(stride) > 0):
                return None
            number = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*s", stride.strip())
            if number and float(number[1]) > 0:
                return float(number[1])
        raise UserError(
            f"clip stride is {stride!r}, expected stored frames (4), seconds ('0.16s') or spread"
        )

    def strides(self, store: Store, videos: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Stride of videos of a store in stored frames, int64 (videos,).

        Raises:
          UserError: a stride in seconds that is less than one stored frame.
        """
        if self.stride == "spread":
            return np.maximum(1, store.frames[videos] // self.frames).astype(np.int64)
        if self.seconds is None:
            return np.full(len(store.frames[videos]), int(self.stride), np.int64)
        fps = store.videos["stored_fps"][videos].astype(np.float64)
        frames = np.floor(self.seconds * fps + 0.5)
        bad = np.flatnonzero(~(frames >= 1))
        if len(bad):
            video = np.arange(len(store))[videos][bad[0]]
            raise UserError(
                f"a stride of {self.stride} is less than one stored frame of "
                f"{store.video_id(video)} in {store.path} ({fps[bad[0]]:g} frames/s); use a longer "
                "stride, a number of stored frames, or a store prepared at a higher rate"
            )
        return frames.astype(np.int64)

    def stride_in(self, store: Store, video: Whole) -> int:
        """Stride in one video, stored frames."""
        return int(self.strides(store, np.array([video]))[0])


class Plan:
    """The order of a training run.

    Args:
      stores: opened stores.
      masks: bool (videos,) a store, the videos that may be used.
      clip: shape of a sample.
      batch_size: B, rows of a step over all hosts.
      seed: of order, mixture and crops.
      weights: "" for stores in proportion to their samples, or one number a store: "0.595,0.405".
      clips_per_window: k steps share their decoding. In group g = step // k every row has one
        window: the k clips that start at a sample s and at s + stride, s + 2 stride, ... of the
        same video (past the video's last one it goes on at its first start of the same phase, so
        that all starts are delivered equally often). Those clips share all but one frame with
        their neighbour, so frames + k - 1 decoded frames make k clips; step g * k + j delivers the
        j-th. An epoch of windows delivers every sample k times. With k = 1 a window is a clip.
      repeats: rows of a step that show the same clip, each with its own crop and its own random
        numbers (repeated augmentation, Hoffer et al., arXiv 1901.09335). They lie side by side.

    Raises:
      UserError: no sample fits, or weights that are not one non-negative number a store.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        masks: Sequence[np.ndarray],
        clip: ClipShape,
        batch_size: int,
        seed: int,
        weights: str = "",
        clips_per_window: int = 1,
        repeats: int = 1,
    ):
        sizes = {"batch_size": batch_size, "clips_per_window": clips_per_window}
        for name, value in (sizes | {"repeats": repeats}).items():
            if value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")
        if batch_size % repeats:
            raise UserError(f"batch_size {batch_size} is not a multiple of data.repeats={repeats}")
        if repeats > 1 and clips_per_window > 1:
            raise UserError(
                f"data.repeats={repeats} and data.clips_per_window={clips_per_window} both decode "
                f"a clip once for several rows; set one of them to 1"
            )
        self.stores, self.clip = list(stores), clip
        self.batch_size, self.seed = int(batch_size), int(seed)
        self.clips_per_window, self.repeats = int(clips_per_window), int(repeats)
        self._samples = [self._numbered(s, m) for s, m in zip(stores, masks, strict=True)]
        self._sizes = np.array([s.count for s in self._samples], np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._sizes)])
        self.shares = _shares(weights, stores, self._sizes, clip)
        self._splits = _nested_splits(self.shares)

    @property
    def num_samples(self) -> int:
        """Distinct samples over all stores."""
        return int(self._offsets[-1])

    @property
    def epoch_steps(self) -> float:
        """Steps after which as many clips were delivered as there are samples."""
        return self.num_samples / self.batch_size

    def rows(self, step: Whole) -> np.ndarray:
        """The B rows of one step, dtype ROW; a pure function of (seed, step)."""
        return self.group_rows(step // self.clips_per_window)[step % self.clips_per_window]

    def group_rows(self, group: Whole) -> np.ndarray:
        """Rows (k, B) of the k steps that share their windows."""
        k, size = self.clips_per_window, self.batch_size // self.repeats
        order = permute(np.arange(size), size, hash_words(self.seed, SHUFFLE, group))
        stores, local = self._slots(group * size + order)
        rows = np.zeros((k, size), ROW)
        rows["store"] = stores
        for number, samples in enumerate(self._samples):
            of_store = np.flatnonzero(stores == number)
            video, start, nth = samples.window(local[of_store], k)
            rows["video"][:, of_store], rows["start"][:, of_store] = video, start
            rows["index"][:, of_store] = nth + self._offsets[number]
        if self.repeats > 1:
            rows = np.repeat(rows, self.repeats, axis=1)
            rows["index"] += self._again(self.batch_size)
        steps = np.repeat(group * k + np.arange(k), self.batch_size)
        crop_seeds = hash_words(self.seed, CROP, steps, np.tile(np.arange(self.batch_size), k))
        rows["crop_seed"] = crop_seeds.reshape(k, self.batch_size)
        return rows

    def frames(self, rows: np.ndarray) -> np.ndarray | None:
        """Stored frames (k, t) of clips (k,) of one video; None for those at the clip's stride."""
        return None

    def extras(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What a batch holds of rows (n,) besides pixels and index, first axis n; see batch.py."""
        return {}

    def example(self, index: Whole) -> np.ndarray:
        """The row (scalar of dtype ROW) of one sample by global index; crop_seed is 0."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        number = int(np.searchsorted(self._offsets, index, side="right")) - 1
        video, start, _ = self._samples[number].window(np.array([index - self._offsets[number]]), 1)
        return np.array((index, number, video[0], start[0, 0], 0), ROW)

    def substitute(self, row: np.ndarray, attempt: int) -> np.ndarray:
        """Rows of the window that stands in for the unreadable window of rows (k,) `row` (with
        repeats: (repeats,) rows of the clip that stands in for a clip). The
        attempts jump through the store by about 0.618 of its samples, so that they leave a damaged
        video or shard at once; the same row always gets the same stand-in."""
        number = int(row["store"][0])
        size = int(self._sizes[number])
        jump = _coprime(max(1, int(size * 0.6180339887498949)), size)
        local = int(row["index"][0] % self.num_samples - self._offsets[number])
        local = (local + attempt * jump) % size
        video, start, nth = self._samples[number].window(np.array([local]), self.clips_per_window)
        out = row.copy()
        out["video"], out["start"] = video[0], start[:, 0]
        out["index"] = nth[:, 0] + self._offsets[number] + self._again(len(row))
        return out

    def _numbered(self, store: Store, mask: np.ndarray) -> "_Samples":
        """The samples of one store."""
        spans = whole_videos(store, mask)
        columns = _starts(store, self.clip, *(spans[name] for name in ("video", "first", "end")))
        fits = columns[1] > 0
        return _Samples(spans["video"][fits], *(column[fits] for column in columns))

    def _again(self, rows: int) -> np.ndarray:
        """What tells the repeats of a sample apart in `index`, int64 (rows,)."""
        return np.arange(rows) % self.repeats * self.num_samples

    def _slots(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store and sample within the store of slots of the endless sequence of windows."""
        position = positions.astype(np.uint64)
        stores = np.full(len(position), -1, np.int32)
        local = np.zeros(len(position), np.int64)
        waiting = np.arange(len(position))
        for number, share in self._splits:
            before = _quota(position, share)
            takes = _quota(position + np.uint64(1), share) > before
            stores[waiting[takes]] = number
            local[waiting[takes]] = self._nth_sample(number, before[takes])
            position, waiting = (position - before)[~takes], waiting[~takes]
        return stores, local

    def _nth_sample(self, store: int, nth: np.ndarray) -> np.ndarray:
        """The nth delivered window of a store: epochs of permutations, one after the other."""
        size = int(self._sizes[store])
        epoch, position = np.divmod(nth, np.uint64(size))
        return permute(position, size, hash_words(self.seed, ORDER, store, epoch))


class CuratedPlan(Plan):
    """The order of a run on chosen spans of time alone.

    A sample is a start at which the whole clip lies inside a span. A span shorter than a clip has
    one, which centres the clip on it, moved to lie within the video. What is before and after
    left-out frames counts as two spans, with a share of the weight each. In an epoch of a store
    every span has as many turns as its weight, each at a random start. Weights that are no whole
    numbers are rounded up or down, in every epoch anew, so that their sums over epochs are right
    (systematic sampling: Madow 1949, "On the theory of systematic sampling, II"). Weights with a
    mean below one are scaled to a mean of one, so that an epoch has a turn a span or more.

    Args:
      stores, masks, clip, batch_size, seed, clips_per_window, repeats: as in `Plan`.
      weights: "" for stores in proportion to their turns in an epoch, or one number a store.
      spans: of each store, dtype SPAN (n,); not used where first == end.

    Attributes:
      videos: bool (videos,) of each store, those that are drawn from.
      report: how many spans are used, and why others are not, in a line.

    Raises:
      UserError: no span of a store is left, or as in `Plan`.
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
        spans: Sequence[np.ndarray],
        clips_per_window: int = 1,
        repeats: int = 1,
    ):
        reasons = "of held-out cases", "of videos shorter than a clip", "without stored frames"
        dropped, kept = np.zeros(len(reasons), np.int64), []
        for store, mask, given in zip(stores, masks, spans, strict=True):
            allowed, stored = mask[given["video"]], given["first"] < given["end"]
            parts = _parts(store, given[allowed & stored])
            around = (parts[name] for name in ("video", "low", "high"))
            fits = _starts(store, clip, *around)[1] > 0
            dropped += (~allowed).sum(), (~fits).sum(), (allowed & ~stored).sum()
            if not fits.any():
                raise UserError(
                    f"data.clips leaves no clip of {store.path} to train on: they are all of "
                    f"held-out cases, without stored frames, or of videos shorter than "
                    f"{clip.frames} frames at stride {clip.stride}; list others, or leave the "
                    f"store out of both"
                )
            kept.append(parts[fits])
        self.videos = [
            np.isin(np.arange(len(s)), k["video"]) for s, k in zip(stores, kept, strict=True)
        ]
        self._weight_ends = [np.cumsum(k["weight"]) for k in kept]
        self._turns = [max(round(float(ends[-1])), len(ends)) for ends in self._weight_ends]
        unused = ", ".join(f"{n} {why}" for n, why in zip(dropped, reasons, strict=True))
        self.report = f"{sum(map(len, self._weight_ends))} clips; not used: {unused}"
        super().__init__(
            *(stores, kept, clip, batch_size, seed),  # kept: in place of masks
            weights if weights.strip() else ",".join(map(str, self._turns)),
            clips_per_window=clips_per_window,
            repeats=repeats,
        )

    @property
    def epoch_steps(self) -> float:
        """Steps after which as many clips were delivered as there are turns in an epoch."""
        return sum(self._turns) / self.batch_size

    def _numbered(self, store: Store, mask: np.ndarray) -> "_Samples":
        video, first, end, low, high = (mask[n] for n in ("video", "first", "end", "low", "high"))
        starts, counts, strides, grid = _starts(store, self.clip, video, first, end)
        length = (self.clip.frames - 1) * strides
        lowest = -(-low // grid) * grid
        centred = np.clip((starts + end - 1 - length) // 2, lowest, high - 1 - length)
        starts = np.where(counts > 0, starts, centred // grid * grid)
        return _Samples(video, starts, np.maximum(counts, 1), strides, grid)

    def _nth_sample(self, store: int, nth: np.ndarray) -> np.ndarray:
        ends, turns = self._weight_ends[store], self._turns[store]
        epoch, turn = np.divmod(nth, np.uint64(turns))
        turn = permute(turn, turns, hash_words(self.seed, ORDER, store, epoch))
        # One point in each of as many equal parts of the weights' sum as there are turns.
        offset = (hash_words(self.seed, OFFSET, store) + epoch * _GOLDEN) >> np.uint64(40)
        points = (turn + (offset + 0.5) / 2**24) * (ends[-1] / turns)
        span = np.searchsorted(ends, points, side="right").clip(max=len(ends) - 1)
        return self._samples[store].random(span, hash_words(self.seed, START, store, nth))


def whole_videos(store: Store, mask: np.ndarray | slice = slice(None)) -> np.ndarray:
    """A span for each video of a mask, with a turn for each of its frames, dtype SPAN (n,); one for
    each part of a video that frames were left out of."""
    videos = np.arange(len(store), dtype=np.int32)[mask]
    spans = np.zeros(len(videos), SPAN)
    spans["video"] = videos
    spans["end"] = spans["weight"] = store.frames[videos]
    return _parts(store, spans)[list(SPAN.names)].astype(SPAN)


def _parts(store: Store, spans: np.ndarray) -> np.ndarray:
    """Spans, in parts where frames were left out inside them, dtype _PART (n,)."""
    parts = np.zeros(len(spans), _PART)
    parts[list(SPAN.names)] = spans
    parts["high"] = store.frames[spans["video"]]
    cut = np.isin(spans["video"], store.interrupted)
    cuts, span_of = [], []
    for i in np.flatnonzero(cut):
        video, first, end, weight = spans[i].item()
        for low, high in store.stretches(video):
            inside = min(end, high) - max(first, low)
            if inside > 0:
                share = weight * inside / (end - first)
                cuts.append((video, max(first, low), min(end, high), share, low, high))
                span_of.append(i)
    order = np.argsort(np.concatenate([np.flatnonzero(~cut), span_of]), kind="stable")
    return np.concatenate([parts[~cut], np.array(cuts, _PART)])[order]


def _starts(
    store: Store, clip: ClipShape, video: np.ndarray, first: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The first start inside frames [first, end) of videos, how many there are at which the whole
    clip is inside (0 or less: none), stride and grid, all int64 (n,); see `_Samples`."""
    strides = clip.strides(store)[video]
    # Of x264, starts at which every frame of a clip is a reference frame.
    on_references = (store.codec == "x264") & (strides % REFERENCE_STEP == 0)
    grid = np.where(on_references, REFERENCE_STEP, 1)
    starts = -(-first // grid) * grid
    return starts, -(-(end - starts - (clip.frames - 1) * strides) // grid), strides, grid


class _Samples:
    """The numbered samples of one store: segment by segment, start by start. Each segment has a
    video, a first start, a number of starts (at least 1), a stride, and a grid that divides the
    stride: frames from one start to the next."""

    def __init__(
        self,
        video: np.ndarray,
        first: np.ndarray,
        counts: np.ndarray,
        strides: np.ndarray,
        grid: np.ndarray,
    ):
        self._videos, self._first = video.astype(np.int32), first.astype(np.int64)
        self._strides, self._grid = (strides // grid).astype(np.int32), grid.astype(np.int32)
        self._ends = np.cumsum(counts)
        self.count = int(self._ends[-1]) if len(self._ends) else 0

    def random(self, segment: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """A sample number (n,) of each segment (n,) by keys (n,), all of its starts alike."""
        base, count = self._bounds(segment)
        return base + (keys % count.astype(np.uint64)).astype(np.int64)

    def window(self, local: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Video (n,), start (k, n) and sample number (k, n) of the k clips of n windows."""
        slot = np.searchsorted(self._ends, local, side="right")
        base, count = self._bounds(slot)
        start = local - base
        stride = self._strides[slot].astype(np.int64)
        phase = start % stride
        of_phase = -(-(count - phase) // stride)  # starts of this phase in the segment
        nth = (start // stride + np.arange(k)[:, None]) % of_phase
        starts = phase + stride * nth
        first, grid = self._first[slot], self._grid[slot].astype(np.int64)
        return self._videos[slot], first + grid * starts, base + starts

    def _bounds(self, segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First sample number (n,) of segments (n,), and how many samples they have (n,)."""
        base = np.where(segment > 0, self._ends[segment - 1], 0)
        return base, self._ends[segment] - base


def _quota(position: np.ndarray, share: int) -> np.ndarray:
    """floor(position * share / 2**32 + 1/2) in integers: how many of the slots before `position`
    go to a store with that share."""
    high, low = position >> _QUOTA_BITS, position & np.uint64(2**32 - 1)
    return high * np.uint64(share) + ((low * np.uint64(share) + np.uint64(2**31)) >> _QUOTA_BITS)


def _nested_splits(shares: np.ndarray) -> list[tuple[int, int]]:
    """(store, its share of what earlier stores left, in units of 2**-32); the largest first, as the
    first is the most even. The last takes the rest."""
    order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
    splits, rest = [], 1.0
    for number in order[:-1]:
        splits.append((number, min(round(shares[number] / rest * 2**32), 2**32)))
        rest -= shares[number]
    return [*splits, (order[-1], 2**32)]


def parse_weights(weights: str, stores: int) -> np.ndarray:
    """The numbers of `data.weights`, one a store, not all 0.

    Raises:
      UserError: it is something else.
    """
    try:
        values = np.array([float(word) for word in weights.split(",")])
    except ValueError as error:
        raise UserError(f"data.weights is {weights!r}, expected numbers like '0.6,0.4'") from error
    if len(values) != stores:
        raise UserError(f"data.weights has {len(values)} numbers for {stores} stores")
    if not np.isfinite(values).all() or values.min() < 0 or values.sum() <= 0:
        raise UserError(f"data.weights is {weights!r}, expected numbers >= 0, not all 0")
    return values


def _shares(
    weights: str, stores: Sequence[Store], sizes: np.ndarray, clip: ClipShape
) -> np.ndarray:
    if not len(stores):
        raise UserError("no stores given; set data.stores")
    if weights.strip():
        values = parse_weights(weights, len(stores))
    else:
        values = sizes.astype(np.float64)
    for store, size, value in zip(stores, sizes, values, strict=True):
        if not size and (value > 0 or not weights.strip()):
            longest = int(store.frames.max())
            raise UserError(
                f"no usable video of {store.path} is long enough for {clip.frames} frames at "
                f"stride {clip.stride} (its longest has {longest} stored frames); use fewer "
                "frames, a smaller stride, or a store prepared at a higher rate"
            )
    return values / values.sum()


def _coprime(jump: int, size: int) -> int:
    while math.gcd(jump, size) != 1:
        jump += 1
    return jump
