"""The videos of several stores as one corpus: what they show and how much of it there is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from data_prep.clips import CLIPS
from data_prep.inspect import seconds_of
from surgjax.data.store import Store
from surgjax.data.tables import read_table
from surgjax.errors import UserError

DIMENSIONS = {  # heading -> column of videos.parquet
    "domain": "domain",
    "source": "dataset",
    "procedure": "procedure",
    "anatomy": "anatomy",
    "licence": "licence",
}
AS_GIVEN = ("source", "licence")  # names; other words are compared without case
COUNTS = ("videos", "cases", "clips", "frames", "source frames", "hours")
NOT_STATED = "not stated"
UNSAID = {"", "unknown", "noassertion", "none"}


@dataclass(frozen=True)
class Corpus:
    """The videos of several stores, one entry each.

    Attributes:
      words: dimension -> (videos,) str; NOT_STATED where a store does not say.
      store: (videos,) int64, number of the store.
      case: (videos,) str.
      operation: (videos,) int64, equal for cases that show one operation.
      counts: (videos,) float64 each of clips, frames, source frames and hours; clips are NaN in a
        store that has none.
    """

    words: dict[str, np.ndarray]
    store: np.ndarray
    case: np.ndarray
    operation: np.ndarray
    counts: dict[str, np.ndarray]


def read(stores: Sequence[Store]) -> Corpus:
    """All videos of the stores. Raises UserError for a damaged clips.parquet."""
    columns: dict[str, list] = {name: [] for name in (*DIMENSIONS, "case", *COUNTS[2:])}
    for store in stores:
        for name, words in words_of(store).items():
            columns[name].append(words)
        seconds = np.nan_to_num(seconds_of(store))
        rate = np.nan_to_num(store.videos["native_fps"].astype(np.float64))
        columns["case"].append(store.videos["case"].astype(str))
        columns["clips"].append(_clips_of(store))
        columns["frames"].append(store.frames.astype(np.float64))
        columns["source frames"].append(np.round(seconds * rate))
        columns["hours"].append(seconds / 3600)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Corpus(
        words={name: joined[name] for name in DIMENSIONS},
        store=np.repeat(np.arange(len(stores)), [len(store) for store in stores]),
        case=joined["case"],
        operation=_operations(stores, joined["case"]),
        counts={name: joined[name] for name in COUNTS[2:]},
    )


def table(corpus: Corpus, dimension: str | None = None) -> dict[str, dict[str, float]]:
    """Word of a dimension -> COUNTS, most hours first; "all" alone without a dimension.

    Cases that show one operation count once; clips are NaN where no store has them.
    """
    words = corpus.words[dimension] if dimension else np.full(len(corpus.case), "all")
    names, group = np.unique(words, return_inverse=True)
    pairs = np.unique(np.stack([group, corpus.operation]), axis=1)
    numbers = {
        "videos": np.bincount(group, minlength=len(names)),
        "cases": np.bincount(pairs[0], minlength=len(names)),
    }
    for name, values in corpus.counts.items():
        known = np.isfinite(values)
        total = np.bincount(group[known], values[known], minlength=len(names))
        numbers[name] = np.where(np.bincount(group[known], minlength=len(names)), total, np.nan)
    order = np.argsort(-numbers["hours"], kind="stable")
    return {str(names[i]): {name: float(numbers[name][i]) for name in COUNTS} for i in order}


def repeated(corpus: Corpus) -> tuple[int, int, float]:
    """How many operations are there more than once, how many of these under several names, and the
    hours of all their copies but the longest. A copy is a case in a store."""
    cases, case = np.unique(corpus.case, return_inverse=True)
    copies, first, of = np.unique(
        corpus.store * len(cases) + case, return_index=True, return_inverse=True
    )
    hours = np.bincount(of, corpus.counts["hours"], minlength=len(copies))
    operation = corpus.operation[first]
    count = np.bincount(operation)
    longest = np.zeros(len(count))
    np.maximum.at(longest, operation, hours)
    twice = count > 1
    names = np.unique(np.stack([corpus.operation, case]), axis=1)[0]
    renamed = np.bincount(names, minlength=len(count)) > 1
    total = np.bincount(operation, hours, minlength=len(count))
    return int(twice.sum()), int((twice & renamed).sum()), float((total - longest)[twice].sum())


def words_of(store: Store) -> dict[str, np.ndarray]:
    """Dimension -> what a store says of each video, (videos,) str; NOT_STATED where nothing."""
    return {
        name: _cleaned(store.videos[column], lower=name not in AS_GIVEN)
        for name, column in DIMENSIONS.items()
    }


def _cleaned(column: np.ndarray, *, lower: bool) -> np.ndarray:
    """Words of a column in one spelling, (n,) str."""
    words, group = np.unique([word or "" for word in column], return_inverse=True)
    cleaned = (" ".join(str(word).split()) for word in words)
    cleaned = [word.lower() if lower else word for word in cleaned]
    said = [NOT_STATED if word.lower() in UNSAID else word for word in cleaned]
    return np.array(said)[group]


def _clips_of(store: Store) -> np.ndarray:
    """Clips of each video, (videos,) float64; NaN if the store has no clips."""
    path = store.path / CLIPS
    if not path.is_file():
        return np.full(len(store), np.nan)
    try:
        named = read_table(path, {"video_id": "string"})["video_id"]
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read ({error}); run `python -m data_prep verify {store.path}`"
        ) from error
    # clips.csv may name a video that could not be read
    rows = pc.index_in(named, value_set=store.column("video_id")).drop_null()
    return np.bincount(rows.to_numpy(), minlength=len(store)).astype(np.float64)


def _operations(stores: Sequence[Store], cases: np.ndarray) -> np.ndarray:
    """A number for each case, equal where the stores know two as one operation."""
    parent: dict[str, str] = {}

    def first(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    for row in (row for store in stores for row in store.same_cases()):
        a, b = first(row["case"]), first(row["same_as"])
        if a != b:
            parent[max(a, b)] = min(a, b)
    names, group = np.unique(cases, return_inverse=True)
    return np.unique([first(name) for name in names], return_inverse=True)[1][group]
