"""Videos cut into clips: nothing is lost, and the store stays whole."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_videos as make

from data_prep import clips
from data_prep.__main__ import main
from surgjax.data.store import open_store
from surgjax.errors import UserError


@pytest.mark.parametrize(
    "end_s, seconds, overlap, expected",
    [
        (45, 15, 0, [(0, 15), (15, 30), (30, 45)]),
        (52.5, 15, 0, [(0, 15), (15, 30), (30, 45), (45, 52.5)]),  # a rest of half the length
        (52.4, 15, 0, [(0, 15), (15, 30), (30, 52.4)]),  # a shorter one: joined
        (45.04, 15, 0, [(0, 15), (15, 30), (30, 45.04)]),
        (14.9, 15, 0, [(0, 14.9)]),  # a shorter video
        (7, 15, 0, [(0, 7)]),
        (0.2, 15, 0, [(0, 0.2)]),
        (15, 15, 0, [(0, 15)]),
        (22.5, 15, 0, [(0, 15), (15, 22.5)]),
        (22.4, 15, 0, [(0, 22.4)]),
        (35, 15, 5, [(0, 15), (10, 25), (20, 35)]),
        (38, 15, 5, [(0, 15), (10, 25), (20, 38)]),
        (43, 15, 5, [(0, 15), (10, 25), (20, 35), (30, 43)]),
        (20, 15, 12, [(0, 15), (3, 20)]),
        (2.5, 0.5, 0, [(0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2), (2, 2.5)]),
        (0.7, 0.1, 0, [(i / 10, (i + 1) / 10) for i in range(7)]),
    ],
)
def test_a_video_is_cut(end_s, seconds, overlap, expected):
    found = clips.cut(1000 * end_s, seconds, overlap)
    assert found == [(round(1000 * a), round(1000 * b)) for a, b in expected]


@pytest.mark.parametrize("overlap", [0, 1.7, 4])
def test_everything_is_in_a_clip_and_none_is_odd(overlap):
    for end_ms in np.random.default_rng(0).uniform(40, 90_000, 300):
        found = clips.cut(end_ms, 5, overlap)
        starts, ends = np.array(found).T
        assert starts[0] == 0 and ends[-1] == round(end_ms)
        assert (starts[1:] <= ends[:-1]).all() and (np.diff(starts) > 0).all()
        if end_ms >= 5000:
            assert (ends - starts).min() >= 2500 and (ends - starts).max() < 7501
        assert (ends[:-1] - starts[:-1] == 5000).all()


@pytest.fixture
def store(tmp_path):
    """Two videos of 2 s and 3.2 s at 25 frames a second."""
    make.write_video(tmp_path / "videos" / "one.mp4", frames=50)
    make.write_video(tmp_path / "videos" / "two.mp4", frames=80)
    make.shards(tmp_path / "videos", tmp_path / "store", "--fps", "native", "--short-side", "64")
    return tmp_path / "store"


def test_a_store_gets_clips_and_stays_whole(store, capsys):
    before = make.contents(store)
    assert main(["clips", str(store), "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert "5 clips of 2 videos" in out and "26 stored frames on average" in out
    assert "a rest of half of it or more is a clip" in out
    assert make.rows(store, "clips") == [
        {"video_id": name, "start_ms": start, "end_ms": end}
        for name, start, end in [
            ("one", 0, 1000),
            ("one", 1000, 2000),
            ("two", 0, 1000),
            ("two", 1000, 2000),
            ("two", 2000, 3200),
        ]
    ]
    after = make.contents(store)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"clips.parquet", "store.json"}
    assert main(["verify", str(store)]) == 0
    # the same again changes nothing; another cut is refused until asked for
    assert main(["clips", str(store), "--seconds", "1"]) == 0
    assert "as it had them already" in capsys.readouterr().out
    assert make.contents(store) == after
    with pytest.raises(UserError, match="5 other clips in clips.parquet.*--replace"):
        main(["clips", str(store), "--seconds", "2"])
    assert make.contents(store) == after
    assert main(["clips", str(store), "--seconds", "2", "--replace"]) == 0
    assert [row["end_ms"] for row in make.rows(store, "clips")] == [2000, 2000, 3200]
    assert main(["verify", str(store)]) == 0


def test_an_interrupted_cut_is_finished(store):
    main(["clips", str(store), "--seconds", "1"])
    done = make.contents(store)
    about = store / "store.json"
    # killed between clips.parquet and store.json
    (store / "clips.parquet").unlink()
    main(["clips", str(store), "--seconds", "1"])
    assert make.contents(store) == done
    meta = json.loads(about.read_text())
    del meta["tables"]["clips.parquet"]
    about.write_text(json.dumps(meta, indent=1) + "\n")
    main(["clips", str(store), "--seconds", "1"])
    assert make.contents(store)["clips.parquet"] == done["clips.parquet"]
    assert main(["verify", str(store)]) == 0


def test_clips_of_a_person_are_kept(store, tmp_path):
    (tmp_path / "videos" / "clips.csv").write_text("video_id,start_ms,end_ms\none,100,900\n")
    make.shards(tmp_path / "videos", store, "--fps", "native", "--short-side", "64")
    assert len(make.rows(store, "clips")) == 1
    with pytest.raises(UserError, match="has 1 other clips in clips.parquet, from clips.csv"):
        main(["clips", str(store)])
    assert pq.read_table(store / "clips.parquet")["end_ms"].to_pylist() == [900]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--seconds", "0"], "--seconds is 0"),
        (["--seconds", "-3"], "--seconds is -3"),
        (["--seconds", "nan"], "--seconds is nan"),
        (["--overlap", "15"], "--overlap is 15.*less than the 15 of a clip"),
        (["--overlap", "-1"], "--overlap is -1"),
    ],
)
def test_impossible_lengths_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        main(["clips", str(tmp_path), *options])


def test_no_store_is_told(tmp_path):
    with pytest.raises(UserError, match="no store at"):
        main(["clips", str(tmp_path / "none")])


@pytest.mark.parametrize("seconds, overlap", [(1, 0), (3, 0), (3, 1), (15, 0)])
def test_no_clip_reaches_over_frames_that_were_left_out(tmp_path, seconds, overlap):
    """20 s of which 0 to 1, 2 to 8 and 19 to 20 s are left out, and 6 s that are whole."""
    videos, size = tmp_path / "videos", {}
    for name, frames in (("cut", 100), ("whole", 30)):
        size[name] = make.write_video(videos / f"{name}.mp4", frames, rate=5).stat().st_size
    rows = [["cut", "20.000", 9, size["cut"], *[0] * 6, 0, 0, 1, 1, "", "", ""]]
    rows += [["whole", "6.000", 9, size["whole"], *[0] * 6, 0, 0, 1, 1, "", "", ""]]
    spans = [("0.000", "1.000"), ("2.000", "8.000"), ("19.000", "20.000")]
    make.findings(tmp_path / "qc", rows, [["cut", *s, "out_of_body", "1"] for s in spans], [])
    make.shards(videos, tmp_path / "s", "--fps", "5", "--qc", str(tmp_path / "qc"))
    assert main(["clips", str(tmp_path / "s"), f"--seconds={seconds}", f"--overlap={overlap}"]) == 0
    assert main(["verify", str(tmp_path / "s")]) == 0
    store, found = open_store(tmp_path / "s"), {"cut": [], "whole": []}
    for row in make.rows(tmp_path / "s", "clips"):
        found[row["video_id"]].append((row["start_ms"], row["end_ms"]))
    parts = {"cut": [(1000, 2000), (8000, 19_000)], "whole": [(0, 6000)]}
    for name, given in parts.items():
        assert found[name] == [
            (start + a, start + b)
            for start, end in given
            for a, b in clips.cut(end - start, seconds, overlap)
        ]
        video = list(store.videos["video_id"]).index(name)
        times = np.array(store.read_times(video, range(store.frames[video])))
        for start, end in found[name]:
            inside = times[(start <= times) & (times < end)]
            assert inside[0] == start and inside[-1] == end - 200 and set(np.diff(inside)) <= {200}
            first, last = store.frames_in([video], [(start, end)])[0]
            assert times[first:last].tolist() == inside.tolist()


def test_a_store_at_a_lower_rate_is_cut_at_the_same_times(store, tmp_path):
    make.shards(tmp_path / "videos", tmp_path / "slow", "--fps", "5", "--short-side", "64")
    slow, fast = (open_store(path) for path in (tmp_path / "slow", store))
    assert clips.cut_store(slow, 1.0, 0.0) == clips.cut_store(fast, 1.0, 0.0)
