"""The table of a corpus, recounted by plain Python, and what it has for the sets of a benchmark."""

import csv
import json
import re
from collections import defaultdict

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_videos as make

from data_prep import manifest, nearness
from data_prep.__main__ import main
from data_prep.corpus import DIMENSIONS
from surgjax.benchmark import suites
from surgjax.data.leakage import usable_videos
from surgjax.data.store import open_store
from surgjax.errors import UserError

FIVE = ("domain", "dataset", "procedure", "anatomy", "licence")


def write_store(path, videos, *, clips=None, same=()):
    """A store without frames; a video is its columns, with 36,000 frames and 10 fps if not said."""
    path.mkdir()
    unsaid = {"domain": "laparoscopy", "procedure": "cholecystectomy", "anatomy": "gallbladder"}
    unsaid |= {"licence": "CC0-1.0", "native_fps": 25.0, "stored_fps": 10.0, "frames": 36_000}
    splits = {key: None for video in videos for key in video if key.startswith("split_")}
    rows, first = [], 0
    for number, given in enumerate(videos):
        video = unsaid | splits | given
        video |= {"video_id": f"v{number}", "width": 64, "height": 48, "first_record": first}
        video["dataset"] = video["case"].split("/")[0]
        first += video["frames"]
        rows.append(video)
    pq.write_table(pa.Table.from_pylist(rows), path / "videos.parquet")
    if clips is not None:
        spans = [{"video_id": name, "start_ms": 0, "end_ms": 900} for name in clips]
        pq.write_table(pa.Table.from_pylist(spans), path / "clips.parquet")
    if same:
        columns = ("case", "same_as", "held_out", "evidence")
        pairs = [dict(zip(columns, (*row, "published"), strict=True)) for row in same]
        pq.write_table(pa.Table.from_pylist(pairs), path / "same_cases.parquet")
    settings = {"fps": "native", "frames_per_record": 1, "codec": "jpeg"}
    meta = {"schema_version": 1, "name": path.name, "settings": settings, "tables": {}}
    meta |= {"shards": [{"file": "none", "records": first}]}
    (path / "store.json").write_text(json.dumps(meta))
    return path


def run(*arguments):
    return main(["inventory", *map(str, arguments)])


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def stores(tmp_path):
    """Real stores: four videos of two rates with splits, and one that says little."""
    for name, frames in (("one", 50), ("two", 30), ("three", 20), ("four", 10)):
        make.write_video(tmp_path / "a" / f"{name}.mp4", frames)
    (tmp_path / "a" / "splits.csv").write_text(
        "video,split,case\none,train,x\ntwo,train,x\nthree,test,y\nfour,val,z\n"
    )
    make.write_video(tmp_path / "b" / "one.mp4", 40, rate=20)
    options = ["--procedure", "Laparoscopic  cholecystectomy", "--anatomy", "gallbladder"]
    options += ["--domain", "laparoscopy", "--licence", "CC-BY-4.0", "--fps", "5"]
    make.shards(tmp_path / "a", tmp_path / "store_a", "--short-side", "64", *options)
    options = ["--dataset", "b", "--fps", "native", "--short-side", "64"]
    make.shards(tmp_path / "b", tmp_path / "store_b", *options)
    main(["clips", str(tmp_path / "store_a"), "--seconds", "0.5"])
    return tmp_path / "store_a", tmp_path / "store_b"


