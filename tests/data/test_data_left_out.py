"""Stores that frames were left out of: times find their own frames, and no clip reaches over the
place. Every expectation is counted from the times in the records."""

import functools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgjax.data.captioned import CaptionedPlan, Captions, choose, frames_of
from surgjax.data.clip_list import CLIP_LIST, read_clip_list
from surgjax.data.plan import ClipShape, CuratedPlan, Plan
from surgjax.data.record import CAPTION_COLUMNS
from surgjax.data.store import open_store
from surgjax.errors import UserError

FRAMES = (200, 60, 90)
LEFT_OUT = {
    0: [(0, 1000), (4000, 16_000), (16_000, 17_000), (20_500, 20_900), (39_000, None)],
    2: [(5000, 6000), (7000, 7400)],
}


@pytest.fixture(scope="module", params=[1, 8])
def store(request, make_store, tmp_path_factory):
    """Videos of 5 frames/s: one in several parts, one that is whole, one in three parts."""
    path = tmp_path_factory.mktemp("left") / "out"
    return open_store(
        make_store(path, FRAMES, fps=5.0, frames_per_record=request.param, left_out=LEFT_OUT)
    )


@functools.cache
def times_of(store, video):
    return np.array(store.read_times(video, range(store.frames[video])))


def parts_of(store, video):
    """Stored frames [first, end) between jumps in time."""
    jumps = np.flatnonzero(np.diff(times_of(store, video)) != 200) + 1
    edges = [0, *jumps.tolist(), int(store.frames[video])]
    return list(zip(edges[:-1], edges[1:], strict=True))


def test_stretches_end_where_time_jumps(store):
    for video in range(3):
        assert store.stretches(video) == parts_of(store, video)
    assert [len(store.stretches(video)) for video in range(3)] == [3, 1, 3]
    assert store.interrupted == [0, 2]


