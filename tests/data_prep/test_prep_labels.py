"""Labels reach the right frames: Cholec80 files, labels.csv, clips."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import pytest
import small_videos as make

from data_prep import manifest, renew, sources
from surgjax.errors import UserError


def prepare(root, out, *options, dataset="cholec80"):
    return make.shards(root, out, "--dataset", dataset, *options)


def by_time(store, task):
    key = "label" if task != "instrument" else "values"
    return {(row["video_id"], row["t_ms"]): row[key] for row in make.rows(store, f"labels/{task}")}


def test_every_stored_frame_gets_its_own_row(tmp_path):
    root = make.write_cholec(tmp_path / "c", frames=60)
    prepare(root, tmp_path / "native", "--fps", "native")
    prepare(root, tmp_path / "one", "--fps", "1")
    prepare(root, tmp_path / "ten", "--fps", "10")
    phase = by_time(tmp_path / "native", "phase")
    assert phase == {("video01", 40 * i): int(i >= 30) for i in range(60)}
    # Instruments only where the very frame has a row: frames 0, 25 and 50.
    tools = by_time(tmp_path / "native", "instrument")
    assert tools == {
        ("video01", 0): [1, 0, 0, 0, 0, 0, 0],
        ("video01", 1000): [1, 0, 1, 0, 0, 0, 0],
        ("video01", 2000): [1, 0, 0, 0, 0, 0, 0],
    }
    assert by_time(tmp_path / "one", "phase") == {
        ("video01", t): int(t > 1000) for t in (0, 1000, 2000)
    }
    assert by_time(tmp_path / "one", "instrument") == tools
    # 10 a second keeps frames 0, 3, 5, 8, ...; of the labelled ones 0, 25 and 50.
    assert by_time(tmp_path / "ten", "instrument").keys() == tools.keys()
    assert by_time(tmp_path / "ten", "phase")[("video01", 1200)] == 1
    assert by_time(tmp_path / "ten", "phase")[("video01", 1120)] == 0


@pytest.mark.parametrize("rate", [Fraction(2498, 100), Fraction(25025, 1000)])
def test_a_rate_that_is_not_exactly_25_shifts_no_row(tmp_path, rate):
    root = make.write_cholec(tmp_path / "c", frames=60, video=False)
    make.write_video(root / "videos" / "video01.mp4", 60, rate=rate)
    prepare(root, tmp_path / "s", "--fps", "native")
    phases = by_time(tmp_path / "s", "phase")
    assert list(phases.values()) == [int(i >= 30) for i in range(60)]
    assert phases["video01", round(30 * 1000 / rate)] == 1  # frame 30
    tools = by_time(tmp_path / "s", "instrument")
    assert [values[2] for values in tools.values()] == [0, 1, 0]


def test_frame_folders_with_labels_of_25_a_second(tmp_path):
    root = make.write_cholec(tmp_path / "c", frames=60, video=False)
    make.write_images(root / "frames" / "video01", [1, 2, 3])
    prepare(root, tmp_path / "s")
    assert by_time(tmp_path / "s", "phase") == {
        ("video01", 0): 0,
        ("video01", 1000): 0,
        ("video01", 2000): 1,
    }
    assert by_time(tmp_path / "s", "instrument")[("video01", 1000)][2] == 1
    assert [row["native_fps"] for row in make.rows(tmp_path / "s", "videos")] == [1.0]


def test_missing_frames_of_a_folder_shift_no_label(tmp_path):
    root = make.write_cholec(tmp_path / "c", frames=175, video=False)
    make.write_images(root / "frames" / "video01", [0, 1, 5, 6])
    prepare(root, tmp_path / "s")
    assert list(by_time(tmp_path / "s", "phase")) == [("video01", t) for t in (0, 1000, 5000, 6000)]


@pytest.mark.parametrize(("rows", "word"), [(85, "short"), (125, "long"), (99, "short")])
def test_up_to_a_second_is_a_warning_with_the_count(tmp_path, capsys, rows, word):
    root = make.write_cholec(tmp_path / "c", frames=100, phase_rows=rows)
    prepare(root, tmp_path / "s", "--fps", "native")
    assert f"{abs(100 - rows)} rows too {word}" in capsys.readouterr().out
    assert len(by_time(tmp_path / "s", "phase")) == min(rows, 100)


@pytest.mark.parametrize(("rows", "first", "line"), [(74, 74, 76), (126, 100, 102)])
def test_more_than_a_second_is_an_error_naming_the_row(tmp_path, rows, first, line):
    root = make.write_cholec(tmp_path / "c", frames=100, phase_rows=rows)
    with pytest.raises(
        UserError, match=rf"video01-phase.txt: {rows} rows.*row {first} \(line {line}\)"
    ):
        prepare(root, tmp_path / "s")
    assert not (tmp_path / "s" / "plan.json").exists()


def test_tool_files_one_row_off_are_tolerated(tmp_path, capsys):
    for rows in (3, 5):
        root = make.write_cholec(tmp_path / f"c{rows}", frames=100, tool_rows=rows)
        prepare(root, tmp_path / f"s{rows}")
        assert "video01-tool.txt: 1 rows too" in capsys.readouterr().out
        assert len(by_time(tmp_path / f"s{rows}", "instrument")) == min(rows, 4)
    for rows in (2, 6):
        root = make.write_cholec(tmp_path / f"c{rows}", frames=100, tool_rows=rows)
        with pytest.raises(UserError, match="video01-tool.txt"):
            prepare(root, tmp_path / f"s{rows}")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "phase",
            "5\tPreparation",
            "5\tPreparatio",
            "line 7: unknown phase 'Preparatio' .*mean 'Prep",
        ),
        ("phase", "5\tPreparation", "6\tPreparation", "line 7: .*expected frame 5"),
        ("phase", "Frame\tPhase", "Phase\tFrame", "line 1: header"),
        ("tool", "Hook", "Hok", "line 1: unknown instrument 'Hok' .*mean 'Hook'"),
        ("tool", "25\t1", "24\t1", "line 3: .*expected frame 25"),
        ("tool", "25\t1", "25\t2", "line 3: .*0 or 1"),
    ],
)
def test_bad_label_rows_name_file_and_line(tmp_path, file, old, new, message):
    root = make.write_cholec(tmp_path / "c")
    path = root / f"{file}_annotations" / f"video01-{file}.txt"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"{path.name}, {message}"):
        prepare(root, tmp_path / "s")


def test_columns_go_by_name_and_windows_line_ends_do_not_matter(tmp_path):
    root = make.write_cholec(tmp_path / "c")
    path = root / "tool_annotations" / "video01-tool.txt"
    table = [line.split("\t") for line in path.read_text().splitlines()]
    turned = ["\t".join([row[0], *reversed(row[1:])]) for row in table]
    path.write_bytes(("\ufeff" + "\r\n".join(turned) + "\r\n").encode())
    prepare(root, tmp_path / "s")
    assert by_time(tmp_path / "s", "instrument")[("video01", 1000)] == [1, 0, 1, 0, 0, 0, 0]


def test_missing_videos_and_labels_are_warnings(tmp_path, capsys):
    root = make.write_cholec(tmp_path / "c", "video02")
    make.write_cholec(root, "video50")
    (root / "tool_annotations" / "video50-tool.txt").unlink()
    prepare(root, tmp_path / "s")
    out = capsys.readouterr().out
    assert "78 of 80 official videos are missing: video01, video03" in out
    assert "1 of 2 videos have no tool file: video50" in out
    assert {video for video, _ in by_time(tmp_path / "s", "instrument")} == {"video02"}
    table = {row["video_id"]: row for row in make.rows(tmp_path / "s", "videos")}
    assert table["video50"]["case"] == "cholec80/video50"
    assert table["video50"]["licence"] == "CC-BY-NC-SA-4.0"
    splits = {k: v for k, v in table["video50"].items() if k.startswith("split_")}
    assert splits == {
        "split_official": "test",
        "split_strict": "test",
        "split_surgrec_release": "test",
        "split_surgvista": "test",
        "split_surgvlp_zero_shot": "test",
        "split_tecno": "test",
        "split_tmrnet": "test",
    }
    assert table["video02"]["split_surgvlp_zero_shot"] is None


def test_split_manifest():
    splits = manifest.read("cholec80")
    count = {
        name: tuple(list(parts.values()).count(part) for part in ("train", "val", "test"))
        for name, parts in splits.splits.items()
    }
    assert count == {
        "official": (40, 0, 40),
        "strict": (40, 0, 40),
        "surgrec_release": (40, 0, 40),
        "tmrnet": (32, 8, 40),
        "tecno": (40, 8, 32),
        "surgvista": (40, 0, 35),
        "surgvlp_zero_shot": (0, 0, 32),
    }
    left_out = {"video73", "video77", "video78", "video79", "video80"}
    assert not left_out & splits.splits["surgvista"].keys()
    assert len(splits.names) == 80 and splits.about["tmrnet"] == {"tier": "community"}
    assert splits.about["surgrec_release"] == {"tier": "paper-release", "val_is_test": True}


def test_synthetic_corpus(corpus, store):
    assert sources.detect(corpus) == "synthetic"
    lines = (corpus / "phase_annotations" / "video02-phase.txt").read_text().splitlines()
    phases = [line.split() for line in lines[1:]]
    stored = [row for row in make.rows(store, "labels/phase") if row["video_id"] == "video02"]
    names = sources.load("synthetic").ABOUT.tasks["phase"]["classes"]
    assert [names[row["label"]] for row in stored] == [phase for _, phase in phases]
    with (corpus / "splits.csv").open() as file:
        wanted = {row["video"]: row["split"] for row in csv.DictReader(file)}
    found = {row["video_id"]: row["split_official"] for row in make.rows(store, "videos")}
    assert found == wanted


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def own(tmp_path) -> Path:
    make.write_video(tmp_path / "v" / "x" / "a.mp4", 60)
    make.write_video(tmp_path / "v" / "b.mkv", 60)
    return tmp_path / "v"


def test_intervals_and_points_of_labels_csv(own, tmp_path):
    write(
        own / "labels.csv", "video,start,end,label\nx/a,0,1,cut\nx/a,1.0,2.4,sew\nb.mkv,2,9,cut\n"
    )
    make.shards(own, tmp_path / "s", "--fps", "5")
    labels = by_time(tmp_path / "s", "label")
    assert labels == {("x/a", 200 * i): int(i >= 5) for i in range(12)} | {
        ("b", t): 0 for t in (2000, 2200)
    }
    write(
        own / "labels.csv",
        "video,t,label,task\nx/a,0.401,cut,step\nx/a,1.5,cut,step\nb,1,x,error\n",
    )
    make.shards(own, tmp_path / "t", "--fps", "5")
    # No stored frame is on screen at 1.5 s.
    assert by_time(tmp_path / "t", "step") == {("x/a", 400): 0}
    assert by_time(tmp_path / "t", "error") == {("b", 1000): 0}


def test_a_point_between_two_frames_labels_the_earlier_one(own, tmp_path):
    write(own / "labels.csv", "video,t,label\nb,0.02,x\nb,1.019,x\nb,1.021,x\nb,2.381,x\n")
    make.shards(own, tmp_path / "s", "--fps", "native")
    assert by_time(tmp_path / "s", "label").keys() == {("b", t) for t in (0, 1000, 1040)}


def test_splits_csv_and_cases(own, tmp_path):
    write(own / "splits.csv", "video,split,case\nx/a,train,p1\nb.mkv,test,p2\n")
    make.shards(own, tmp_path / "s")
    rows = {row["video_id"]: row for row in make.rows(tmp_path / "s", "videos")}
    assert [rows[name]["split_official"] for name in ("x/a", "b")] == ["train", "test"]
    assert [rows[name]["case"] for name in ("x/a", "b")] == ["own/p1", "own/p2"]


def test_labels_without_splits_are_divided_and_stay_so(own, tmp_path, capsys):
    for i in range(9):
        make.write_video(own / f"{i}.mp4", 10)
    rows = [f"{i},0,1,{'cut' if i % 2 else 'sew'}\n" for i in range(9)]
    write(own / "labels.csv", "video,start,end,label\nx/a,0,1,cut\n" + "".join(rows))
    make.shards(own, tmp_path / "s")
    assert "divided into 7 train, 2 val, 1 test; write splits.csv" in capsys.readouterr().out
    parts = {row["video_id"]: row["split_official"] for row in make.rows(tmp_path / "s", "videos")}
    assert sorted(filter(None, parts.values())) == ["test"] + ["train"] * 7 + ["val"] * 2
    assert parts["b"] is None  # has no label
    about = json.loads((tmp_path / "s" / "store.json").read_text())
    assert about["sources"][0]["splits"] == {"official": {"tier": "ours"}}

    write(own / "labels.csv", "video,start,end,label\nb,0,1,cut\n" + "".join(rows))
    make.shards(own, tmp_path / "s")
    assert "1 labelled videos (b) are in no part of the split" in capsys.readouterr().out
    again = {row["video_id"]: row["split_official"] for row in make.rows(tmp_path / "s", "videos")}
    assert again == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,split\nx/c,train\n", "splits.csv, row 2: no video 'x/c'.*mean 'x/a'"),
        ("video,split\nx/a,dev\n", "row 2: split is 'dev'; expected train or val or test"),
        ("video,split\nx/a,train\nx/a,test\n", "row 3: 'x/a' is named above too"),
        ("video,split\nb,train\nb.mkv,test\n", "row 3: 'b.mkv' is named above too"),
        (
            "video,split,case\nx/a,train,p\nb,test,p\n",
            "row 3: case 'p' is test here and train in splits.csv, row 2",
        ),
    ],
)
def test_bad_splits_csv(own, tmp_path, text, message):
    write(own / "splits.csv", text)
    with pytest.raises(UserError, match=message):
        make.shards(own, tmp_path / "s")


def test_labels_splits_and_clips_that_come_later_need_no_second_decoding(own, tmp_path, capsys):
    """The store is then as if they had been there from the start."""
    out, fresh = tmp_path / "grown", tmp_path / "fresh"
    make.shards(own, out, "--fps", "native")
    frames = {path: path.stat().st_mtime_ns for path in out.glob("*array_record*")}

    def again() -> str:
        make.shards(own, out, "--fps", "native")
        return capsys.readouterr().out.splitlines()[-1]

    assert again().endswith("nothing to do")
    write(own / "labels.csv", "video,start,end,label\nx/a,0,1,cut\n")
    write(own / "splits.csv", "video,split,case\nx/a,train,p\n")
    assert again().endswith("renewed: labels, splits and cases")
    write(own / "labels.csv", "video,t,label,task\nx/a,1.0,cut,step\nb,0.02,sew,step\n")
    write(own / "splits.csv", "video,split\nx/a,test\nb,train\n")
    write(own / "clips.csv", "video_id,start_ms,end_ms\nb,0,2000\n")
    assert again().endswith("renewed: labels, splits and cases, clips")
    assert again().endswith("nothing to do")
    assert {path: path.stat().st_mtime_ns for path in frames} == frames
    make.shards(own, fresh, "--fps", "native")
    described = [json.loads((store / "store.json").read_text()) for store in (fresh, out)]
    assert described[0] == described[1]  # with the digests of all tables
    assert {p.name for p in out.rglob("*")} == {p.name for p in fresh.rglob("*")}
    write(own / "labels.csv", "video,start,end,label\nx/a,0,2,cut\nx/a,1,2,sew\n")
    with pytest.raises(UserError, match="row 3: overlaps"):
        again()
    assert json.loads((out / "store.json").read_text()) == described[1]
    assert by_time(out, "step") == {("x/a", 1000): 0, ("b", 0): 1}
    for name in ("labels", "splits", "clips"):
        (own / f"{name}.csv").unlink()
    assert again().endswith("nothing to do")  # above all, what was held out stays so
    assert json.loads((out / "store.json").read_text()) == described[1]


def test_renewing_that_was_interrupted_is_finished_by_the_same_command(own, tmp_path, monkeypatch):
    out = tmp_path / "s"
    make.shards(own, out)
    write(own / "labels.csv", "video,start,end,label\nx/a,0,1,cut\n")
    write(own / "splits.csv", "video,split\nx/a,train\n")
    write(own / "clips.csv", "video_id,start_ms,end_ms\nb,0,2000\n")
    write(own / "captions.csv", "video_id,start_ms,end_ms,level,text\nb,0,900,fine,Cut.\n")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(renew, "write_whole", killed)
        make.shards(own, out)
    make.shards(own, out)
    make.shards(own, tmp_path / "fresh")
    described = [json.loads((p / "store.json").read_text()) for p in (out, tmp_path / "fresh")]
    assert described[0] == described[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,start,end,label\nx/a,0,1,cut\nx/A,0,1,cut\n", "row 3: no video 'x/A'.*mean 'x/a'"),
        ("video,start,end,label\nx/a,2,1,cut\n", "row 2: end 1 is not after start 2"),
        ("video,start,end,label\nx/a,0,2,cut\nx/a,1,2,sew\n", "row 3: overlaps"),
        ("video,start,end,label\nx/a,zero,2,cut\n", "row 2: start is 'zero'"),
        ("video,start,end\nx/a,0,2\n", "labels.csv: columns are"),
        ("video,start,end,label\nx/a,0,2\n", "row 2: 3 values; expected 4"),
    ],
)
def test_bad_labels_csv(own, tmp_path, text, message):
    write(own / "labels.csv", text)
    with pytest.raises(UserError, match=message):
        make.shards(own, tmp_path / "s", "--fps", "native")


def test_clips_csv(own, tmp_path):
    write(
        own / "clips.csv", "video_id,start_ms,end_ms,label,weight\nb,0,2000,cut,0.5\nx/a,40,80,,1\n"
    )
    make.shards(own, tmp_path / "s")
    clips = make.rows(tmp_path / "s", "clips")
    assert clips[0] == {
        "video_id": "b",
        "start_ms": 0,
        "end_ms": 2000,
        "label": "cut",
        "weight": 0.5,
    }
    assert len(clips) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x/c,0,900", "row 3: no video 'x/c'"),
        ("x/a,900,900", "row 3: start_ms 900, end_ms 900"),
        ("x/a,0,90.5", "row 3: .*whole milliseconds"),
        ("x/a,-1,90", "row 3: start_ms is '-1'"),
        ("x/a,0", "row 3: 2 values; expected 3"),
    ],
)
def test_bad_clips_stop_before_any_work(own, tmp_path, row, message):
    write(own / "clips.csv", f"video_id,start_ms,end_ms\nx/a,0,900\n{row}\n")
    with pytest.raises(UserError, match=message):
        make.shards(own, tmp_path / "s")
    assert not (tmp_path / "s" / "plan.json").exists()


def test_clips_of_a_video_in_quarantine_do_not_stop_the_same_command(own, tmp_path, capsys):
    (own / "broken.mp4").write_bytes(b"no video")
    write(own / "clips.csv", "video_id,start_ms,end_ms\nb,0,2000\nbroken,0,900\n")
    for said in ("next: python -m data_prep inspect", "nothing to do"):
        make.shards(own, tmp_path / "s")
        assert said in capsys.readouterr().out.splitlines()[-1]
