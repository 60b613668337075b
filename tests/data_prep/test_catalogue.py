"""Catalogues from outside: what is read, what is refused, and what `explore` says of them."""

import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from layouts import surglavi as layout

from data_prep import catalogue, explore
from data_prep.__main__ import main
from data_prep.catalogue import Entry
from surgjax.errors import UserError

WATCH = "https://www.youtube.com/watch?v="
HOSTILE = [
    "..",
    "../x",
    "/etc/passwd",
    "a\0b",
    "a b",
    "x;touch y",
    "$(id)",
    "`id`",
    "a|b",
    "a.mp4",
    "%(title)s",
    "a/b",
    "a\\b",
    "é",
    "x\ny",
    "y" * 65,
]


def csv_file(tmp_path, text):
    path = tmp_path / "videos.csv"
    path.write_text(text, encoding="utf-8")
    return path


def json_file(tmp_path, *rows):
    path = tmp_path / "videos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_surglavi(tmp_path):
    videos = [*layout.VIDEOS, (13, "no id", None, None, None), (14, "empty", " ", None, None)]
    found = catalogue.read(layout.catalogue(tmp_path, videos=videos))
    assert found.entries[:2] == [
        Entry("1", f"{WATCH}aaaaaaaaaaa"),
        Entry("2", f"{WATCH}bbb-bbb_bbb"),
    ]
    assert [entry.video_id for entry in found.entries] == ["1", "2", "3", "4", "12"]
    assert (found.refused, found.without_address) == ([], 2)


def test_csv(tmp_path):
    text = (
        "\ufeffurl,video_id,youtube_id,title\n"
        "http://a.org/x.mp4,one,,T\n"
        ",,-bcdefghij_,\n"
        'https://youtu.be/aaaaaaaaaaa?t=3,two,,"a\nb"\n'
        "https://m.youtube.com/watch?list=L&v=bbbbbbbbbbb&t=1,,,\n"
        ",three,,\n"
        "HTTPS://a.org:8443/y ?z=1#__youtubedl_smuggle=%7B%7D,four,,\n"
    )
    found = catalogue.read(csv_file(tmp_path, text))
    assert found.entries == [
        Entry("one", "http://a.org/x.mp4"),
        Entry("-bcdefghij_", f"{WATCH}-bcdefghij_"),
        Entry("two", f"{WATCH}aaaaaaaaaaa"),
        Entry("bbbbbbbbbbb", f"{WATCH}bbbbbbbbbbb"),
        Entry("four", "https://a.org:8443/y%20?z=1"),
    ]
    assert (found.refused, found.without_address) == ([], 1)


def test_jsonl(tmp_path):
    rows = [{"video_id": 7, "youtube_id": "aaaaaaaaaaa", "x": [1]}, {"url": f"{WATCH}bbbbbbbbbbb"}]
    found = catalogue.read(json_file(tmp_path, *rows))
    assert [entry.video_id for entry in found.entries] == ["7", "bbbbbbbbbbb"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path, name):
    rows = [
        {"video_id": name, "url": "http://a.org/x.mp4"},
        {"video_id": "good", "youtube_id": name + "z" * max(0, 10 - len(name)) + "/"},
        {"video_id": "good", "url": "http://a.org/x.mp4"},
    ]
    found = catalogue.read(json_file(tmp_path, *rows))
    assert found.entries == [Entry("good", "http://a.org/x.mp4")]
    assert len(found.refused) == 2
    assert found.refused[0].startswith("videos.jsonl, line 1: video_id ")
    assert all(line.isprintable() for line in found.refused)


@pytest.mark.parametrize(
    "url, words",
    [
        ("file:///etc/passwd", "expected http"),
        ("ftp://a.org/x.mp4", "expected http"),
        ("data:video/mp4;base64,AAAA", "expected http"),
        ("concat:a|b", "expected http"),
        ("-o/tmp/x", "expected http"),
        ("x.mp4", "expected http"),
        ("http:///x.mp4", "expected http"),
        ("http://user:pass@a.org/x.mp4", "holds a login"),
        ("http://a.org/x\ty.mp4", "no address"),
        ("http://a.org/x\0.mp4", "no address"),
        ("http://a.org\\@b.org/", "no address"),
        ("http://a.org:99999/", "no address"),
        ("http://[::1/", "no address"),
        ("http://a.org/" + "x" * 2000, "no address"),
    ],
)
def test_odd_addresses(tmp_path, url, words):
    found = catalogue.read(json_file(tmp_path, {"video_id": "a", "url": url}))
    assert found.entries == [] and words in found.refused[0] and "pass@" not in found.refused[0]


