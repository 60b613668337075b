"""captions.csv becomes captions.parquet, or one line that names the bad row."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_videos as make
from layouts import peskavlp as peskavlp_layout

from data_prep import captions, inspect, narration, operation
from data_prep.__main__ import main
from data_prep.sources import peskavlp
from data_prep.tables import sha256
from surgjax.data.store import open_store
from surgjax.errors import UserError

HEADER = "video_id,start_ms,end_ms,level,text"
FULL = "caption_id,video_id,start_ms,end_ms,level,text,raw_text,surgical,descriptive"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Two videos of 2.4 s and one file that cannot be read."""
    root = tmp_path_factory.mktemp("own")
    make.write_video(root / "x" / "a.mp4", 60)
    make.write_video(root / "b.mkv", 60)
    (root / "broken.mp4").write_bytes(b"no video")
    return root


def write(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def prepare(own, out, captions, *options):
    make.shards(own, out, "--captions", str(captions), *options)
    return make.rows(out, "captions")


def test_a_short_table_is_filled_in(own, tmp_path, capsys):
    file = write(
        tmp_path / "mine.csv",
        HEADER,
        'x/a,0,900,fine,"Cut, \nthen clip."',  # a text may go over two lines
        "broken,0,90,fine,lost",
        "b,0,3300,coarse,All of it.",  # up to a second too long is how transcripts are
    )
    rows = prepare(own, tmp_path / "s", file)
    assert rows == [
        dict(caption_id="0", video_id="x/a", level="fine", start_ms=0, end_ms=900)
        | dict(
            raw_text="Cut, \nthen clip.", text="Cut, \nthen clip.", surgical=True, descriptive=True
        ),
        dict(caption_id="2", video_id="b", level="coarse", start_ms=0, end_ms=3300)
        | dict(raw_text="All of it.", text="All of it.", surgical=True, descriptive=True),
    ]
    assert "1 captions belong to videos that were not stored" in capsys.readouterr().out
    meta = json.loads((tmp_path / "s" / "store.json").read_text())
    assert meta["counts"]["captions"] == 2
    assert meta["tables"]["captions.parquet"] == sha256(tmp_path / "s" / "captions.parquet")


def test_every_column_and_its_reader(own, tmp_path):
    write(
        own / "captions.csv",
        FULL,
        "k7,b,0,800,mid,Hook dissects.,so the hook er,1,true",
        "k3,x/a,40,80,fine,Grasper.,,0,",
    )
    try:
        make.shards(own, tmp_path / "s")  # found beside the videos
    finally:
        (own / "captions.csv").unlink()
    store = open_store(tmp_path / "s")
    columns = store.captions()
    assert [store.video_id(video) for video in columns["video"]] == ["b", "x/a"]
    assert columns["video"].dtype == np.int32 and columns["start_ms"].dtype == np.int64
    assert list(columns["caption_id"]) == ["k7", "k3"] and list(columns["level"]) == ["mid", "fine"]
    assert list(columns["raw_text"]) == ["so the hook er", "Grasper."]
    assert columns["surgical"].tolist() == columns["descriptive"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("k2,x/c,0,900,fine,words,,1,1", "row 3: no video 'x/c'.*mean 'x/a'"),
        ("k2,x/a,900,900,fine,words,,1,1", "row 3: start_ms 900, end_ms 900; .*end after start"),
        ("k2,x/a,900,200,fine,words,,1,1", "row 3: start_ms 900, end_ms 200; .*end after start"),
        ("k2,x/a,0,90.5,fine,words,,1,1", "row 3: .*whole milliseconds"),
        ("k2,x/a,-1,90,fine,words,,1,1", "row 3: start_ms is '-1'"),
        ("k2,x/a,2500,2600,fine,words,,1,1", "row 3: 2500 to 2600 ms lies outside .* 2400 ms"),
        ("k2,x/a,0,3401,fine,words,,1,1", "row 3: 0 to 3401 ms lies outside the video 'x/a'"),
        ("k2,x/a,0,900,fin,words,,1,1", "row 3: level is 'fin' .did you mean 'fine'.*coarse, mid"),
        ("k2,x/a,0,900,fine, ,,1,1", "row 3: text is empty"),
        ("k2,x/a,0,900,fine,words,,yes,1", "row 3: surgical is 'yes'; expected 0 or 1"),
        ("k1,x/a,0,900,fine,words,,1,1", "row 3: caption_id 'k1' is that of row 2 too"),
        (",x/a,0,900,fine,words,,1,1", "row 3: caption_id is empty"),
        ("k2,x/a,0,900,words", "row 3: 5 values; expected 9"),
    ],
)
def test_bad_captions_stop_before_any_work(own, tmp_path, capsys, row, message):
    file = write(tmp_path / "bad.csv", FULL, "k1,x/a,0,900,fine,fine words,,1,1", row)
    with pytest.raises(UserError, match=f"bad.csv, {message}"):
        prepare(own, tmp_path / "s", file)
    assert not (tmp_path / "s" / "plan.json").exists()
    main(["check", "--root", str(own), "--captions", str(file)])
    assert "damaged or refused: bad.csv, row 3" in capsys.readouterr().out


def test_a_file_that_is_not_there(own, tmp_path):
    with pytest.raises(UserError, match="--captions .*none.csv is no file"):
        prepare(own, tmp_path / "s", tmp_path / "none.csv")
    make.shards(own, tmp_path / "t")
    with pytest.raises(UserError, match="has no captions; .*--captions FILE"):
        open_store(tmp_path / "t").captions()


