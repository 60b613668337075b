"""LIME: one text a clip, over the whole of it, if it is there and its length is known."""

import pytest
import small_videos as make
from layouts import lime as layout
from layouts import text, video

from data_prep.__main__ import main
from data_prep.sources import lime
from surgjax.errors import UserError


def test_a_text_is_a_fine_caption_of_its_whole_clip(tmp_path, capsys):
    layout.make(tmp_path / "root")
    out = tmp_path / "store"
    assert make.shards(tmp_path / "root", out, "--dataset", "lime", "--short-side", "48") == 0
    assert "1 of 4 captions are left out: 1 without text\n" in capsys.readouterr().out
    rows = {row["video_id"]: row for row in make.rows(out, "captions")}
    words = "The hook frees the gallbladder from its bed."
    assert rows.pop("0001/clip") == dict(
        caption_id="0001/clip", video_id="0001/clip", level="fine", start_ms=0, end_ms=2000
    ) | dict(raw_text=words, text=words, surgical=True, descriptive=True)
    assert {name: row["text"] for name, row in rows.items()} == {
        "more/a": "Two clips are placed.",
        "more/b.1": "The duct is cut.",
    }
    assert not (out / "labels").exists() and main(["verify", str(out)]) == 0


def test_clips_without_text_are_told(tmp_path):
    layout.make(tmp_path)
    assert lime.find(tmp_path).warnings == ["1 of 5 videos have no text file: more/c"]


def test_a_clip_of_unknown_length_has_no_caption(tmp_path, capsys):
    layout.make(tmp_path)
    rows = lime.captions(tmp_path, {"0001/clip": None, "more/a": 2000.4})
    assert [(row["video_id"], row["end_ms"]) for row in rows] == [("more/a", 2000)]
    assert "1 of 2 captions are left out: 1 without a known span" in capsys.readouterr().out


def test_clips_of_a_folder_are_one_case(tmp_path):
    for name in ("1/a", "1/b", "2/a"):
        video(tmp_path / f"{name}.mp4", seconds=0.2)
    cases = {row.video_id: row.case for row in lime.find(tmp_path).videos}
    assert cases == {"1/a": "lime/1", "1/b": "lime/1", "2/a": "lime/2"}


def test_long_and_binary_texts(tmp_path, capsys):
    text(tmp_path / "a/clip.txt", ["x" * 10_001])
    text(tmp_path / "b/clip.txt", ["x\0y"])
    assert lime.captions(tmp_path, {"a/clip": 900.0, "b/clip": 900.0}) == []
    assert "left out: 2 with more than 10000 characters or with bin" in capsys.readouterr().out
    (tmp_path / "b/clip.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="b/clip.txt: not UTF-8 text"):
        lime.captions(tmp_path, {"b/clip": 900.0})


def test_only_the_published_names_are_recognised(tmp_path):
    video(tmp_path / "holiday/beach.mp4", seconds=0.2)
    text(tmp_path / "holiday/beach.txt", ["at the sea"])
    video(tmp_path / "other/clip.mp4", seconds=0.2)
    assert not lime.recognises(tmp_path)
    text(tmp_path / "other/clip.txt", ["Cut."])
    assert lime.recognises(tmp_path)