def test_a_name_twice(tmp_path):
    rows = [{"video_id": "a", "url": f"http://a.org/{x}.mp4"} for x in "xxy"]
    found = catalogue.read(json_file(tmp_path, *rows))
    assert found.entries == [Entry("a", "http://a.org/x.mp4")]
    assert found.refused == ["videos.jsonl, line 3: video_id a is named above with another url"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.db", b"", "file is not a database"),
        ("a.db", b"not SQLite at all", "file is not a database"),
        ("a.db", b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
        ("a.db", b"SQLite format 3\0" + b"\xff" * 2000, "(malformed|not a database).*get the file"),
        ("a.mp4", b"\0\0\0", "unknown kind"),
        ("a.csv", b"", "columns are none; expected youtube_id or url"),
        ("a.csv", b"name,title\nx,y\n", "columns are name,title; expected youtube_id or url"),
        ("a.csv", b"url,url\nx,y\n", "columns are url,url"),
        ("a.csv", b"url\n", "no videos"),
        ("a.csv", b"url,video_id\nx\n", "row 2: 1 values; expected 2"),
        ("a.csv", b"url\n\xff\xfe\n", "not UTF-8"),
        ("a.csv", b'url\n"x\n', "no csv file"),
        ("a.jsonl", b"{]\n", "line 1: no JSON"),
        ("a.jsonl", b"[1]\n", "line 1: list; expected an object"),
        ("a.jsonl", b"[" * 100_000, "line 1: no JSON"),
        ("a.jsonl", b'{"url": "' + b"x" * 2**20 + b'"}', "line 1: longer than"),
    ],
)
def test_no_catalogue(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{words}"):
        catalogue.read(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        catalogue.read(tmp_path / "none.db")


def database(tmp_path, statements):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as made, made:
        made.executescript(statements)
    return path


@pytest.mark.parametrize(
    "statements, words",
    [
        ("CREATE TABLE films (id)", "no table videos, found films"),
        ("CREATE VIEW videos AS SELECT 1 AS youtube_id", "no table videos, found none"),
        ("CREATE VIRTUAL TABLE videos USING fts5(youtube_id)", "no table videos, found videos_"),
        ("CREATE TABLE videos (video_id, name)", "columns video_id, name; expected youtube_id"),
        ("CREATE TABLE videos (youtube_id)", "no videos"),
    ],
)
def test_tables_that_are_not_there(tmp_path, statements, words):
    with pytest.raises(UserError, match=words):
        catalogue.read(database(tmp_path, statements))


def test_functions_of_the_file_are_not_called(tmp_path):
    column = "youtube_id TEXT AS (load_extension('x')) VIRTUAL"
    path = tmp_path / "a.db"
    path.write_bytes(b"")
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("PRAGMA writable_schema = ON")
        made.execute("CREATE TABLE videos (video_id, youtube_id)")
        made.execute("INSERT INTO videos (video_id) VALUES (1)")
        sql = f"CREATE TABLE videos (video_id, {column})"
        made.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'videos'", (sql,))
    with pytest.raises(UserError, match="a.db: .*(unsafe use|not authorized|malformed)"):
        catalogue.read(path)


def test_a_truncated_database(tmp_path):
    videos = [(i, "x" * 200, "aaaaaaaaaaa", "y" * 99, None) for i in range(999)]
    path = layout.catalogue(tmp_path, videos=videos)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="get the file again"):
        catalogue.read(path)


def test_nothing_but_reading(tmp_path):
    path = layout.catalogue(tmp_path)
    before = path.read_bytes()
    for statement in (
        "DELETE FROM captions",
        "PRAGMA query_only = OFF",
        f"ATTACH '{tmp_path / 'new.db'}' AS new",
        "SELECT load_extension('x')",
        "CREATE TEMP TABLE t (x)",
    ):
        with pytest.raises(UserError, match="not authorized|prohibited|readonly"):
            with catalogue.opened(path) as opened:
                opened.execute(statement).fetchall()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_odd_folder_name_is_no_uri(tmp_path):
    root = tmp_path / "100% ?mode=rwc&x#y"
    assert len(catalogue.read(layout.catalogue(root)).entries) == 5


# --- explore -----------------------------------------------------------------------------------


def test_counts_by_sql(tmp_path, capsys):
    """The same numbers by SQL, and a page that loads nothing."""
    path = layout.catalogue(tmp_path)
    layout.change(
        tmp_path,
        "ALTER TABLE videos ADD COLUMN duration float; UPDATE videos SET duration = 1800;"
        "UPDATE videos SET procedure_type = '<script>alert(1)</script> $x$' WHERE video_id = 1",
    )
    out = tmp_path / "out"
    assert main(["catalogue", "explore", str(path), "--out", str(out)]) == 0
    said = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1])
    pair = "CAST(is_surgical_content AS REAL) = 1 AND CAST(is_descriptive AS REAL) = 1"
    with closing(sqlite3.connect(path)) as made:
        one = lambda sql: made.execute(sql).fetchone()[0]  # noqa: E731
        expected = {
            "videos": one("SELECT count(*) FROM videos"),
            "captions": one("SELECT count(*) FROM captions"),
            "pairs (both)": one(f"SELECT count(*) FROM captions WHERE {pair}"),
            "surgical": one(
                "SELECT count(*) FROM captions WHERE CAST(is_surgical_content AS REAL) = 1"
            ),
            "fine: captions": one("SELECT count(*) FROM captions WHERE level_id = 1"),
            "fine: pairs": one(f"SELECT count(*) FROM captions WHERE level_id = 1 AND {pair}"),
            "videos with narration": one(
                "SELECT count(*) FROM videos WHERE video_id IN (SELECT video_id FROM captions)"
            ),
        }
        spans = [
            end - start
            for start, end in made.execute(
                "SELECT start_time, end_time FROM captions WHERE level_id = 1 "
                "AND start_time NOTNULL"
            )
        ]
    assert {name: int(said[name]) for name in expected} == expected
    assert float(said["hours"]) == 2.5 and int(said["silent videos"]) == 1
    assert said["fine: median seconds"] == f"{np.median(spans):.1f}"
    page = (out / "explore.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "The surgeon grasps the sac." in page
    assert "http" not in page.replace("http-equiv", "") and "data:image/png;base64," in page
    assert (out / "explore.png").read_bytes()[1:4] == b"PNG"
    first = (out / "explore.html").read_bytes()
    assert main(["catalogue", "explore", str(path), "--out", str(out)]) == 0
    assert (out / "explore.html").read_bytes() == first


def test_missing_tables_are_said(tmp_path, capsys):
    path = database(
        tmp_path, "CREATE TABLE videos (video_id, youtube_id); INSERT INTO videos VALUES (1, 'a')"
    )
    assert main(["catalogue", "explore", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "has no table captions" in capsys.readouterr().out


def test_explore_of_a_csv(tmp_path, capsys):
    text = "video_id,url,duration,specialty\na,http://a.org,3600,liver\nb,,x,\n"
    path = csv_file(tmp_path, text)
    assert main(["catalogue", "explore", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "hours                                1.0" in said
    assert "videos with an address                 1" in said
    assert "<td>liver</td>" in (tmp_path / "out" / "explore.html").read_text()


def test_odd_values_in_pictures(tmp_path, capsys):
    rows = [
        {"video_id": "a", "url": "x", "specialty": "手術 $\\frac{", "fps": 1e300, "year": 1e200},
        {"video_id": "b", "url": "x", "specialty": "\x1b[31m\n<b>", "duration": -1, "fps": "inf"},
        {"video_id": "c", "url": "x", "specialty": ["list"], "duration": {}, "year": True},
    ]
    path = json_file(tmp_path, *rows)
    assert main(["catalogue", "explore", str(path), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "explore.html").read_text()
    assert "手術" in page and "\x1b" not in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "\x1b" not in capsys.readouterr().out


def test_flags_as_text_and_null(tmp_path):
    found = explore.read_captions(layout.catalogue(tmp_path), ["captions", "levels"])
    assert found.surgical.sum() == 8 and found.descriptive.sum() == 7
    assert list(found.level[:3]) == ["fine", "mid", "coarse"] and "level 9" in found.level