def test_the_table_is_a_recount_of_the_stores(stores, capsys):
    before = [make.contents(store) for store in stores]
    capsys.readouterr()
    assert run(*stores) == 0
    printed, out = capsys.readouterr().out, stores[0].with_name("inventory")
    assert [make.contents(store) for store in stores] == before
    wanted = defaultdict(lambda: defaultdict(float))
    for store in stores:
        clips = make.rows(store, "clips") if store == stores[0] else []
        for video in make.rows(store, "videos"):
            for dimension, column in zip(DIMENSIONS, FIVE, strict=True):
                word = video[column]
                if column != "licence":
                    word = " ".join(word.lower().split())
                group = wanted[dimension, word.replace("unknown", "not stated")]
                group["videos"] += 1
                group["frames"] += video["frames"]
                seconds = video["frames"] / video["stored_fps"]
                group["source_frames"] += seconds * video["native_fps"]
                group["hours"] += seconds / 3600
                group["clips"] += sum(clip["video_id"] == video["video_id"] for clip in clips)
    rows = {(row["dimension"], row["value"]): row for row in table(out / "inventory.csv")}
    wanted["licence", "not stated"] = wanted.pop(("licence", "NOASSERTION"))
    assert set(rows) == set(wanted)
    for key, counts in wanted.items():
        for name in ("videos", "frames", "source_frames"):
            assert int(rows[key][name]) == counts[name], (key, name)
        assert float(rows[key]["hours"]) == pytest.approx(counts["hours"], abs=1e-4)
        assert rows[key]["clips"] == (f"{counts['clips']:.0f}" if counts["clips"] else ""), key
    assert rows["source", "own"]["cases"] == "3"  # one and two are of case x
    for dimension in DIMENSIONS:
        shares = [float(row["share_of_hours"]) for key, row in rows.items() if key[0] == dimension]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert "Without clips: b-native;" in printed and "more than once" not in printed
    assert re.search(r"\| laparoscopic cholecystectomy +\| +4 \| +3 \| +\d+ \|", printed)
    assert re.search(r"\| not stated +\| +1 \| +1 \| +- \| +40 \| +40 \|", printed)
    assert cv2.imread(str(out / "inventory.png")).std() > 5


def test_equal_stores_give_equal_files_that_load_nothing(stores, tmp_path):
    for name in ("x", "y"):
        run(*stores, "--against", "surgvista13", "--out", tmp_path / name)
    assert make.contents(tmp_path / "x") == make.contents(tmp_path / "y")
    assert set(make.contents(tmp_path / "x")) == {
        *(f"inventory.{kind}" for kind in ("md", "html", "png", "csv")),
        "against.csv",
    }
    page = (tmp_path / "x" / "inventory.html").read_text()
    assert "default-src 'none'" in page and not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert str(tmp_path) not in page + (tmp_path / "x" / "inventory.md").read_text()
    run(*stores, "--out", tmp_path / "x")  # what the earlier call said of a benchmark is gone
    assert not (tmp_path / "x" / "against.csv").exists()


def test_one_operation_counts_once_under_any_name(tmp_path, capsys):
    cases = [{"case": f"cholec80/video{n:02d}"} for n in (1, 2, 3)]
    dense = write_store(tmp_path / "dense", [*cases, {"case": "cholec80/video03"}])
    pairs = [("cholect50/VID02", "cholec80/video02", False)]
    again = [{"case": "cholect50/VID02", "frames": 72_000}, {"case": "cholec80/video03"}]
    sparse = write_store(tmp_path / "sparse", [*again, {"case": "cholec80/video04"}], same=pairs)
    run(dense, sparse, "--out", tmp_path / "out")
    # video02 (1 h and 2 h) and video03 (2 h in two videos, and 1 h)
    printed = capsys.readouterr().out
    assert "2 cases are there more than once, 1 of them under several names; 2 hours are" in printed
    rows = {(r["dimension"], r["value"]): r for r in table(tmp_path / "out" / "inventory.csv")}
    everything = rows["domain", "laparoscopy"]
    assert (everything["videos"], everything["cases"], everything["hours"]) == ("7", "4", "8.0")
    assert (
        rows["source", "cholec80"]["cases"] == "4" and rows["source", "cholect50"]["cases"] == "1"
    )


