"""A list of clips that a run draws from in place of whole stores, as `surgjax.curate` writes it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from surgjax.data.plan import SPAN, whole_videos
from surgjax.data.store import Store
from surgjax.errors import UserError, nearest

CLIP_LIST = {
    "store": pa.string(),
    "video_id": pa.string(),
    "start_ms": pa.int64(),
    "end_ms": pa.int64(),
    "weight": pa.float64(),
}


def read_clip_list(path: Path, stores: list[Store]) -> list[np.ndarray]:
    """The spans that a curated list names in each store, dtype plan.SPAN (n,), with first == end
    where no frame is stored; all of a store that it does not name, as of a clinical core that is
    used whole.

    Args:
      path: Parquet with the columns store (its name), video_id, start_ms, end_ms and weight (turns
        in an epoch; rows with 0 have none).

    Raises:
      UserError: no such table, or a store or video that does not match, named.
    """
    try:
        table = pq.read_table(path)
        missing = [name for name in CLIP_LIST if name not in table.column_names]
        if missing:
            raise UserError(
                f"data.clips={path} lacks the column {missing[0]}; expected "
                f"{', '.join(CLIP_LIST)}, as `python -m surgjax.curate` writes them"
            )
        table = table.select(list(CLIP_LIST)).cast(pa.schema(list(CLIP_LIST.items())))
        table.validate(full=True)  # texts may be none
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"data.clips={path} cannot be read ({' '.join(str(error).split())[:200]}); expected a "
            f"Parquet file with {', '.join(CLIP_LIST)}"
        ) from error
    columns = {name: table[name].to_numpy() for name in ("start_ms", "end_ms", "weight")}
    start, end, weight = columns.values()
    bad = ~((start >= 0) & (start < end) & (weight >= 0) & np.isfinite(weight))  # NaN where empty
    if bad.any():
        row = int(bad.argmax())
        found = ", ".join(f"{name} {column[row]:g}" for name, column in columns.items())
        raise UserError(
            f"data.clips={path} has {found} in row {row}; expected 0 <= start_ms < end_ms and a "
            f"weight of at least 0"
        )
    names = [store.name for store in stores]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"data.stores has two stores named {min(twice)!r}, which data.clips cannot tell apart; "
            f"prepare one of them again with another --dataset"
        )
    for name in table["store"].unique().to_pylist():
        if name not in names:
            raise UserError(
                f"data.clips={path} names the store {name!r}{nearest(str(name), names)}; "
                f"data.stores has {', '.join(names)}; add that store, or list clips of these alone"
            )
    if not len(table):
        raise UserError(f"data.clips={path} names no clip; curate again, or leave data.clips empty")
    listed = set(table["store"].unique().to_pylist())
    table = table.filter(pa.array(weight > 0))
    return [
        _spans_of(store, table.filter(pc.equal(table["store"], store.name)), path)
        if store.name in listed
        else whole_videos(store)
        for store in stores
    ]


def _spans_of(store: Store, table: pa.Table, path: Path) -> np.ndarray:
    if not len(table):
        raise UserError(
            f"data.clips={path} names no clip of {store.path} ({store.name!r}) with a weight above "
            f"0; list its clips too, or leave it out of data.stores"
        )
    video = pc.index_in(table["video_id"], value_set=store.column("video_id"))
    if video.null_count:
        name = table["video_id"].filter(pc.is_null(video))[0].as_py()
        raise UserError(
            f"data.clips={path} names the video {name!r}, which {store.path} lacks; it was made of "
            f"another version of the store: curate again"
        )
    video = video.to_numpy()
    span_ms = np.stack([table["start_ms"].to_numpy(), table["end_ms"].to_numpy()], axis=1)
    frames = store.frames_in(video, span_ms)
    if (late := frames[:, 0] > store.frames[video]).any():
        row = int(late.argmax())
        raise UserError(
            f"data.clips={path} has a clip of {store.video_id(video[row])} from {span_ms[row, 0]} "
            f"ms on, after the end of that video in {store.path}; it was made of another version "
            f"of the store: curate again"
        )
    spans = np.zeros(len(video), SPAN)
    spans["video"], spans["weight"] = video, table["weight"].to_numpy()
    spans["first"], spans["end"] = frames.T
    return spans
