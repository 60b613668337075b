"""`verify` names what is damaged, `check` what is odd."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import small_videos as make

from data_prep import check
from data_prep.__main__ import main
from surgjax.errors import UserError


@pytest.fixture
def cholec(tmp_path) -> Path:
    root = make.write_cholec(tmp_path / "c", "video01")
    return make.write_cholec(root, "video41")


@pytest.fixture
def store(cholec, tmp_path) -> Path:
    make.shards(cholec, tmp_path / "s", "--dataset", "cholec80", "--fps", "native")
    return tmp_path / "s"


def verify(store, *options) -> int:
    return main(["verify", str(store), *map(str, options)])


def test_a_good_store(store, cholec, capsys):
    assert verify(store) == 0
    assert verify(store, "--against-source", 30, "--root", cholec) == 0
    assert "30 frames equal" in capsys.readouterr().out
    assert verify(store, "--against-source", 5000, "--source", cholec) == 0


@pytest.mark.parametrize("name", ["array_record-00000", "videos.parquet", "labels/phase.parquet"])
def test_one_changed_bit_is_found_and_named(store, capsys, name):
    file = next(path for path in sorted(store.rglob("*")) if name in str(path))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert verify(store) == 1
    assert f"damaged: {file.relative_to(store)} has other bytes" in capsys.readouterr().out


def test_missing_and_cut_files(store, capsys):
    shard = next(store.glob("*array_record*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    (store / "features.json").unlink()
    assert verify(store) == 1
    out = capsys.readouterr().out
    assert f"{shard.name} has other bytes" in out and "features.json is missing" in out


def test_wrong_counts_are_found_even_with_right_digests(store, capsys):
    meta = json.loads((store / "store.json").read_text())
    meta["counts"]["frames"] += 1
    (store / "store.json").write_text(json.dumps(meta))
    assert verify(store) == 1
    assert "121 frames, its files hold 120" in capsys.readouterr().out


def test_records_that_are_not_what_the_table_says(store, capsys):
    from data_prep.tables import sha256

    table = pq.read_table(store / "videos.parquet")
    names = table.column_names.index("video_id")
    swapped = table.set_column(names, "video_id", [["video41", "video01"]])
    pq.write_table(swapped, store / "videos.parquet")
    meta = json.loads((store / "store.json").read_text())
    meta["tables"]["videos.parquet"] = sha256(store / "videos.parquet")
    (store / "store.json").write_text(json.dumps(meta))
    assert verify(store) == 1
    assert "record 0: holds video01 from frame 0, expected video41" in capsys.readouterr().out


def test_other_pictures_and_labels_than_the_source(store, cholec, capsys):
    make.write_cholec(cholec, phases=["CleaningCoagulation", "CalotTriangleDissection"])
    images = [255 - make.picture(i) for i in range(60)]
    make.write_video(cholec / "videos" / "video41.mp4", 60, images=images)
    assert verify(store, "--against-source", 120, "--root", cholec) == 1
    out = capsys.readouterr().out
    assert "video01 at 0 ms: other phase label than in the source" in out
    assert "video41, frame 59 at 2360 ms: other picture" in out
    assert "video01, frame" not in out and "video41 at" not in out


def test_what_verify_needs(store, tmp_path):
    with pytest.raises(UserError, match="store.json is missing"):
        verify(tmp_path)
    with pytest.raises(UserError, match="needs --root"):
        verify(store, "--against-source", 3)
    meta = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(meta | {"schema_version": 2}))
    with pytest.raises(UserError, match="update surgjax"):
        verify(store)
    (store / "store.json").write_text("{")
    assert verify(store) == 1


def test_check_describes_a_data_set(cholec, capsys, monkeypatch):
    from data_prep import video

    def decode(*_):
        raise AssertionError("check decodes nothing")

    monkeypatch.setattr(video, "kept_frames", decode)
    (cholec / "tool_annotations" / "video41-tool.txt").unlink()
    assert main(["check", "--root", str(cholec)]) == 0
    out = capsys.readouterr().out
    assert "cholec80, layout from-code" in out and "2 videos, 0.00 hours" in out
    assert "split tecno (community): train 1, val 1" in out
    assert "about 6 frames" in out and "78 of 80 official videos are missing" in out
    assert "1 of 2 videos have no tool file: video41" in out


def test_check_names_damage(cholec, capsys):
    (cholec / "videos" / "video02.mp4").write_bytes(b"")
    path = cholec / "phase_annotations" / "video01-phase.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:30]))
    assert main(["check", "--root", str(cholec), "--dataset", "cholec80", "--fps", "native"]) == 1
    out = capsys.readouterr().out
    assert "damaged or refused: videos/video02.mp4: empty file" in out
    assert "video01-phase.txt: 29 rows" in out


def test_check_of_own_videos_and_of_nothing(tmp_path, capsys):
    make.write_video(tmp_path / "v" / "a.mp4", 50)
    assert main(["check", "--root", str(tmp_path / "v"), "--dataset", "mine"]) == 0
    assert "1 videos" in capsys.readouterr().out
    (tmp_path / "v" / "list.pls").write_text("[playlist]\n")
    assert main(["check", "--videos", str(tmp_path / "v")]) == 1
    for root in (tmp_path / "none", tmp_path):
        (tmp_path / "v" / "a.mp4").unlink(missing_ok=True)
        (tmp_path / "v" / "list.pls").unlink(missing_ok=True)
        with pytest.raises(UserError):
            main(["check", "--root", str(root)])


def test_check_keeps_its_time_on_large_folders(tmp_path, capsys, monkeypatch):
    make.write_video(tmp_path / "000.mp4", 50)
    for i in range(1, 1500):
        os.link(tmp_path / "000.mp4", tmp_path / f"{i:03d}.mp4")
    monkeypatch.setattr(check, "HEADER_SECONDS", 0.05)
    assert main(["check", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "of 1500 videos, chosen at random" in out
    assert "1500 videos, 0.83 hours" in out and "about 3,000 frames" in out


def test_a_layout_report_shows_no_date_or_number(tmp_path, capsys):
    make.write_cholec(tmp_path / "c", "video07")
    (tmp_path / "c" / "patients_1975.csv").write_text("name,date\n12,2024-01-31\n")
    assert main(["check", "--root", str(tmp_path / "c"), "--layout"]) == 0
    out = capsys.readouterr().out
    assert "layout of a folder with 4 files" in out and "1  videos/video#.mp4" in out
    assert "| Frame\tPhase" in out and "| name,date" in out and "| #,#-#-#" in out
    report = out.replace(str(tmp_path), "")
    assert not any(digits in report for digits in ("07", "1975", "2024"))