def test_captions_that_come_later_or_change_need_no_second_decoding(own, tmp_path, capsys):
    one = write(tmp_path / "1.csv", HEADER, "b,0,900,fine,Cut.")
    two = write(tmp_path / "2.csv", HEADER, "b,0,900,fine,Cut.", "x/a,0,900,mid,Clip.")
    fresh, grown = tmp_path / "fresh", tmp_path / "grown"
    prepare(own, fresh, two)
    make.shards(own, grown)
    frames = next(grown.glob("*array_record*")).stat().st_mtime_ns
    for file, said in ((one, "renewed: captions"), (two, "renewed: captions"), (two, "nothing to")):
        prepare(own, grown, file)
        assert said in capsys.readouterr().out.splitlines()[-1]
    assert next(grown.glob("*array_record*")).stat().st_mtime_ns == frames
    for path in fresh.iterdir():
        assert path.read_bytes() == (grown / path.name).read_bytes(), path.name
    bad = write(tmp_path / "3.csv", HEADER, "b,3100,3150,fine,Cut.")
    with pytest.raises(UserError, match="3.csv, row 2: .*outside"):
        prepare(own, grown, bad)


def test_captions_left_out_are_told_once(tmp_path, capsys):
    peskavlp_layout.make(tmp_path / "root")
    make.shards(tmp_path / "root", tmp_path / "s", "--dataset", "peskavlp", "--short-side", "48")
    assert capsys.readouterr().out.count("captions are left out") == 1


def test_captions_left_out_by_other_lengths_are_told_again(tmp_path, capsys):
    peskavlp_layout.make(tmp_path)
    read = captions.reader(peskavlp, tmp_path, None)
    ends = dict.fromkeys(["lap 1", "lap 10", "lap 11"], 3000.0)
    kept = [len(read(ends)), len(read(ends)), len(read(ends | {"lap 1": 1500.0}))]
    assert kept == [5, 5, 3]  # then not those past the end of the shorter video
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" captions")[0] for line in lines] == ["warning: 4 of 9", "warning: 6 of 9"]


def test_verify_knows_the_table(own, tmp_path, capsys):
    out = tmp_path / "s"
    prepare(own, out, write(tmp_path / "1.csv", HEADER, "b,0,900,fine,Cut."))
    assert main(["verify", str(out)]) == 0
    table = pq.read_table(out / "captions.parquet")
    for name, value, message in (
        ("level", "bad", "captions of level 'bad'"),
        ("video_id", "c", "names c, which is no video"),
        ("end_ms", 0, "end before they start"),
    ):
        place = table.column_names.index(name)
        damaged = table.set_column(place, table.field(name), [[value]])
        pq.write_table(damaged, out / "captions.parquet")
        assert main(["verify", str(out)]) == 1
        assert "captions.parquet has other bytes" in capsys.readouterr().out
        meta = json.loads((out / "store.json").read_text())
        meta["tables"]["captions.parquet"] = sha256(out / "captions.parquet")
        (out / "store.json").write_text(json.dumps(meta))
        assert main(["verify", str(out)]) == 1
        assert message in capsys.readouterr().out


def test_the_rendered_corpus_tells_what_can_be_seen(corpus, store, tmp_path):
    with (corpus / "captions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["video_id"] for row in rows} == {f"video{i:02d}" for i in range(1, 7)}
    assert len({row["caption_id"] for row in rows}) == len(rows)
    by_level = {
        level: [r for r in rows if r["level"] == level] for level in ("coarse", "mid", "fine")
    }
    assert len(by_level["coarse"]) == 6 and all(r["end_ms"] == "12000" for r in by_level["coarse"])
    words = ("prepares", "dissects", "clip", "rinses")
    for row in by_level["mid"]:
        lines = (corpus / "phase_annotations" / f"{row['video_id']}-phase.txt").read_text().split()
        phases = lines[3::2][int(row["start_ms"]) // 40 : int(row["end_ms"]) // 40]
        assert len(set(phases)) == 1
        assert words[operation.PHASES.index(phases[0])] in row["text"]
    tools = {}
    for path in (corpus / "tool_annotations").iterdir():
        table = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        tools[path.stem.removesuffix("-tool")] = {int(f): list(map(int, v)) for f, *v in table}
    for row in by_level["fine"]:
        if (row["surgical"], row["descriptive"]) == ("1", "1"):
            name = row["text"].split()[1].capitalize()
            seen = tools[row["video_id"]]
            start, end = int(row["start_ms"]) // 40, int(row["end_ms"]) // 40
            inside = [seen[f][operation.INSTRUMENTS.index(name)] for f in seen if start <= f < end]
            assert inside and all(inside)
    assert {(r["surgical"], r["descriptive"]) for r in rows} == {("1", "1"), ("1", "0"), ("0", "0")}
    assert make.rows(store, "captions")[0]["text"] == rows[0]["text"]
    text = inspect.inspect(open_store(store), tmp_path / "pictures")
    assert "captions, coarse: 6 of 6 videos, 6 surgical and descriptive, 12.0 s" in text


def test_narration_is_a_function_of_the_plan():
    plan = operation.plan_operation(np.random.default_rng(4), 300, 25, "round", 1.6)
    made = [narration.captions("v", plan, 25, np.random.default_rng(1)) for _ in range(2)]
    assert made[0] == made[1] and "round field" in made[0][0]["text"]
    assert all(0 <= r["start_ms"] < r["end_ms"] <= 12_000 for r in made[0])
