"""Saved embeddings of video-caption pairs, and retrieval both ways computed from them.

embeddings.parquet has one row a model and pair; an outside model's embeddings are scored from the
same table:

    dataset, split, video_id, case   where the clip comes from
    caption_id, level, text          its caption; equal texts are one
    start_ms, end_ms                 the caption's span
    video_embedding, text_embedding  lists of float32; similarity is their dot product
    model                            "pretrained", "random", ...
    protocol                         how they were made, in a line

Text to video asks with every pair's text for the clips that have it, among all clips. Video to text
asks with every clip for its text, among all different texts. The rank of a query is 1 plus the
number of wrong items at least as similar as the best right one, so a model that maps everything to
one point gains nothing by ties.
"""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from surgjax.benchmark import statistics
from surgjax.benchmark.predictions import matrix, read_parquet
from surgjax.errors import UserError
from surgjax.files import whole

COLUMNS = ("dataset", "split", "video_id", "case", "caption_id", "level", "text")
COLUMNS += ("start_ms", "end_ms", "model", "protocol")
EMBEDDINGS = ("video_embedding", "text_embedding")
RECALLS = (1, 5, 10)
DIRECTIONS = ("text_to_video", "video_to_text")
SLAB = 2**24  # similarities held at once


def write_embeddings(
    path: Path,
    columns: dict[str, np.ndarray],
    embeddings: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes the file whole.

    Args:
      columns: all of COLUMNS but model, each (n,).
      embeddings: model -> (video (n, d), text (n, d)).

    Raises:
      ValueError: a column is missing or of another length.
    """
    missing = [name for name in COLUMNS if name not in columns and name != "model"]
    lengths = {len(x) for x in columns.values()} | {len(x) for p in embeddings.values() for x in p}
    if missing or len(lengths) > 1:
        raise ValueError(f"embeddings lack {missing} or have columns of lengths {sorted(lengths)}")
    parts = []
    for name, pair in embeddings.items():
        data = {key: pa.array(columns[key]) for key in COLUMNS if key != "model"}
        data |= {key: _lists(x) for key, x in zip(EMBEDDINGS, pair, strict=True)}
        data["model"] = pa.array([name] * len(pair[0]))
        parts.append(pa.table({key: data[key] for key in (*COLUMNS, *EMBEDDINGS)}))
    with whole(path) as part:
        pq.write_table(pa.concat_tables(parts), part)


def read_embeddings(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Model -> columns as numpy arrays, the embeddings (n, d).

    Raises:
      UserError: not there, unreadable, columns missing, or embeddings of several lengths.
    """
    table = read_parquet(path, "embeddings")
    missing = [name for name in (*COLUMNS, *EMBEDDINGS) if name not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    models = table["model"].to_numpy()
    found = {}
    for name in dict.fromkeys(models.tolist()):
        rows = table.filter(pa.array(models == name))
        found[name] = {key: rows[key].to_numpy() for key in COLUMNS}
        for key in EMBEDDINGS:
            found[name][key] = matrix(path, rows, key).astype(np.float32)
            if not found[name][key].size or not np.isfinite(found[name][key]).all():
                raise UserError(f"{path}: {key} of model {name} is empty or not finite")
        if found[name]["video_embedding"].shape != found[name]["text_embedding"].shape:
            raise UserError(f"{path}: video and text embeddings of model {name} differ in length")
    return found


def ranks(
    query: Float[np.ndarray, "q d"],
    items: Float[np.ndarray, "m d"],
    right: Int[np.ndarray, "q"],
    group: Int[np.ndarray, "m"],
) -> Int[np.ndarray, "q"]:
    """Rank from 1 of each query's best right item; item j is right for query i where
    `group[j] == right[i]`. Ties with wrong items count against it."""
    found = np.empty(len(query), np.int64)
    step = max(1, SLAB // len(items))
    for a in range(0, len(query), step):
        similar = query[a : a + step].astype(np.float64) @ items.T.astype(np.float64)
        is_right = group == right[a : a + step, None]
        best = np.where(is_right, similar, -np.inf).max(axis=1)
        found[a : a + step] = 1 + (~is_right & (similar >= best[:, None])).sum(axis=1)
    return found


def chance(items: int, right: Int[np.ndarray, "q"]) -> tuple[dict[int, float], float]:
    """({k: recall at k}, median rank) of random order, for queries with so many right items.

    P(rank <= k) = 1 - C(items - right, k) / C(items, k), with ranks counted among all items that
    are wrong or the first right one.
    """
    counts, number = np.unique(right, return_counts=True)
    weight = number / number.sum()

    def share(k: int) -> float:
        k = min(k, items)
        misses = [
            0.0 if items - r < k else math.exp(_choose(int(items - r), k) - _choose(items, k))
            for r in counts
        ]
        return float(1 - weight @ np.array(misses))

    low, high = 1, items
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) >= 0.5 else (middle + 1, high)
    return {k: share(k) for k in RECALLS}, float(low)


def score(path: Path, *, seed: int = 0) -> dict:
    """Retrieval of every model in an embeddings file, over all pairs and within each level.

    Returns:
      {"pairs", "videos", "groups": {"all" | level: {"pairs", "texts", "chance": {direction:
      {"recall_1", ..., "median_rank"}}, "models": {name: {direction: {"recall_1", ...,
      "median_rank", "recall_1_per_video": Interval as a dict, ...}}}}}}. An interval resamples the
      videos that queries come from; the items searched stay the same.

    Raises:
      UserError: as `read_embeddings`, or models that were asked other pairs.
    """
    tables = read_embeddings(path)
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if not np.array_equal(table["caption_id"], first["caption_id"]):
            raise UserError(f"{path}: model {name} was asked other pairs than {next(iter(tables))}")
    groups = {"all": np.ones(len(first["text"]), bool)}
    levels = dict.fromkeys(first["level"].tolist())
    if len(levels) > 1:
        groups |= {level: first["level"] == level for level in levels}
    return {
        "pairs": len(first["text"]),
        "videos": sorted(set(first["video_id"].tolist())),
        "groups": {name: _score(tables, rows, seed) for name, rows in groups.items()},
    }


def _score(
    tables: dict[str, dict[str, np.ndarray]], rows: Bool[np.ndarray, "n"], seed: int
) -> dict:
    first = next(iter(tables.values()))
    texts, kept, number, copies = np.unique(
        first["text"][rows].astype(str), return_index=True, return_inverse=True, return_counts=True
    )
    videos, of_video = np.unique(first["video_id"][rows].astype(str), return_inverse=True)
    by_chance = {
        "text_to_video": chance(len(number), copies[number]),
        "video_to_text": chance(len(texts), np.ones(len(number), np.int64)),
    }
    models = {}
    for name, table in tables.items():
        video, text = (table[key][rows] for key in EMBEDDINGS)
        found = {
            "text_to_video": ranks(text, video, number, number),
            "video_to_text": ranks(video, text[kept], number, np.arange(len(texts))),
        }
        models[name] = {
            key: _describe(rank, of_video, len(videos), seed) for key, rank in found.items()
        }
    return {
        "pairs": int(rows.sum()),
        "texts": len(texts),
        "chance": {
            key: {f"recall_{k}": value for k, value in recall.items()} | {"median_rank": median}
            for key, (recall, median) in by_chance.items()
        },
        "models": models,
    }


def _describe(rank: Int[np.ndarray, "q"], of_video: np.ndarray, videos: int, seed: int) -> dict:
    result = {f"recall_{k}": float((rank <= k).mean()) for k in RECALLS}
    result["median_rank"] = float(np.median(rank))
    queries = np.bincount(of_video, minlength=videos)
    for k in RECALLS:
        hits = np.bincount(of_video, weights=rank <= k, minlength=videos) / queries
        result[f"recall_{k}_per_video"] = statistics.bootstrap_mean(hits, seed=seed).as_dict()
    return result


def text_table(result: dict) -> str:
    """The result of `score` as lines of text."""
    lines = []
    for group, found in result["groups"].items():
        lines.append(f"{group}: {found['pairs']} pairs, {found['texts']} different texts")
        lines.append(
            f"  {'':15s}{'':14s}   R@1    R@5   R@10  median   R@1 per video [95 % interval]"
        )
        for direction in DIRECTIONS:
            rows = {name: row[direction] for name, row in found["models"].items()}
            for name, row in {**rows, "chance": found["chance"][direction]}.items():
                recalls = "".join(f"  {row[f'recall_{k}']:.3f}" for k in RECALLS)
                line = f"  {direction.replace('_', ' '):15s}{name:14s}{recalls}"
                line += f"  {row['median_rank']:6g}"
                if "recall_1_per_video" in row:
                    each = row["recall_1_per_video"]
                    line += f"   {statistics.as_text(each)}"
                lines.append(line)
    return "\n".join(lines)


def _lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.astype(np.float32).ravel()))


def _choose(n: int, k: int) -> float:
    """Logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
