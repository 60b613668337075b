"""Runs that draw from a curated list of clips: every clip its turns, and nothing outside them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import tiny

from surgjax import build, provenance
from surgjax.data.clip_list import read_clip_list
from surgjax.data.loader import train_batches
from surgjax.data.plan import ClipShape, CuratedPlan
from surgjax.data.store import open_store
from surgjax.errors import UserError

FRAMES = {"a": (400, 120, 300), "b": (500, 250), "c": (90,)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory, make_tables):
    """Native-rate tables a and b, and c at 1 frame a second; video 1 of a is a test case."""
    root = tmp_path_factory.mktemp("listed")
    for name, frames in FRAMES.items():
        split = ["test" if (name, i) == ("a", 1) else "train" for i in range(len(frames))]
        fps = 1.0 if name == "c" else 25.0
        make_tables(root / name, frames, fps=fps, split_official=split)
    return {name: open_store(root / name) for name in FRAMES}


def listed(path, rows):
    """A list of (store, video number, start_ms, end_ms, weight)."""
    columns = {
        "store": [r[0] for r in rows],
        "video_id": [r[1] if isinstance(r[1], str) else f"video{r[1]:02d}" for r in rows],
        "start_ms": [r[2] for r in rows],
        "end_ms": [r[3] for r in rows],
        "weight": pa.array([r[4] for r in rows], pa.float64()),
    }
    pq.write_table(pa.table(columns), path)
    return path


def plan_of(path, stores, clip, batch_size=4, masks=None, **options):
    masks = masks or [np.ones(len(store), bool) for store in stores]
    spans = read_clip_list(path, stores)
    seed = options.pop("seed", 3)
    return CuratedPlan(stores, masks, clip, batch_size, seed, spans=spans, **options)


def span_of(row, rows, names, fps=25.0):
    """Which of the listed rows a delivered clip begins in; spans here do not overlap."""
    for number, (store, video, start, end, _) in enumerate(rows):
        same = (names[row["store"]], int(row["video"])) == (store, video)
        if same and start <= row["start"] * 1000 / fps < end:
            return number
    raise AssertionError(f"{row} is in no span")


SOME = [
    ("a", 0, 0, 4000, 1),
    ("a", 0, 4000, 8000, 3),
    ("a", 2, 1000, 5000, 2),
    ("a", 2, 6000, 9000, 0),
    ("a", 0, 12000, 15000, 5),
]


# --- how often


@pytest.mark.parametrize("weights", [(1, 3, 2, 0, 5), (1, 1, 1, 1, 1), (7, 0, 0, 1, 40)])
def test_every_clip_has_its_turns_in_every_epoch(stores, tmp_path, weights):
    rows = [(*row[:4], weight) for row, weight in zip(SOME, weights, strict=True)]
    plan = plan_of(listed(tmp_path / "l", rows), [stores["a"]], ClipShape(4, 2, 32), batch_size=1)
    turns = sum(weights)
    assert plan.epoch_steps == turns
    starts = set()
    for epoch in range(4):
        steps = range(epoch * turns, (epoch + 1) * turns)
        drawn = np.concatenate([plan.rows(step) for step in steps])
        found = [span_of(row, rows, "a") for row in drawn]
        assert np.bincount(found, minlength=5).tolist() == list(weights)
        assert turns < 8 or found != sorted(found)
        starts |= {int(row["start"]) for row in drawn}
    assert len(starts) > 4  # not one start a span


def test_broken_weights_are_right_over_epochs(stores, tmp_path):
    weights = np.array([0.3, 1.0, 2.6, 0.05, 1.75])
    rows = [(*row[:4], weight) for row, weight in zip(SOME, weights, strict=True)]
    plan = plan_of(listed(tmp_path / "l", rows), [stores["a"]], ClipShape(4, 2, 32), batch_size=1)
    turns = int(plan.epoch_steps)
    assert turns == 6  # 5.7, rounded
    each = weights * turns / weights.sum()
    total = np.zeros(5)
    for epoch in range(200):
        drawn = [plan.rows(epoch * turns + i)[0] for i in range(turns)]
        count = np.bincount([span_of(row, rows, "a") for row in drawn], minlength=5)
        assert ((count >= np.floor(each)) & (count <= np.ceil(each))).all()
        total += count
        assert np.abs(total - (epoch + 1) * each).max() < 4
    # shares that sum to 1 are a list as well: at least one turn a clip
    shares = [(*row[:4], 0.2) for row in SOME]
    plan = plan_of(listed(tmp_path / "l", shares), [stores["a"]], ClipShape(4, 2, 32), batch_size=1)
    found = [span_of(plan.rows(step)[0], shares, "a") for step in range(5)]
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_all_starts_of_a_span_are_alike(stores, tmp_path):
    rows = [("a", 0, 2000, 3000, 1)]  # frames 50 to 74: starts 50 to 68 for 7 frames
    plan = plan_of(listed(tmp_path / "l", rows), [stores["a"]], ClipShape(4, 2, 32), batch_size=50)
    starts = np.concatenate([plan.rows(step)["start"] for step in range(100)])
    counts = np.bincount(starts, minlength=400)
    assert set(np.flatnonzero(counts)) == set(range(50, 69))
    from scipy import stats

    assert stats.chisquare(counts[50:69]).pvalue > 1e-4


# --- where


@pytest.mark.parametrize("stride, fps", [(2, 25.0), ("0.2s", 25.0), ("1s", 1.0), (1, 1.0)])
def test_clips_lie_inside_their_spans(stores, tmp_path, stride, fps):
    name, frames = ("a", 400) if fps == 25.0 else ("c", 90)
    spans = [(0, 16_000), (1000, 3000), (3000, 3040), (9_990, 15_010)]
    if fps == 1.0:
        spans = [(0, 15_000), (15_000, 30_000), (40_000, 42_000), (88_000, 90_000), (500, 11_500)]
    rows = [(name, 0, *span, 2) for span in spans]
    clip = ClipShape(4, stride, 32)
    plan = plan_of(listed(tmp_path / "l", rows), [stores[name]], clip, batch_size=8)
    step = clip.stride_in(stores[name], 0)
    for number, (start, end) in enumerate(spans):
        inside = [i for i in range(frames) if start <= i * 1000 / fps < end]
        alone = plan_of(
            listed(tmp_path / "one", [rows[number]]), [stores[name]], clip, batch_size=8
        )
        for row in np.concatenate([alone.rows(i) for i in range(10)]):
            shown = int(row["start"]) + step * np.arange(4)
            assert 0 <= shown[0] and shown[-1] < frames
            if len(inside) > 3 * step:
                assert inside[0] <= shown[0] and shown[-1] <= inside[-1]
            else:
                off = (shown[0] + shown[-1]) / 2 - (inside[0] + inside[-1]) / 2
                assert abs(off) <= 0.5 or shown[0] == 0 or shown[-1] == frames - 1
    assert plan.num_samples == sum(
        max(1, sum(start <= i * 1000 / fps < end for i in range(frames)) - 3 * step)
        for start, end in spans
    )


def test_variable_rates_are_asked_for_their_times(make_store, tmp_path):
    """The real time of every frame counts, not the mean rate."""
    store = make_store(tmp_path / "v", (60,), fps=10.0, qc_variable_rate=[True])
    videos = pq.read_table(store / "videos.parquet")
    at = videos.column_names.index("stored_fps")
    videos = videos.set_column(at, "stored_fps", pa.array([13.0]))  # frames come every 100 ms
    pq.write_table(videos, store / "videos.parquet")
    stores = [open_store(store)]
    spans = read_clip_list(listed(tmp_path / "l", [("v", 0, 2000, 3000, 1)]), stores)
    assert spans[0].tolist() == [(0, 20, 30, 1.0)]


@pytest.mark.parametrize("k", [1, 3])
def test_windows_and_stand_ins_stay_inside(stores, tmp_path, k):
    rows = [("a", 0, 0, 4000, 1), ("a", 2, 1000, 1300, 3)]
    path = listed(tmp_path / "l", rows)
    plan = plan_of(path, [stores["a"]], ClipShape(4, 2, 32), batch_size=4, clips_per_window=k)
    drawn = [plan.group_rows(group) for group in range(12)]
    found = [span_of(row, rows, "a") for row in np.concatenate(drawn, axis=1).ravel()]
    assert np.bincount(found).tolist() == [12 * k, 36 * k]
    for window in drawn[0].T:
        for attempt in range(1, 20):
            for row in plan.substitute(window, attempt):
                span_of(row, rows, "a")
        for row in window:
            same = plan.example(int(row["index"]))
            assert (same["video"], same["start"]) == (row["video"], row["start"])


def test_repeats_show_one_clip(stores, tmp_path):
    path = listed(tmp_path / "l", SOME)
    plan = plan_of(path, [stores["a"]], ClipShape(4, 2, 32), batch_size=22, repeats=2)
    rows = plan.rows(5)
    assert np.array_equal(rows["start"][::2], rows["start"][1::2])
    assert (rows["index"][::2] != rows["index"][1::2]).all()
    found = [span_of(row, SOME, "a") for row in rows[::2]]
    assert np.bincount(found).tolist() == [1, 3, 2, 0, 5]  # one epoch


# --- the same whatever the machines, from any step


def test_rows_are_a_function_of_seed_and_step(stores, tmp_path):
    path = listed(tmp_path / "l", SOME)
    plans = [plan_of(path, [stores["a"]], ClipShape(4, 2, 32), seed=s) for s in (3, 3, 4)]
    rows = [plans[0].rows(step) for step in range(20)]
    for step in (19, 3, 11):
        assert np.array_equal(plans[1].rows(step), rows[step])
    assert not np.array_equal(plans[2].rows(0), rows[0])
    ahead = [plan.rows(10**11) for plan in plans[:2]]
    assert np.array_equal(*ahead)


def test_any_number_of_hosts_and_any_start_give_the_same_batches(make_store, tmp_path):
    stores = [open_store(make_store(tmp_path / "m", (60, 40)))]
    path = listed(tmp_path / "l", [("m", 0, 0, 1000, 2), ("m", 1, 400, 1600, 1)])
    plan = plan_of(path, stores, ClipShape(4, 2, 32), batch_size=8)

    def batches(start, host=0, hosts=1):
        options = {"clip": plan.clip, "start_step": start, "stop_step": 5}
        with train_batches(plan, stores, host=host, num_hosts=hosts, **options) as source:
            return [batch for batch, _ in source]

    whole = batches(0)
    for hosts in (2, 4):
        parts = [batches(0, host, hosts) for host in range(hosts)]
        for step, batch in enumerate(whole):
            for name in ("index", "video"):
                together = np.concatenate([part[step][name] for part in parts])
                assert np.array_equal(together, batch[name])
    for step, batch in zip((3, 4), batches(3), strict=True):
        assert np.array_equal(batch["video"], whole[step]["video"])


# --- several stores


def test_mixture_weights_stay_exact(stores, tmp_path):
    rows = [*SOME, ("b", 0, 0, 20_000, 1), ("b", 1, 0, 10_000, 1)]
    path = listed(tmp_path / "l", rows)
    both, clip = [stores["a"], stores["b"]], ClipShape(4, 2, 32)
    plan = plan_of(path, both, clip, batch_size=200, weights="0.405,0.595")
    drawn = np.concatenate([plan.rows(step) for step in range(50)])
    np.testing.assert_allclose(np.mean(drawn["store"] == 0), 0.405, atol=1e-4)
    found = np.bincount([span_of(row, rows, "ab") for row in drawn], minlength=7)
    of_a = found[:5] / found[:5].sum()
    np.testing.assert_allclose(of_a, np.array([1, 3, 2, 0, 5]) / 11, atol=5 / found[:5].sum())
    # without weights, in proportion to the turns: 11 and 2
    plan = plan_of(path, both, clip, batch_size=13)
    drawn = np.concatenate([plan.rows(step) for step in range(40)])
    found = np.bincount([span_of(row, rows, "ab") for row in drawn], minlength=7)
    assert np.abs(found - 40 * np.array([1, 3, 2, 0, 5, 1, 1])).max() <= 5


# --- what does not fit is refused


@pytest.mark.parametrize(
    "rows, message",
    [
        ([("x", 0, 0, 9000, 1)], r"names the store 'x'.*data.stores has a, b"),
        (
            [("a", "video07", 0, 9, 1), ("b", 0, 0, 9, 1)],
            "names the video 'video07', which .*a lac",
        ),
        ([("a", 0, 0, 9000, 1), ("b", 0, 0, 9000, 0)], r"names no clip of .*b \('b'\)"),
        ([], "names no clip; curate again"),
        ([("a", 0, 9000, 9000, 1)], "start_ms 9000, end_ms 9000, weight 1 in row 0"),
        ([("b", 0, 0, 9, 1), ("a", 0, 0, 9, -1)], "weight -1 in row 1"),
        ([("a", 0, 0, 9, float("nan"))], "weight nan in row 0"),
        ([("a", 0, 0, 9, None)], "weight nan in row 0"),
        ([("a", 0, 17_000, 18_000, 1), ("b", 0, 0, 9, 1)], "from 17000 ms on, after the end"),
    ],
)
def test_lists_that_do_not_fit_are_refused(stores, tmp_path, rows, message):
    empty = pa.schema([("store", pa.string()), ("video_id", pa.string())])
    path = tmp_path / "l.parquet"
    if rows:
        listed(path, rows)
    else:
        fields = [*empty, *(pa.field(n, pa.int64()) for n in ("start_ms", "end_ms", "weight"))]
        pq.write_table(pa.schema(fields).empty_table(), path)
    with pytest.raises(UserError, match=message):
        read_clip_list(path, [stores["a"], stores["b"]])


def test_a_store_that_is_not_listed_is_used_whole(stores, tmp_path):
    path = listed(tmp_path / "l.parquet", [("a", 0, 0, 9000, 1)])
    a, b = read_clip_list(path, [stores["a"], stores["b"]])
    assert len(a) == 1 and b["video"].tolist() == list(range(len(stores["b"])))
    assert b["end"].tolist() == stores["b"].frames.tolist() and not b["first"].any()


def test_files_that_are_no_list_are_refused(stores, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_clip_list(tmp_path / "none.parquet", [stores["a"]])
    (tmp_path / "bad.parquet").write_text("store,video_id\n")
    with pytest.raises(UserError, match="cannot be read"):
        read_clip_list(tmp_path / "bad.parquet", [stores["a"]])
    pq.write_table(pa.table({"video_id": ["video00"]}), tmp_path / "of_store.parquet")
    with pytest.raises(UserError, match="lacks the column store; expected store, video_id"):
        read_clip_list(tmp_path / "of_store.parquet", [stores["a"]])
    with pytest.raises(UserError, match="two stores named 'a'"):
        read_clip_list(listed(tmp_path / "l", SOME), [stores["a"], stores["a"]])


# --- through a config


def test_a_config_takes_a_list(stores, tmp_path, caplog):
    rows = [*SOME, ("a", 1, 0, 3000, 9)]
    path = listed(tmp_path / "l.parquet", rows)
    about = stores["a"].path / "store.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"licences": {"made": "CC0-1.0"}}))
    cfg = tiny(stores["a"].path, data__clips=str(path))
    with caplog.at_level("INFO", "surgjax"):
        data = build.open_data(cfg)
    assert "4 clips; not used: 1 of held-out cases, 0 of videos shorter" in caplog.text
    drawn = np.concatenate([data.plan.rows(step) for step in range(22)])  # 16 epochs of 11
    found = np.bincount([span_of(row, rows, "a") for row in drawn], minlength=6)
    assert found.tolist() == [16, 48, 32, 0, 80, 0]
    meta = provenance.describe(cfg, data, None)
    assert meta["used_cases"] == ["made/video00", "made/video02"]
    assert len(meta["clips"]) == 64 and json.dumps(meta)

    only = listed(tmp_path / "held.parquet", [("a", 1, 0, 3000, 1)])
    with pytest.raises(UserError, match="leaves no clip of .*a to train on"):
        build.open_data(tiny(stores["a"].path, data__clips=str(only)))
    kept = tiny(stores["a"].path, data__clips=str(only), data__held_out="none")
    assert build.open_data(kept).leakage["cases"] == ["made/video01"]
    one = tiny(stores["a"].path, data__clips=str(listed(tmp_path / "x", SOME[:1])))
    assert build.open_data(one).leakage["cases"] == ["made/video00"]
    assert provenance.describe(cfg, build.open_data(tiny(stores["a"].path)), None)["clips"] is None