def test_hours_of_a_benchmark_set_by_hand(tmp_path, capsys):
    """Eight hours, seven of them for pretraining; the words of each say how near it is."""
    videos = [
        {"case": "cholec80/video01", "split_official": "train"},
        {"case": "cholec80/video41", "split_official": "test"},
        {"case": "web/1", "procedure": "Laparoscopic Cholecystectomy", "domain": "mixed"},
        {"case": "web/2", "procedure": "bile duct exploration"},
        {"case": "web/3", "procedure": "total laparoscopic hysterectomy", "anatomy": "uterus"},
        {"case": "web/4", "procedure": "unknown", "anatomy": "unknown", "domain": "laparoscopy"},
        {"case": "web/5", "procedure": "mixed", "anatomy": "mixed", "domain": "mixed"},
        {"case": "web/6", "procedure": "", "anatomy": "sigmoid colon", "domain": "endoscopy"},
    ]
    store = write_store(tmp_path / "store", videos)
    out = tmp_path / "out"
    names = "cholec80,autolaparo,surgicalactions160,esd57,cataracts,surglavi"
    run(store, "--against", names, "--out", out)
    printed = capsys.readouterr().out
    assert "Pretraining data: 7 of 8 hours, 7 of 8 videos." in printed
    assert "3 hours do not state one procedure" in printed and "Warning" not in printed
    rows = {row["set"]: row for row in table(out / "against.csv")}
    parts = ("same_procedure", "same_anatomy", "same_domain", "neither")
    hours = {name: [float(row[f"{part}_hours"]) for part in parts] for name, row in rows.items()}
    assert hours == {
        "cholec80": [2, 1, 2, 2],
        "autolaparo": [1, 0, 3, 3],
        "surgicalactions160": [1, 0, 3, 3],  # hysterectomy is gynecologic laparoscopy
        "esd57": [0, 1, 0, 6],  # the colon is of the gastrointestinal tract
        "cataracts": [0, 0, 0, 7],
        "surglavi": [0, 0, 0, 7],  # a mixture
    }
    verdicts = ["in-domain", "in-domain", "in-domain", "near", "out-of-domain", "not stated"]
    assert [row["verdict"] for row in rows.values()] == verdicts
    own = ("own_videos", "held_out_cases_left_out", "held_out_cases_in_the_data")
    assert [rows["cholec80"][name] for name in own] == ["1", "1", "0"]
    assert [rows["cataracts"][name] for name in own] == ["0", "0", "0"]


def test_pretraining_data_is_what_pretraining_uses(tmp_path):
    videos = [
        {"case": f"m2cai16/c{n}", "split_ours": part} for n, part in enumerate(["train", "test"])
    ]
    paths = [
        write_store(tmp_path / "a", videos),
        write_store(
            tmp_path / "b", [{"case": "m2cai16/c1"}, {"case": "other/c2", "frames": 18_000}]
        ),
    ]
    run(*paths, "--against", "m2cai16", "--out", tmp_path / "out")
    opened = [open_store(path) for path in paths]
    masks, report = usable_videos(opened)
    hours = sum(float((s.frames[m] / 36_000).sum()) for s, m in zip(opened, masks, strict=True))
    (row,) = table(tmp_path / "out" / "against.csv")
    assert float(row["same_procedure_hours"]) == hours == 1.5 and report["kept"] == 2
    assert (row["own_videos"], row["held_out_cases_left_out"]) == ("1", "1")


def test_held_out_cases_in_the_data_are_told(tmp_path, capsys):
    """Cholec80 as a folder of one's own: nobody knows its split but the manifest."""
    strict = manifest.read("cholec80").splits["strict"]
    tested = sorted(name for name, part in strict.items() if part == "test")[:5]
    used = sorted(name for name, part in strict.items() if part == "train")[:2]
    store = write_store(tmp_path / "s", [{"case": f"cholec80/{n}"} for n in (*tested, *used)])
    run(store, "--against", "cholec80", "--out", tmp_path / "out")
    named = ", ".join(f"cholec80/{name}" for name in tested[:3])
    assert (
        f"Warning: 5 validation or test cases of cholec80 are in the pretraining data ({named}, "
        in (capsys.readouterr().out)
    )


