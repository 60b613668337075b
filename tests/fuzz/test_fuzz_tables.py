"""csv files that people write: labels, splits, captions, clips, reviews, prompts, catalogues."""

import contextlib
import csv
import io
import json
import sqlite3
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from mutations import ODD_WORDS, damaged, mostly, odd_json, odd_table

from data_prep import captions, catalogue, decisions, review, tables
from data_prep.sources import Times
from data_prep.sources import folder as own_videos
from surgjax import recogniser
from surgjax.evals import zero_shot

ENDS = {"a": 60_000.0, "b/c": 5_000.0, "d": None}
CAPTIONS = """video_id,start_ms,end_ms,level,text,caption_id,surgical
a,0,4000,fine,the gallbladder is dissected,c1,1
a,4000,60000,mid,"calot's triangle, in view",c2,0
b/c,10,5000,coarse,cholecystectomy,c3,1
d,0,99,fine,clip,c4,
"""
CLIPS = "video_id,start_ms,end_ms,label,weight\na,0,4000,x,1\nb/c,100,5000,y,0.5\nd,0,9000,,2\n"


def independent(data: bytes) -> list[dict[str, str]]:
    """Rows of a csv file by Python's own reader; blank lines are none."""
    text = data.decode("utf-8-sig")
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    return [dict(zip([name.strip() for name in header], map(str.strip, row))) for row in rows]  # noqa: B905


def of_captions(folder: Path, data: bytes) -> str:
    file = folder / "captions.csv"
    file.write_bytes(data)
    rows = captions.read(file, ENDS)
    expected = independent(data)
    assert len(rows) == len(expected) == len({row["caption_id"] for row in rows})
    for row, written in zip(rows, expected, strict=True):
        assert row["video_id"] == written["video_id"] in ENDS and row["text"] == written["text"]
        assert row["start_ms"] == float(written["start_ms"]) < float(written["end_ms"])
        assert row["end_ms"] == float(written["end_ms"]) <= (ENDS[row["video_id"]] or 1e15) + 1000
        assert row["surgical"] == (written.get("surgical", "1") in captions.TRUE)
    tables.write_captions(folder / "captions.parquet", rows) if rows else None
    return "read"


def test_captions(for_all):
    long = CAPTIONS.replace("clip,c4", f"{'x' * 140_000},c4").encode()
    other_digits = CAPTIONS.replace("4000,fine", "4_000,fine").encode()
    examples = [(long,), (other_digits,)]
    outcomes = for_all(of_captions, odd_table(CAPTIONS), examples=examples)
    assert outcomes["read"] and len(outcomes) > 5


def test_a_quotation_mark_left_open_swallows_no_rows(for_all):
    open_mark = CAPTIONS.replace(",the gall", ',"the gall').encode()
    outcomes = for_all(of_captions, st.just(open_mark), examples=[(open_mark,)])
    assert all("no csv" in outcome for outcome in outcomes)


def of_clips(folder: Path, data: bytes) -> str:
    file = folder / "clips.csv"
    file.write_bytes(data)
    rows = tables.clips(file, ENDS)
    for row, written in zip(rows, independent(data), strict=True):
        assert row["video_id"] == written["video_id"] in ENDS
        assert [row[n] for n in ("start_ms", "end_ms")] == [
            float(written[n]) for n in ("start_ms", "end_ms")
        ]
        assert "weight" not in row or 0 <= row["weight"] == float(written["weight"]) < np.inf
    tables.write_clips(folder / "clips.parquet", rows) if rows else None
    return "read"


def test_clips(for_all):
    outcomes = for_all(of_clips, odd_table(CLIPS))
    assert outcomes["read"] and len(outcomes) > 5


SPANS = "video,start,end,label,task\na,0,2,one,phase\na,2,4,two,phase\nb,0,1.5,one,phase\n"
POINTS = "video,t,label\na,0,one\na,1.04,two\nb.mp4,0.5,one\n"
SPLITS = "video,split,case\na,train,p1\nb,test,p2\nc,val,p3\n"
SECOND = Times(np.arange(0, 5000, 40), np.arange(125), 25.0)


def of_own_videos(folder: Path, labels: bytes, splits: bytes) -> str:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / name).touch()
    (folder / "labels.csv").write_bytes(labels)
    (folder / "splits.csv").write_bytes(splits)
    found = own_videos.find(folder)
    said = {row["video"].removesuffix(".mp4"): row for row in independent(splits)}
    for video in found.videos:
        row = said.get(video.video_id, {})
        assert video.splits == ({"official": row["split"]} if row else {})
        assert video.case == f"own/{row.get('case') or video.video_id}"
        for task, table in own_videos.labels(folder, video, SECOND).items():
            classes = found.tasks[task]["classes"]
            shown = independent_labels(independent(labels), video.video_id, task)
            assert {t: classes[i] for t, i in zip(table.t_ms, table.label, strict=True)} == shown
    return "read"


