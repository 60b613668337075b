"""What a store leaves out, covers, crops and renames, and that nothing of it stays behind."""

import csv
import shutil

import cv2
import numpy as np
import pytest
import simplejpeg

from data_prep.decisions import Decision, edits, of_edits
from surgjax.data.store import open_store
from surgjax.errors import UserError
from tests import small_videos as make

SHARDS = ("--fps", "5", "--dataset", "ours")


def write(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def bordered(i):
    """A picture of 64 x 48 pixels whose outer 8 columns on each side are black."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, 8:56] = cv2.resize(make.picture(i, 48, 48), (48, 48))
    return image


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """smith-01 of 4 s and jones-02 of 2 s, with everything that can lie beside videos."""
    folder = tmp_path_factory.mktemp("private") / "videos"
    for name, frames in (("smith-01", 100), ("jones-02", 50)):
        images = [bordered(i) for i in range(frames)]
        make.write_video(folder / f"{name}.mp4", frames, width=64, height=48, images=images)
    spans = [["smith-01", 0, 2, "open"], ["smith-01", 2, 4, "close"]]
    spans += [["jones-02", 0, 2, "close"]]
    write(folder / "labels.csv", ["video", "start", "end", "label"], spans)
    parts = [["smith-01", "train", "mary"], ["jones-02", "test", "bob"]]
    write(folder / "splits.csv", ["video", "split", "case"], parts)
    columns = ["video_id", "start_ms", "end_ms", "level", "text"]
    write(folder / "captions.csv", columns, [["smith-01", 0, 1000, "fine", "cut"]])
    write(folder / "clips.csv", columns[:3], [["jones-02", 0, 1000]])
    return folder


@pytest.fixture
def qc(tmp_path, videos):
    """smith-01 shows a person from 1 to 2 s and text from 3 s on."""
    box, size = [0.125, 0, 0.875, 1], [path.stat().st_size for path in files(videos)]
    rows = [["smith-01", "4.000", 9, size[0], 0, 0, 0, 0.25, 0.25, 0, *box, "", "blurred", ""]]
    rows += [["jones-02", "2.000", 9, size[1], 0, 0, 0, 0, 0, 0, *box, "", "", ""]]
    spans = [["smith-01", "1.000", "2.000", "out_of_body", "1"]]
    spans += [["smith-01", "3.000", "4.000", "text", "1"]]
    boxes = [["smith-01", "3.000", "4.000", 0.5, 0.5, 0.75, 0.75]]
    make.findings(tmp_path / "qc", rows, spans, boxes)
    return tmp_path / "qc"


def files(videos):
    return [videos / "smith-01.mp4", videos / "jones-02.mp4"]


decide = make.reviews


def test_flagged_frames_are_in_no_file_of_the_store(videos, qc, tmp_path):
    make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc))
    store = open_store(tmp_path / "s")
    video = [store.video_id(v) for v in range(2)].index("smith-01")
    times = store.read_times(video, range(store.frames[video]))
    assert times == [*range(0, 1000, 200), *range(2000, 3000, 200)]
    assert store.videos["qc_blurred"].tolist() == [v == video for v in range(2)]
    labels = store.labels("label")
    assert labels["t_ms"][labels["video"] == video].tolist() == times
    rows = make.rows(tmp_path / "s", "edits")
    assert [(r["video_id"], r["edit"], r["start_ms"], r["end_ms"], r["reason"]) for r in rows] == [
        ("smith-01", "left_out", 1000, 2000, "out_of_body"),
        ("smith-01", "left_out", 3000, None, "text"),
    ]
    verify = ["verify", str(tmp_path / "s"), "--against-source", "20", "--root", str(videos)]
    assert make.main(verify) == 0
    make.shards(videos, tmp_path / "two", *SHARDS, "--qc", str(qc), workers=2)
    assert make.contents(tmp_path / "two") == make.contents(tmp_path / "s")


def test_borders_are_cut_and_text_is_covered(videos, qc, tmp_path):
    options = ["--qc", str(qc), "--crop-borders", "--cover-text", "--quality", "100"]
    make.shards(videos, tmp_path / "s", *SHARDS, *options, "--short-side", "32")
    store = open_store(tmp_path / "s")
    video = [store.video_id(v) for v in range(2)].index("smith-01")
    assert (store.videos["width"][video], store.videos["height"][video]) == (32, 32)
    pictures = [
        simplejpeg.decode_jpeg(data) for data in store.read(video, range(store.frames[video]))
    ]
    times = np.array(store.read_times(video, range(len(pictures))))
    assert times.tolist() == [*range(0, 1000, 200), *range(2000, 4000, 200)]
    for t, picture in zip(times, pictures, strict=True):
        assert picture[:, 1:-1].max(2).min() > 30 or t >= 3000  # no black column is left
        box = picture[17:23, 17:26]  # 0.5 to 0.833 of the cropped width
        assert (box.max() < 20) == (t >= 3000)
    verify = ["verify", str(tmp_path / "s"), "--against-source", "20", "--root", str(videos)]
    assert make.main(verify) == 0


def test_review_goes_before_findings(videos, qc, tmp_path, capsys):
    decide(qc, ["smith-01", "", "", "keep"], ["jones-02", "", "", "drop"])
    make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc))
    store = open_store(tmp_path / "s")
    assert len(store) == 1 and store.frames[0] == 20 and not store.videos["qc_blurred"][0]
    assert make.quarantined(tmp_path / "s") == {"jones-02.mp4": "left out"}
    assert not (tmp_path / "s" / "edits.parquet").exists()
    make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc))
    assert "nothing to do" in capsys.readouterr().out
    decide(qc, ["jones-02", "1", "", "drop"])
    with pytest.raises(UserError, match="what --qc leaves out is another now"):
        make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc))
    with pytest.raises(UserError, match="--qc was given then"):
        make.shards(videos, tmp_path / "s", *SHARDS)


def test_edits_tell_the_decision():
    decision = Decision(
        [(0, 5, "text"), (9, 10**12, "review")], [(1, 2, 0.1, 0.2, 0.3, 0.4)], (0.1, 0, 0.9, 1)
    )
    rows = [{"x0": None, "y0": None, "x1": None, "y1": None} | row for row in edits("a", decision)]
    assert of_edits(rows) == decision


@pytest.mark.parametrize("option", ["--crop-borders", "--cover-text"])
def test_options_need_findings(videos, tmp_path, option):
    with pytest.raises(UserError, match="need --qc"):
        make.shards(videos, tmp_path / "s", option)


def test_videos_that_were_not_looked_at_are_named(videos, qc, tmp_path):
    size = files(videos)[0].stat().st_size
    row = ["smith-01", "4.000", 9, size, *[0] * 6, *[""] * 7]
    make.findings(qc, [row], [], [])
    with pytest.raises(UserError, match=r"has not seen 1 of 2 videos \(jones-02\)"):
        make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc))


def test_no_name_is_left_in_a_store_with_pseudonyms(videos, qc, tmp_path, capsys):
    salt, plain, ours = tmp_path / "salt", tmp_path / "plain", tmp_path / "ours"
    (videos / "mary-broken.mp4").write_bytes(b"nothing")
    try:
        make.shards(videos, plain, *SHARDS)
        make.shards(videos, ours, *SHARDS, "--pseudonyms", str(salt))
    finally:
        (videos / "mary-broken.mp4").unlink()
    assert salt.stat().st_mode & 0o777 == 0o600 and "keep it away" in capsys.readouterr().out
    for name, data in make.contents(ours).items():
        for word in (b"smith", b"jones", b"mary", b"bob", str(videos).encode()):
            assert word not in data and word.decode() not in name, name
    for table in ("clips", "captions", "quarantine"):
        old, new = make.rows(plain, table), make.rows(ours, table)
        assert len(old) == len(new) == 1 and old[0]["video_id"] != new[0]["video_id"]
    one, other = open_store(plain), open_store(ours)
    assert other.meta["tasks"] == one.meta["tasks"] and len(other) == 2
    by_frames = [
        sorted(zip(s.frames, s.videos["split_official"], strict=True)) for s in (one, other)
    ]
    assert by_frames[0] == by_frames[1]
    assert np.bincount(one.labels("label")["label"]).tolist() == (
        np.bincount(other.labels("label")["label"]).tolist()
    )
    verify = ["verify", str(ours), "--against-source", "9", "--root", str(videos)]
    assert make.main([*verify, "--pseudonyms", str(salt)]) == 0
    with pytest.raises(UserError, match="has pseudonyms; give the --pseudonyms FILE"):
        make.main(verify)
    again = tmp_path / "again"
    make.shards(videos, again, *SHARDS, "--pseudonyms", str(salt), "--qc", str(qc))
    assert set(open_store(again).videos["video_id"]) == set(other.videos["video_id"])
    assert open_store(again).frames.sum() == other.frames.sum() - 10
    salt.unlink()
    make.shards(videos, tmp_path / "new", *SHARDS, "--pseudonyms", str(salt))
    assert not set(open_store(tmp_path / "new").videos["video_id"]) & set(other.videos["video_id"])


@pytest.mark.parametrize("content", ["no digits", "ab12"])
def test_a_salt_that_is_none_is_refused(videos, tmp_path, content):
    (tmp_path / "salt").write_text(content)
    with pytest.raises(UserError, match="--pseudonyms .* (is no salt|can be guessed)"):
        make.shards(videos, tmp_path / "s", "--pseudonyms", str(tmp_path / "salt"))


def test_public_names_are_kept(tmp_path):
    make.write_cholec(tmp_path / "v")
    options = ["--root", str(tmp_path / "v"), "--out", str(tmp_path / "s")]
    with pytest.raises(UserError, match="the names of cholec80 are public"):
        make.main(
            ["shards", "--dataset", "cholec80", *options, "--pseudonyms", str(tmp_path / "k")]
        )


def test_the_findings_of_qc_are_what_shards_leaves_out(videos, tmp_path):
    """A title card before the operation is found, and none of its pictures stored."""
    folder = tmp_path / "videos"
    card = np.zeros((240, 320, 3), np.uint8)
    for row, text in enumerate(("JANE DOE", "1961-02-03")):
        cv2.putText(card, text, (40, 90 + 60 * row), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255,) * 3, 3)
    rng = np.random.default_rng(0)
    tissue = cv2.resize(rng.integers(0, 90, (30, 60, 3), np.uint8), (960, 480)) + (110, 30, 30)
    images = [card] * 100
    images += [tissue[i : i + 240, 2 * i : 2 * i + 320].astype(np.uint8) for i in range(200)]
    make.write_video(folder / "a.mp4", 300, width=320, height=240, images=images)
    scan = ["qc", "--root", str(folder), "--out", str(tmp_path / "qc"), "--workers", "1"]
    assert make.main(scan) == 0
    make.shards(folder, tmp_path / "s", "--fps", "5", "--qc", str(tmp_path / "qc"))
    store = open_store(tmp_path / "s")
    times = store.read_times(0, range(store.frames[0]))
    assert times[0] >= 4000 and times[-1] == 11_800 and len(times) > 30
    for data in store.read(0, range(store.frames[0])):
        assert simplejpeg.decode_jpeg(data)[..., 0].mean() > 80  # the card is nearly black


def test_what_was_not_looked_through_is_left_out(qc, videos, tmp_path):
    sizes = [path.stat().st_size for path in files(videos)]
    rows = [["smith-01", "4.000", 9, sizes[0], *[0] * 6, *[""] * 7]]
    rows += [["jones-02", "", "", sizes[1], *[""] * 12, "not readable: x"]]
    make.findings(qc, rows, [], [])
    make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc))
    assert make.quarantined(tmp_path / "s") == {"jones-02.mp4": "left out"}


def test_recordings_that_changed_after_the_scan_are_refused(qc, videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    make.write_video(folder / "smith-01.mp4", 90, width=64, height=48)
    with pytest.raises(UserError, match="smith-01 changed after"):
        make.shards(folder, tmp_path / "s", *SHARDS, "--qc", str(qc))


def test_another_rate_of_frames_than_that_of_the_scan_is_refused(qc, videos, tmp_path):
    with pytest.raises(UserError, match="at 1 a second; this command says folder, 25"):
        make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc), "--frames-fps", "25")


def test_parts_of_a_plan_that_is_gone_are_not_used(qc, videos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("data_prep.shards.merge", stop)
        make.shards(videos, tmp_path / "s", *SHARDS)
    (tmp_path / "s" / "plan.json").unlink()
    make.shards(videos, tmp_path / "s", *SHARDS, "--qc", str(qc))
    make.shards(videos, tmp_path / "whole", *SHARDS, "--qc", str(qc))
    assert make.contents(tmp_path / "s") == make.contents(tmp_path / "whole")


def test_captions_of_an_end_that_was_left_out_stop_nothing(qc, videos, tmp_path, capsys):
    captions = tmp_path / "captions.csv"
    rows = [["smith-01", 3200, 3900, "fine", "out"], ["smith-01", 0, 1000, "fine", "cut"]]
    write(captions, ["video_id", "start_ms", "end_ms", "level", "text"], rows)
    options = [*SHARDS, "--qc", str(qc), "--captions", str(captions)]
    for _ in range(2):
        make.shards(videos, tmp_path / "s", *options)
    assert "nothing to do" in capsys.readouterr().out
    assert len(make.rows(tmp_path / "s", "captions")) == 2


def test_an_interrupted_end_is_told_by_verify(videos, tmp_path, capsys):
    make.shards(videos, tmp_path / "s", *SHARDS)
    (tmp_path / "s" / "plan.json").write_text("smith")
    assert make.main(["verify", str(tmp_path / "s")]) == 1
    assert "plan.json is left of an interrupted run" in capsys.readouterr().out
    make.shards(videos, tmp_path / "s", *SHARDS)
    assert make.main(["verify", str(tmp_path / "s")]) == 0


def test_overlap_notes_no_names_beside_pseudonyms(videos, tmp_path):
    make.shards(videos, tmp_path / "a", *SHARDS)
    make.shards(videos, tmp_path / "b", *SHARDS, "--pseudonyms", str(tmp_path / "salt"))
    with pytest.raises(UserError, match="would tell the names"):
        make.main(["overlap", str(tmp_path / "a"), str(tmp_path / "b"), "--apply"])


def test_check_tells_names_that_look_like_dates_or_record_numbers(tmp_path, capsys):
    for name in ("op_2021-03-05", "case_4711223", "video01"):
        make.write_video(tmp_path / f"{name}.mp4", 50)
    assert make.main(["check", "--root", str(tmp_path)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "look like dates" in line)
    assert "names of 2 videos" in line and "video01" not in line and "--pseudonyms FILE" in line
