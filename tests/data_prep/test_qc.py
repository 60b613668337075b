"""The verb `qc`: its tables, its page, what survives a stop, and what a second scan finds again."""

import csv
import functools
import hashlib
import html.parser
import json
import os
import shutil
import sys

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import small_videos as make

from data_prep import qc
from data_prep.__main__ import main
from data_prep.operation import plan_operation
from data_prep.overlap import Match
from data_prep.rendering import frames as render
from surgjax.errors import UserError

SIZE, RATE = (240, 144), 5
COLUMNS = {
    "videos.csv": "video,seconds,samples,bytes,black,frozen,blurred,out_of_body,text,cuts,"
    "x0,y0,x1,y1,duplicate_of,flags,unreadable",
    "spans.csv": "video,start,end,flag,score",
    "boxes.csv": "video,start,end,x0,y0,x1,y1",
    "names.csv": "video,finding",
    "review.csv": "video,start,end,decision,reviewer,date",
}


@functools.cache
def operation(seed: int) -> tuple[np.ndarray, ...]:
    """Forty seconds."""
    rng = np.random.default_rng(seed)
    plan = plan_operation(rng, 200, RATE, "full", SIZE[0] / SIZE[1])
    return tuple(render(rng, plan, SIZE))


def write(path, images, **options):
    height, width = images[0].shape[:2]
    return make.write_video(
        path, len(images), width=width, height=height, rate=RATE, images=images, **options
    )


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Three operations, one of them with text and a look outside, a copy, and what is none."""
    root = tmp_path_factory.mktemp("recordings")
    write(root / "a.mp4", operation(1))
    spoiled = list(operation(2))
    for i in range(100):
        spoiled[i] = spoiled[i].copy()
        cv2.putText(
            spoiled[i],
            "DOE JOHN",
            (20, 30),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.5,
            (255,) * 3,
            1,
            cv2.LINE_AA,
        )
    spoiled[150:170] = [image[:, :, ::-1] for image in spoiled[150:170]]  # blue
    write(root / "b" / "2021-03-05 <b>.mp4", spoiled, metadata={"title": "Jane Roe"})
    smaller = [cv2.resize(image, (160, 96), interpolation=cv2.INTER_AREA) for image in operation(1)]
    write(root / "c.mkv", smaller[20:], options={"crf": "30"})
    write(root / "d.mp4", operation(3))
    (root / "e.mp4").write_bytes(b"this is no video")
    (root / "f.mp4").symlink_to("/dev/null")
    return root


def run(root, out, *options, workers=1):
    return main(["qc", "--root", str(root), "--out", str(out), "--workers", str(workers), *options])


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scanned(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("scanned") / "qc"
    assert run(recordings, out) == 0
    return out


def test_tables_say_what_the_recordings_show(scanned, recordings):
    for name, columns in COLUMNS.items():
        assert (scanned / name).read_text().splitlines()[0] == columns
    rows = {row["video"]: row for row in table(scanned / "videos.csv")}
    spoiled = "b/2021-03-05 <b>"
    assert list(rows) == ["a", spoiled, "c", "d", "e", "f"]
    assert rows["e"]["unreadable"].startswith("not readable") and not rows["e"]["seconds"]
    for name in ("a.mp4", "b/2021-03-05 <b>.mp4", "c.mkv", "d.mp4", "e.mp4"):
        size = (recordings / name).stat().st_size
        assert rows[name.rpartition(".")[0]]["bytes"] == str(size)
    assert rows["f"]["bytes"] == ""
    assert rows["f"]["unreadable"] == "refused: a link that leaves the folder"
    assert rows["c"]["duplicate_of"] == "a" and rows["c"]["flags"] == "duplicate"
    assert float(rows["a"]["seconds"]) == 40 and rows["a"]["flags"] == ""
    for name in ("a", "c", "d"):
        assert float(rows[name]["text"]) == float(rows[name]["out_of_body"]) == 0
    spans = {(row["video"], row["flag"]): row for row in table(scanned / "spans.csv")}
    assert set(spans) == {(spoiled, "text"), (spoiled, "out_of_body"), ("c", "duplicate")}
    text, outside = spans[spoiled, "text"], spans[spoiled, "out_of_body"]
    assert (text["start"], outside["start"], outside["end"]) == ("0.000", "28.000", "36.000")
    assert 20 <= float(text["end"]) <= 24
    copied = spans["c", "duplicate"]
    assert (
        float(copied["start"]) < 1 and float(copied["end"]) == 36 and float(copied["score"]) > 0.5
    )
    boxes = table(scanned / "boxes.csv")
    assert {row["video"] for row in boxes} == {spoiled}
    assert all(float(row["y1"]) * SIZE[1] < 40 for row in boxes)
    found = {row["finding"] for row in table(scanned / "names.csv") if row["video"] == spoiled}
    assert found == {"date in the name", "tag title"}


def test_files_name_no_place_no_time_and_no_tag_value(scanned, recordings):
    meta = json.loads((scanned / "qc.json").read_text())
    assert meta["schema_version"] == 1 and meta["source"] == "folder"
    assert meta["settings"]["every"] == 2 and meta["settings"]["thresholds"]["cut"] == qc.scan.CUT
    assert sorted(path.name for path in scanned.iterdir()) == sorted(
        [*COLUMNS, "hashes.parquet", "qc.html", "qc.json", "sheets"]
    )
    for data in make.contents(scanned).values():
        assert str(recordings).encode() not in data and b"Jane Roe" not in data
    assert meta["tables"] == {
        name: hashlib.sha256((scanned / name).read_bytes()).hexdigest()
        for name in [*COLUMNS, "hashes.parquet"]
        if name != "review.csv"
    }
    hashes = pq.read_table(scanned / "hashes.parquet")
    assert [str(kind) for kind in hashes.schema.types] == ["string", "int64", "uint64"]
    assert set(hashes["video"].to_pylist()) == {"a", "b/2021-03-05 <b>", "c", "d"}


class Links(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.links, self.tags, self.policy = [], set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        if "http-equiv" in attributes:
            self.policy = attributes["content"]


def test_the_page_needs_no_network_and_shows_every_sheet(scanned):
    page = (scanned / "qc.html").read_text()
    found = Links(page)
    assert found.policy.startswith("default-src 'none'") and "script" not in found.tags
    sheets = [link for link in found.links if not link.startswith("#")]
    assert sheets == [f"sheets/0000{i}.jpg" for i in range(4)]
    for sheet in sheets:
        assert cv2.imread(str(scanned / sheet)).std() > 20
    assert "2021-03-05 &lt;b&gt;" in page and "<b>.mp4" not in page
    assert "b/2021-03-05 &lt;b&gt;,28.000,36.000,keep,," in page
    text = " ".join(page.split())
    assert "Skin, wood and warm light pass for tissue" in text
    assert "lasts 4 seconds is surely" in text and "shown for 12 seconds" in text


def test_a_finished_scan_is_not_repeated_and_reviews_stay(scanned, recordings, capsys):
    before = make.contents(scanned)
    review = (scanned / "review.csv").read_text() + "d,0,12.5,drop,A. B.,2026-01-02\n"
    (scanned / "review.csv").write_text(review)
    assert run(recordings, scanned) == 0
    assert "is finished" in capsys.readouterr().out
    assert "Reviewed: drop 0 s to 12.5 s, A. B." in (scanned / "qc.html").read_text()
    assert (scanned / "review.csv").read_text() == review
    (scanned / "review.csv").write_text(review + "g,0,1,drop,,\n")
    with pytest.raises(UserError, match="review.csv, row 3: no video 'g'"):
        run(recordings, scanned)
    (scanned / "review.csv").write_bytes(before["review.csv"])
    run(recordings, scanned)
    assert make.contents(scanned) == before


@pytest.mark.parametrize("name", ["videos.csv", "spans.csv", "boxes.csv", "names.csv"])
def test_a_table_that_was_edited_is_told(scanned, recordings, tmp_path, name):
    out = shutil.copytree(scanned, tmp_path / "out")
    text = (out / name).read_text()
    (out / name).write_text(text.replace("b/2021", "c/2021"))
    with pytest.raises(UserError, match=f"{name} is not what .* another folder"):
        run(recordings, out)
    (out / name).unlink()
    with pytest.raises(UserError, match=name):
        run(recordings, out)


SCORERS = """
import os, signal
from pathlib import Path
import numpy as np
calls = 0
def stopped(frames):
    global calls
    calls += 1
    if calls == 3:
        raise KeyboardInterrupt
    return np.zeros(len(frames))