def test_every_span_of_time_has_its_own_frames(store):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 3, 600)
    start = rng.integers(0, 1000 * np.array(FRAMES)[video] // 5)
    start = np.where(rng.random(600) < 0.3, start // 200 * 200, start)  # on a frame
    span = np.stack([start, start + rng.choice([1, 90, 200, 1000, 5000], 600)], axis=1)
    found, kinds = store.frames_in(video, span), np.zeros(3, int)
    for v, (a, b), (first, end) in zip(video, span, found, strict=True):
        times = times_of(store, v)
        inside = np.flatnonzero((a <= times) & (times < b))
        near = int((times < a).sum())
        between = any(low < near < high for low, high in parts_of(store, v))
        ends = v == 1 and near == len(times)  # nothing was left out there: the last frame
        if len(inside):
            assert np.arange(first, end).tolist() == inside.tolist()
        elif between or ends:
            assert (first, end) == (near - ends, near - ends + 1)
        else:
            assert first == end
        kinds[0 if len(inside) else 1 if between else 2] += 1
    assert kinds.min() > 20


def test_frames_before_any_time(store):
    for video in (0, 2):
        times = times_of(store, video)
        for t in range(0, 42_000, 70):
            assert store.frames_before(video, t) == (times < t).sum()


def test_a_search_costs_few_reads(make_store, tmp_path, monkeypatch):
    spans = [(t, t + 3000) for t in range(2000, 180_000, 9000)]
    path = make_store(tmp_path / "s", (1000,), fps=5.0, height=16, width=16, left_out={0: spans})
    store, reads = open_store(path), []
    times, read = times_of(store, 0), store.read_times
    monkeypatch.setattr(store, "read_times", lambda *a: reads.append(a) or read(*a))
    asked = np.random.default_rng(0).integers(0, 200_000, 300)
    assert [store.frames_before(0, t) for t in asked] == [(times < t).sum() for t in asked]
    assert len(reads) < 3 * len(asked)  # halving 700 frames takes ten


# --- whole stores


def true_samples(store, clip, mask, grid=1):
    """(video, start) of every clip whose frames are at equal distances in time."""
    found = []
    for video in np.flatnonzero(mask):
        times, step = times_of(store, video), clip.stride_in(store, video)
        for start in range(0, len(times) - (clip.frames - 1) * step, grid):
            shown = times[start : start + (clip.frames - 1) * step + 1]
            if shown[-1] - shown[0] == 200 * (len(shown) - 1):
                found.append((int(video), start))
    return found


@pytest.mark.parametrize("shape", [(4, 1), (4, 4), (8, "0.4s"), (1, 1)])
@pytest.mark.parametrize("k", [1, 3])
def test_no_sample_reaches_over_a_gap_and_none_is_lost(store, shape, k):
    clip, mask = ClipShape(*shape, 32), np.array([True, True, False])
    for used in (mask, np.ones(3, bool)):
        plan = Plan([store], [used], clip, 8, 0, clips_per_window=k)
        expected = true_samples(store, clip, used)
        rows = [plan.example(i) for i in range(plan.num_samples)]
        assert [(int(r["video"]), int(r["start"])) for r in rows] == expected
        drawn = np.concatenate([plan.group_rows(group).ravel() for group in range(5)])
        drawn = [*drawn, *(plan.substitute(plan.group_rows(0)[:, 0], a)[0] for a in range(5))]
        assert {(int(r["video"]), int(r["start"])) for r in drawn} <= set(expected)


def test_of_x264_no_sample_reaches_over_a_gap(store):
    """Frames keep their places in blocks, whatever was left out before them."""
    x264, clip = open_store(store.path), ClipShape(4, 4, 32)
    x264.codec = "x264"
    plan = Plan([x264], [np.ones(3, bool)], clip, 8, 0)
    rows = [plan.example(i) for i in range(plan.num_samples)]
    expected = true_samples(store, clip, np.ones(3, bool), grid=4)
    assert [(int(r["video"]), int(r["start"])) for r in rows] == expected
    spans = read_clip_list(listed(x264.path / "l", [(0, 17_000, 18_000, 1)]), [x264])
    curated = CuratedPlan([x264], [np.ones(3, bool)], clip, 4, 0, spans=spans)
    drawn = np.concatenate([curated.rows(step) for step in range(5)])
    assert {(int(r["video"]), int(r["start"])) for r in drawn} <= set(expected)


# --- chosen spans


def listed(path, rows):
    """A list of (video number, start_ms, end_ms, weight) of the store `out`."""
    rows = [("out", f"video{video:02d}", *rest) for video, *rest in rows]
    columns = dict(zip(CLIP_LIST, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns, schema=pa.schema(list(CLIP_LIST.items()))), path)
    return path


def test_curated_clips_stay_on_one_side_of_a_gap(store, tmp_path):
    rows = [
        (0, 2000, 18_000, 6.0),  # 10 frames before a gap, 5 behind it
        (0, 5000, 9000, 9.0),  # all left out
        (0, 17_000, 17_400, 3.0),  # shorter than a clip, at the edge
        (1, 0, 4000, 2.0),
    ]
    spans = read_clip_list(listed(tmp_path / "l", rows), [store])
    clip, mask = ClipShape(4, 1, 32), np.array([True, True, True])
    plan = CuratedPlan([store], [mask], clip, 11, 0, spans=spans)
    assert plan.report == (
        "4 clips; not used: 0 of held-out cases, 0 of videos shorter than a clip, "
        "1 without stored frames"
    )
    counts = {"before": 0, "behind": 0, "whole": 0}
    for row in np.concatenate([plan.rows(step) for step in range(100)]):
        shown = times_of(store, row["video"])[row["start"] : row["start"] + 4]
        assert len(shown) == 4 and set(np.diff(shown)) == {200}
        if row["video"] == 1:
            counts["whole"] += 1
            assert shown[-1] < 4000
        elif shown[0] < 4000:
            counts["before"] += 1
            assert 2000 <= shown[0]
        else:
            counts["behind"] += 1
            assert 17_000 <= shown[0] and shown[-1] < 18_000
    assert counts == {"before": 400, "behind": 200 + 300, "whole": 200}  # 6 * 10 / 15, 6 * 5 / 15
    with pytest.raises(UserError, match="without stored frames"):
        gone = read_clip_list(listed(tmp_path / "l", rows[1:2]), [store])
        CuratedPlan([store], [mask], clip, 4, 0, spans=gone)


def test_a_store_that_no_list_names_is_used_in_its_parts(store, make_store, tmp_path):
    other = open_store(make_store(tmp_path / "other", (50,)))
    rows = [("other", "video00", 0, 2000, 1.0)]
    columns = dict(zip(CLIP_LIST, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns, schema=pa.schema(list(CLIP_LIST.items()))), tmp_path / "l")
    spans = read_clip_list(tmp_path / "l", [store, other])[0]
    parts = [(v, *part) for v in range(3) for part in parts_of(store, v)]
    assert [tuple(span)[:3] for span in spans.tolist()] == parts
    assert spans["weight"].tolist() == [end - first for _, first, end in parts]


# --- captions


CAPTIONS = [
    (0, 1000, 2000),  # just behind what is left out
    (0, 6000, 8000),  # inside
    (0, 17_000, 19_000),
    (0, 3000, 18_000),  # around
    (0, 39_200, 39_800),  # after the last stored frame
    (1, 3000, 4000),
]


@pytest.fixture(scope="module")
def captioned(store):
    names = [(f"c{i}", f"video{v:02d}", "fine", a, b) for i, (v, a, b) in enumerate(CAPTIONS)]
    rows = [
        dict(zip(CAPTION_COLUMNS, (*row, "t", row[0], True, True), strict=True)) for row in names
    ]
    schema = pa.schema([(n, pa.type_for_alias(kind)) for n, kind in CAPTION_COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), store.path / "captions.parquet")
    return open_store(store.path)


def test_captions_without_frames_are_dropped_and_counted(captioned):
    chosen = choose(captioned, np.ones(3, bool), Captions())
    assert chosen.caption_id.tolist() == ["c0", "c2", "c3", "c5"]
    assert chosen.dropped["without stored frames"] == 2
    words = lambda texts: {  # noqa: E731
        "ids": np.ones((len(texts), 1), np.int32),
        "mask": np.ones((len(texts), 1), bool),
    }
    plan = CaptionedPlan(
        *([captioned], [np.ones(3, bool)], ClipShape(4, 1, 16), 4, 0),
        options=Captions(),
        tokenizer=words,
    )
    assert plan.report == "4 captions (0 coarse, 0 mid, 4 fine); dropped: 2 without stored frames"
    for row in np.concatenate([plan.rows(step) for step in range(20)]):
        shown = times_of(captioned, row["video"])[plan.frames(row[None])[0]]
        start, end = plan._span[row["index"]]
        assert (start <= shown).all() and (shown < end).all()


def test_centred_clips_stay_on_one_side_of_a_gap(captioned):
    options, times = Captions(clips="centred"), times_of(captioned, 0)

    def shown(*span):
        return times[frames_of(captioned, 0, span, ClipShape(4, 2, 16), options)].tolist()

    assert shown(18_000, 19_600) == [18_000, 18_400, 18_800, 19_200]
    assert shown(1000, 1200) == [1000, 1400, 1800, 2200]
    assert shown(3600, 4000) == [2600, 3000, 3400, 3800]
    assert shown(17_000, 17_200) == [17_000, 17_400, 17_800, 18_200]
    with pytest.raises(ValueError, match="video00 has no stored frame in"):
        shown(6000, 8000)


def test_only_covered_frames_are_no_gap(make_store, tmp_path):
    store = open_store(make_store(tmp_path / "s", (40,), fps=5.0, left_out={0: []}))
    assert store.stretches(0) == [(0, 40)] and store.interrupted == []
    assert store.frames_in([0], [(1000, 2000)]).tolist() == [[5, 10]]