def independent_labels(rows: list[dict[str, str]], video: str, task: str) -> dict[int, str]:
    """Label of every stored frame, one row after the other."""
    shown = {}
    for row in rows:
        if row["video"].removesuffix(".mp4") != video or (row.get("task") or "label") != task:
            continue
        if "t" in row:
            near = [t for t in SECOND.t_ms if abs(t - 1000 * float(row["t"])) <= 20.5][:1]
        else:
            start, end = (round(1000 * float(row[name])) for name in ("start", "end"))
            near = [t for t in SECOND.t_ms if start <= t < end]
        shown |= dict.fromkeys(near, row["label"])
    return shown


def test_labels_and_splits_of_own_videos(for_all):
    outcomes = for_all(of_own_videos, odd_table(SPANS) | odd_table(POINTS), odd_table(SPLITS))
    assert outcomes["read"] and len(outcomes) > 5


REVIEWS = """video,start,end,decision,reviewer,date
a,0,1:30,drop,me,2026-05-31
a,10.5,,keep,me,2026-05-31
b,,,keep,you,2026-06-01
"""


def of_reviews(folder: Path, data: bytes) -> str:
    file = folder / review.FILE
    file.write_bytes(data)
    rows = review.read(file, {"a", "b"})
    for row, written in zip(rows, independent(data), strict=True):
        assert (row.video, row.decision) == (written["video"], written["decision"])
        for name in ("start", "end"):
            given = written[name].split(":")
            seconds = sum(float(x) * 60**i for i, x in enumerate(given[::-1])) if given[0] else None
            assert getattr(row, name) == (
                {"start": 0, "end": np.inf}[name] if seconds is None else seconds
            )
        assert 0 <= row.start < row.end
    return "read"


def test_reviews(for_all):
    outcomes = for_all(of_reviews, odd_table(REVIEWS))
    assert outcomes["read"] and len(outcomes) > 5


CLASSES = ["one", "two"]
PROMPTS = "class_id,class,prompt\n0,one,the first\n1,two,the second\n0,one,a first one\n"


def of_prompts(folder: Path, data: bytes) -> str:
    file = folder / "prompts.csv"
    file.write_bytes(data)
    named = recogniser._classes_of(file)
    assert all(isinstance(name, str) for name in named)
    found = zero_shot.read_prompts(file, CLASSES)
    rows = independent(data)
    for name, prompts in zip(CLASSES, found, strict=True):
        assert prompts == [row["prompt"] for row in rows if row["class"] == name]
    return "read"


def test_prompts(for_all):
    comma = PROMPTS.replace("the first", "first, and only").encode()  # was "first"
    blanks = PROMPTS.replace(",", ", ").encode()
    examples = [(comma,), (blanks,), (PROMPTS.replace("0,", "9" * 5000 + ",").encode(),)]
    outcomes = for_all(of_prompts, odd_table(PROMPTS), examples=examples)
    assert outcomes["read"] and len(outcomes) > 3


ROWS = [
    {"video_id": "v1", "youtube_id": "abcdefghijk", "url": ""},
    {"video_id": "v2", "youtube_id": "", "url": "https://example.org/a b.mp4"},
    {"video_id": "v3", "youtube_id": "", "url": "https://youtu.be/ABCDEFGHIJK?t=3"},
]


def of_catalogue(folder: Path, suffix: str, data: bytes) -> str:
    file = folder / f"catalogue.{suffix}"
    file.write_bytes(data)
    assert catalogue.tables(file) is not None
    found = catalogue.read(file)
    ids = [entry.video_id for entry in found.entries]
    assert len(set(ids)) == len(ids)
    for entry in found.entries:
        assert catalogue.VIDEO_ID.fullmatch(entry.video_id)
        assert entry.url.startswith(("http://", "https://")) and entry.url.isprintable()
        assert " " not in entry.url and "@" not in entry.url.split("/")[2]
    rows = sum(1 for _ in catalogue.read_rows(file, "videos"))
    assert rows >= len(ids) + len(found.refused) + found.without_address
    return "read"


