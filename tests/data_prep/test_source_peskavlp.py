"""PeskaVLP's tables: three levels, one of two transcripts, rows that are no captions."""

import pytest
import small_videos as make
from layouts import peskavlp as layout
from layouts import text

from data_prep.__main__ import main
from data_prep.sources import peskavlp
from surgjax.errors import UserError

ENDS = {"lap 1": 3000.0, "lap 10": 3000.0, "lap 11": 3000.0}


def test_captions_of_a_store(tmp_path, capsys):
    layout.make(tmp_path / "root")
    out = tmp_path / "store"
    assert make.shards(tmp_path / "root", out, "--dataset", "peskavlp", "--short-side", "48") == 0
    said = capsys.readouterr().out
    assert (
        "warning: 4 of 9 captions are left out: 1 of videos that are not here, 1 outside their "
        "video, 1 without a known span, 1 without text\n" in said
    )
    rows = make.rows(out, "captions")
    assert rows[0] == dict(
        caption_id="lap 1/fine/2", video_id="lap 1", level="fine", start_ms=0, end_ms=1240
    ) | dict(
        raw_text="we grasp, and lift", text="we grasp, and lift", surgical=True, descriptive=True
    )
    assert [(row["video_id"], row["level"], row["text"]) for row in rows[1:]] == [
        ("lap 10", "fine", "Here is the duct."),  # of AWS, as Whisper's is missing
        ("lap 1", "mid", "Exposure of the hilum"),
        ("lap 1", "mid", "Clipping"),
        ("lap 1", "coarse", "A cholecystectomy, told from start to end."),
    ]
    assert not (out / "labels").exists() and main(["verify", str(out)]) == 0


def test_what_is_missing_or_not_read_is_told(tmp_path):
    layout.make(tmp_path)
    assert peskavlp.find(tmp_path).warnings == [
        "1 videos have tables in aws_narration_texts that are not read: lap 1",
        "1 of 3 videos have no narration file: lap 11",
        "2 of 3 videos have no keystep file: lap 10, lap 11",
        "2 of 3 videos have no abstract file: lap 10, lap 11",
    ]


def test_names_are_no_prefixes(tmp_path):
    layout.make(tmp_path)
    rows = peskavlp.captions(tmp_path, {"lap 11": 3000.0, "lap": 3000.0})
    assert rows == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["begin,end,text", "0,1,x"], "abstract_texts/lap 1.csv: no column start; expected start,"),
        (["0,1,x"], "no column start, end, text"),
        ([], "no column start, end, text"),
        (["start,end,text", "0,1,x", "00:01,2,y"], "lap 1.csv, line 3: start is '00:01'"),
        (["start,end,text", "0,-1,x"], "line 2: end is '-1'; expected a number"),
        (["start,end,text", "0"], "line 2: end is ''"),
        (["start,end,text", "0,1,cut, then clip"], "line 2: more values than columns"),
    ],
)
def test_bad_tables_are_named(tmp_path, lines, message):
    text(tmp_path / "abstract_texts/lap 1.csv", lines)
    with pytest.raises(UserError, match=message):
        peskavlp.captions(tmp_path, ENDS)


def test_other_bytes_than_text(tmp_path):
    text(tmp_path / "keystep_texts/lap 1.csv", [""]).write_bytes(b"start,end,text\n0,1,\xff\n")
    with pytest.raises(UserError, match="keystep_texts/lap 1.csv: no UTF-8 csv table"):
        peskavlp.captions(tmp_path, ENDS)


def test_videos_without_tables_are_no_peskavlp(tmp_path):
    layout.make(tmp_path)
    assert peskavlp.recognises(tmp_path)
    for folder in peskavlp.LEVELS:
        (tmp_path / folder).rename(tmp_path / f"old_{folder}")
    assert not peskavlp.recognises(tmp_path)