def test_against_a_store(tmp_path, capsys):
    corpus = [{"case": "ours/1"}, {"case": "ours/2"}, {"case": "web/1", "anatomy": "liver"}]
    tested = [
        {"case": "ours/2", "split_official": "test"},
        {"case": "ours/3", "split_official": "train", "procedure": "liver resection"},
    ]
    ours = write_store(tmp_path / "corpus", corpus)
    bench = write_store(tmp_path / "bench", tested)
    run(ours, "--against", bench, "--out", tmp_path / "out")
    (row,) = table(tmp_path / "out" / "against.csv")
    assert (row["set"], row["procedure"]) == ("ours", "cholecystectomy, liver resection")
    assert (row["own_videos"], row["held_out_cases_in_the_data"]) == ("2", "1")
    assert "1 validation or test cases of ours are in the pretraining data (ours/2)" in (
        capsys.readouterr().out
    )
    run(ours, bench, "--against", bench, "--out", tmp_path / "out")  # pretraining leaves it out
    (row,) = table(tmp_path / "out" / "against.csv")
    assert (row["held_out_cases_left_out"], row["held_out_cases_in_the_data"]) == ("1", "0")


def test_words_from_the_web_are_text(tmp_path, capsys):
    word = "<script>alert(1)</script> a|b $x^$ \x1b[31m 外科"
    store = write_store(tmp_path / "s", [{"case": "web/1", "procedure": word}])
    run(store, "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and r"\<script\>alert(1)\</script\> a\|b" in printed
    page = (tmp_path / "out" / "inventory.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "外科" in page


def test_suites_name_sets_that_are_known():
    lists = {name: suites.load(name).datasets for name in suites.names()}
    assert {name: len(sets) for name, sets in lists.items()} == {
        "surgrec16": 16,
        "surgvista13": 13,
        "surgclip10": 6,
        "synthetic": 1,
    }
    for name, sets in lists.items():
        found = nearness.benchmark_sets(name)
        assert [of.name for of in found] == sets
        assert all(of.domains and of.procedures and of.anatomies for of in found), name
    tested = {of.name: len(of.held_out) for of in nearness.benchmark_sets("cholec80,cholect50")}
    parts = manifest.read("cholec80").splits["strict"].values()
    assert tested["cholec80"] == sum(part != "train" for part in parts) > 0


@pytest.mark.parametrize("against", ["surgrec", "cholec8", "cholec80,nothing", ",", ""])
def test_unknown_sets_are_refused(tmp_path, against):
    store = write_store(tmp_path / "s", [{"case": "web/1"}])
    with pytest.raises(UserError, match="--against names .*expected a suite") as error:
        run(store, "--against", against, "--out", tmp_path / "out")
    if against in ("surgrec", "cholec8"):
        assert f"did you mean {'surgrec16' if against == 'surgrec' else 'cholec80'!r}" in str(error)
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s", [{"case": "web/1"}], clips=["v0", "v0", "refused"])
    other = write_store(tmp_path / "t", [{"case": "web/2"}])
    with pytest.raises(UserError, match="no store at"):
        run(tmp_path / "none")
    with pytest.raises(UserError, match="no complete store"):
        run(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"s is named twice, as .*s too; expected each store once"):
        run(store, "s")
    for inside in (store / "out", other):
        with pytest.raises(UserError, match="lies in a store"):
            run(store, other, "--out", inside)
    with pytest.raises(UserError, match="lies in a store"):
        run(store, "--against", other, "--out", other / "x")
    with pytest.raises(UserError, match="no complete store"):
        run(store, "--against", tmp_path)
    run(store)
    (row,) = (r for r in table(tmp_path / "inventory" / "inventory.csv") if r["value"] == "web")
    assert row["clips"] == "2"
    (store / "clips.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match="clips.parquet cannot be read.*verify"):
        run(store)


def test_many_videos_take_seconds(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"operation {n}" for n in range(200)] + ["cholecystectomy"]
    videos = [
        {"case": f"web/{n // 2}", "procedure": words[i], "split_ours": "test" if i % 9 else "train"}
        for n, i in enumerate(rng.integers(0, len(words), 10_000))
    ]
    pairs = [(f"web/{n}", f"web/{n + 1}", False) for n in range(0, 4_000, 2)]
    store = write_store(tmp_path / "s", videos, same=pairs)
    run(store, "--against", "surgrec16", "--out", tmp_path / "out")
    rows = table(tmp_path / "out" / "inventory.csv")
    source = next(row for row in rows if row["dimension"] == "source")
    assert (source["videos"], source["cases"]) == ("10000", "3000")