def test_catalogues_as_csv(for_all):
    text = "\n".join([",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)])
    outcomes = for_all(of_catalogue, st.just("csv"), odd_table(text))
    assert outcomes["read"] and len(outcomes) > 2


def test_catalogues_as_json(for_all):
    lines = st.lists(st.sampled_from(ROWS).flatmap(odd_json), max_size=3).map(b"\n".join)
    outcomes = for_all(of_catalogue, st.just("jsonl"), lines)
    assert outcomes["read"] and len(outcomes) > 2


def sqlite_file(rows: list[dict], more: tuple[str, ...] = ()) -> bytes:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE videos (video_id, youtube_id TEXT, url)")
    database.execute("CREATE TABLE captions (caption_id INTEGER PRIMARY KEY, text)")
    for row in rows:
        database.execute("INSERT INTO videos VALUES (?, ?, ?)", tuple(row.values()))
    database.executemany("INSERT INTO captions (text) VALUES (?)", [["x" * 50]] * 40)
    for statement in more:
        with contextlib.suppress(sqlite3.OperationalError):  # of another's making
            database.execute(statement)
    database.commit()
    data = database.serialize()
    database.close()
    return data


def test_catalogues_as_sqlite(for_all):
    cell = st.sampled_from([None, 0, -1, 2**62, 1e300, b"\xff\xfe", b"\x00", *ODD_WORDS, *"ab"])
    rows = st.lists(
        st.sampled_from(ROWS) | st.fixed_dictionaries(dict.fromkeys(ROWS[0], cell)), max_size=4
    )
    tricks = st.sampled_from(
        [
            "CREATE VIEW v AS SELECT * FROM videos",
            "CREATE TRIGGER t AFTER INSERT ON videos BEGIN DELETE FROM videos; END",
            "CREATE INDEX i ON videos (url)",
            "ALTER TABLE videos RENAME TO old",
            "INSERT INTO videos VALUES ('big', NULL, zeroblob(2000000))",
            'CREATE TABLE "a\'b" (x)',
        ]
    )
    made = st.builds(sqlite_file, rows, st.lists(tricks, max_size=2, unique=True).map(tuple))
    whole = sqlite_file(ROWS)
    outcomes = for_all(of_catalogue, st.just("db"), mostly(damaged(whole), made))
    assert outcomes["read"] and len(outcomes) > 3


QC = {
    "videos.csv": "video,seconds,samples,bytes,black,frozen,blurred,out_of_body,text,cuts,x0,y0,x1,"
    "y1,duplicate_of,flags,unreadable\na,10.000,20,99,0.1,0,0,0.2,0,1,0.1,0,1,1,,black,\n"
    "b,,,,,,,,,,,,,,,,not readable: x\n",
    "spans.csv": "video,start,end,flag,score\na,0.000,2.000,out_of_body,0.900\n",
    "boxes.csv": "video,start,end,x0,y0,x1,y1\na,1.000,3.000,0.1,0.1,0.5,0.5\n",
}


def of_findings(folder: Path, name: str, data: bytes) -> str:
    """A folder of `qc`; what is not its own tables is found."""
    for file, text in QC.items():
        (folder / file).write_text(text)
    digests = {file: tables.sha256(folder / file) for file in QC}
    about = {"tables": digests, "source": "folder", "about": {"frames_fps": 1}}
    (folder / "qc.json").write_text(json.dumps(about))
    (folder / review.FILE).write_text(",".join(review.COLUMNS) + "\n")
    expected = decisions.digest(decisions.read(folder, crop=True, cover_text=True))
    (folder / name).write_bytes(data)
    found = decisions.read(folder, crop=True, cover_text=True)
    decisions.check_source(folder, "folder", {"frames_fps": 1})
    sizes = decisions.sizes(folder)
    assert set(sizes) == set(found) == {"a", "b"}
    is_same = decisions.digest(found) == expected
    assert is_same or name == "qc.json" and json.loads(data)["tables"] != digests
    return "read"


def test_changed_findings_are_found(for_all):
    changed = st.sampled_from(sorted(QC)).flatmap(
        lambda name: st.tuples(st.just(name), odd_table(QC[name]))
    )
    about = odd_json({"tables": {}, "source": "folder", "about": {"frames_fps": 1}})
    cases = changed | st.tuples(st.just("qc.json"), about)
    examples = [(("qc.json", text),) for text in (b"[]", b'{"tables": {}, "source": "folder"}')]
    outcomes = for_all(of_a_finding, cases, examples=examples)
    assert len(outcomes) > 1


def of_a_finding(folder: Path, case: tuple[str, bytes]) -> str:
    return of_findings(folder, *case)