def blue(frames):
    return (frames[..., 2].mean((1, 2)) > frames[..., 0].mean((1, 2))).astype(np.float32)
def mistaken(frames):
    return blue(frames, "red")
def told(frames):
    with Path("processes").open("a") as file:
        print(os.getpid(), file=file)
    return np.zeros(len(frames))
def deadly(frames):
    if blue(frames).any():
        os.kill(os.getpid(), signal.SIGSEGV)
    return np.zeros(len(frames))
"""


@pytest.fixture
def scorers(tmp_path, monkeypatch):
    """A module of the current folder, `scorers`."""
    (tmp_path / "scorers.py").write_text(SCORERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("scorers", None)


def test_a_stopped_scan_goes_on_to_the_same_files(scorers, recordings, tmp_path):
    option = ("--out-of-body", "scorers:stopped")
    out, again = tmp_path / "out", tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        run(recordings, out, *option)
    assert len(list((out / "scan").glob("0*.json"))) == 2 and not (out / "qc.json").exists()
    with pytest.raises(
        UserError,
        match="out-of-body scorers:stopped there, data_prep.out_of_body:tissue_colour now",
    ):
        run(recordings, out)
    run(recordings, out, *option)
    run(recordings, again, *option)
    assert make.contents(out) == make.contents(again)
    with pytest.raises(UserError, match="max-gap 4.0 there, 5.0 now"):
        run(recordings, out, *option, "--max-gap", "5")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_scorer_that_fails_is_told_and_the_right_one_goes_on(
    scorers, recordings, scanned, tmp_path, workers
):
    out = tmp_path / "out"
    with pytest.raises(
        UserError, match=r"function mistaken failed for .*TypeError: blue\(\) takes"
    ):
        run(recordings, out, "--out-of-body", "scorers:mistaken", workers=workers)
    run(recordings, out, workers=workers)
    assert make.contents(out) == make.contents(scanned)


def test_processes_are_as_many_as_slurm_gives(scorers, recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    root, out = recordings, tmp_path / "out"
    main(["qc", "--root", str(root), "--out", str(out), "--out-of-body", "scorers:told"])
    processes = set((tmp_path / "processes").read_text().split())
    assert len(processes) == 1 and processes != {str(os.getpid())}  # of its own, with limits


def test_processes_write_the_same_and_one_that_breaks_down_costs_its_recording(
    scorers, recordings, scanned, tmp_path
):
    run(recordings, tmp_path / "two", workers=2)
    assert make.contents(tmp_path / "two") == make.contents(scanned)
    run(recordings, tmp_path / "deadly", "--out-of-body", "scorers:deadly", workers=2)
    rows = {row["video"]: row for row in table(tmp_path / "deadly" / "videos.csv")}
    broken = [name for name, row in rows.items() if row["unreadable"].endswith("broke down")]
    assert broken == ["b/2021-03-05 <b>"] and float(rows["d"]["seconds"]) == 40


def test_another_scorer_or_none(scorers, recordings, scanned, tmp_path):
    run(recordings, tmp_path / "own", "--out-of-body", "scorers:blue")
    flags = [row for row in table(tmp_path / "own" / "spans.csv") if row["flag"] == "out_of_body"]
    assert [(row["start"], row["end"], row["score"]) for row in flags] == [
        ("28.000", "36.000", "1.000")
    ]
    assert "judged by scorers:blue" in (tmp_path / "own" / "qc.html").read_text()
    run(recordings, tmp_path / "none", "--out-of-body", "none")
    assert "out_of_body" not in (tmp_path / "none" / "spans.csv").read_text()
    assert "Nothing looked for frames" in (tmp_path / "none" / "qc.html").read_text()


def test_copies_of_an_earlier_scan_are_found(scanned, recordings, tmp_path):
    new = tmp_path / "new"
    write(new / "z.mp4", operation(3)[30:], options={"crf": "30"})
    write(new / "y.mp4", operation(4))
    out = tmp_path / "out"
    run(new, out, "--dataset", "newer", "--against", str(scanned))
    rows = {row["video"]: row for row in table(out / "videos.csv")}
    assert rows["z"]["duplicate_of"] == "own:d" and rows["y"]["duplicate_of"] == ""
    with pytest.raises(UserError, match="is no finished scan"):
        run(new, tmp_path / "third", "--against", str(tmp_path / "nothing"))


def test_the_copy_is_the_later_the_shorter_or_the_one_below():
    lengths = [[100.0], [40.0, 90.0, 40.2, 300.0]]
    matches = [
        Match((1, 0), (1, 1), 9, 0.9, 20.0),  # 0 is seconds 20 to 60 of 1
        Match((1, 0), (1, 2), 8, 0.8, 0.0),
        Match((0, 0), (1, 3), 8, 0.7, -30.0),  # its second 30 is the first of 3
    ]
    found = qc.duplicates(lengths, matches)
    assert found == {
        0: ((1, 1), 0.0, 40.0, 0.9),
        2: ((1, 0), 0.0, 40.0, 0.8),
        3: ((0, 0), 0.0, 70.0, 0.7),
    }


def test_bad_arguments(recordings, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("")
    for out, options, word in (
        (recordings / "qc", (), "lies in --root"),
        (tmp_path / "full", (), "holds other files"),
        (tmp_path / "out", ("--every", "0"), "--every is 0"),
        (tmp_path / "out", ("--max-gap", "1"), "--max-gap is 1"),
        (tmp_path / "out", ("--max-gap", "nan"), "--max-gap is nan"),
        (tmp_path / "out", ("--workers", "0"), "--workers is 0"),
        (tmp_path / "out", ("--frames-fps", "0"), "--frames-fps is 0"),
        (tmp_path / "out", ("--frames-fps", "-3"), "--frames-fps is -3"),
        (tmp_path / "out", ("--frames-fps", "nan"), "--frames-fps is nan"),
        (tmp_path / "full" / "other.txt" / "out", (), "cannot be made"),
        (tmp_path / "out", ("--out-of-body", "nothing:f"), "--out-of-body is 'nothing:f'"),
    ):
        with pytest.raises(UserError, match=word):
            run(recordings, out, *options)
    with pytest.raises(SystemExit):  # of no use here
        run(recordings, tmp_path / "out", "--captions", "captions.csv")
