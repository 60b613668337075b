"""SurgLaVi-beta: which file is which video, which captions count, and a catalogue with tricks."""

import os
import sqlite3

import pytest
import small_videos as make
from layouts import surglavi as layout
from layouts import video

from data_prep import sources
from data_prep.__main__ import main
from data_prep.sources import surglavi
from surgjax.errors import UserError

ENDS = {"1": 3000.0, "2": 3000.0, "3": 3000.0, "12": None}


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def files(root):
    found = surglavi.find(root)
    return {row.video_id: str(row.path.relative_to(root)) for row in found.videos}, found.warnings


def test_captions_of_a_store(tmp_path, capsys):
    layout.make(tmp_path / "root")
    out = tmp_path / "store"
    assert make.shards(tmp_path / "root", out, "--dataset", "surglavi", "--short-side", "48") == 0
    said = capsys.readouterr().out
    assert (
        "warning: 6 of 9 captions are left out: 1 of unknown level, 1 of videos that are not here, "
        "1 outside their video, 2 without a known span, 1 without text\n" in said
    )
    rows = {row["caption_id"]: row for row in make.rows(out, "captions")}
    assert rows["10"] == dict(
        caption_id="10", video_id="1", level="fine", start_ms=0, end_ms=1250
    ) | dict(raw_text="so we grab", text="The surgeon grasps the sac.") | dict(
        surgical=True, descriptive=True
    )
    assert (rows["11"]["level"], rows["11"]["start_ms"]) == ("mid", 500)
    assert (rows["11"]["surgical"], rows["11"]["descriptive"]) == (False, False)  # '0' and NULL
    assert (rows["12"]["level"], rows["12"]["end_ms"]) == ("coarse", 3400)  # a little too long
    assert (rows["12"]["surgical"], rows["12"]["descriptive"]) == (True, False)
    assert rows["12"]["raw_text"] == rows["12"]["text"]  # NULL
    assert list(rows) == ["10", "11", "12"]
    assert not (out / "labels").exists()
    stored = {row["video_id"]: row for row in make.rows(out, "videos")}
    words = {name: (row["procedure"], row["anatomy"]) for name, row in stored.items()}
    assert words == {
        "1": ("hernia repair", "abdominal wall"),
        "2": ("sleeve gastrectomy", "mixed"),
        "3": ("mixed", "appendix"),
        "12": ("cholecystectomy", "gallbladder"),
    }
    assert main(["verify", str(out)]) == 0


def test_the_users_words_count_more(tmp_path):
    layout.make(tmp_path)
    found = surglavi.find(tmp_path, procedure="any", licence="CC0-1.0")
    assert {video.procedure for video in found.videos} == {"any"}
    assert {video.licence for video in found.videos} == {"CC0-1.0"}
    assert {video.anatomy for video in found.videos} >= {"appendix", "mixed"}


def test_later_names_of_levels(tmp_path):
    layout.catalogue(
        tmp_path, captions=layout.CAPTIONS[:3], levels=[(1, "fine"), (2, "Mid"), (3, " coarse")]
    )
    assert [row["level"] for row in surglavi.captions(tmp_path, ENDS)] == ["fine", "mid", "coarse"]


def test_texts_too_long_are_left_out(tmp_path, capsys):
    long = (30, 1, 1, 0, 1, "x", "y" * 10_001, 1, 1)
    layout.catalogue(tmp_path, captions=[layout.CAPTIONS[0], long])
    assert len(surglavi.captions(tmp_path, ENDS)) == 1
    assert "1 of 2 captions are left out: 1 with more than 10000" in capsys.readouterr().out


def test_captions_of_a_video_of_unknown_length_stay(tmp_path):
    layout.catalogue(tmp_path, captions=[(1, 12, 1, 90, 91, "x", "Late.", 1, 1)])
    assert [row["end_ms"] for row in surglavi.captions(tmp_path, ENDS)] == [91_000]


def test_a_file_is_known_by_number_name_or_youtube_id(tmp_path):
    layout.catalogue(tmp_path)
    touch(
        tmp_path, "1.mp4", "videos/Dr. Q: sleeve.mkv", "videos/-ccccccccccc.webm", "eeeeeeeeeee.mp4"
    )
    assert files(tmp_path)[0] == {
        "1": "1.mp4",
        "2": "videos/Dr. Q: sleeve.mkv",
        "3": "videos/-ccccccccccc.webm",
        "12": "eeeeeeeeeee.mp4",
    }


def test_numbers_are_not_prefixes_and_other_files_are_told(tmp_path):
    layout.catalogue(tmp_path)
    touch(tmp_path, "1.mp4", "11.mp4", "2", "2.txt", "title-ddddddddddd2.mp4", "deep/er/3.mp4")
    found, warnings = files(tmp_path)
    assert found == {"1": "1.mp4"}
    assert warnings[0] == ("2 videos are not in surglavi_beta.db: 11.mp4, title-ddddddddddd2.mp4")
    assert warnings[1] == "4 of 5 official videos are missing: 12, 2, 3, 4"


def test_a_title_of_two_videos_names_neither(tmp_path):
    rows = [(1, "same", "aaaaaaaaaaa", None, None), (2, "same", "bbbbbbbbbbb", None, None)]
    layout.catalogue(tmp_path, videos=rows)
    touch(tmp_path, "same.mp4", "same-bbbbbbbbbbb.mp4")
    found, warnings = files(tmp_path)
    assert found == {"2": "same-bbbbbbbbbbb.mp4"} and "same.mp4" in warnings[0]


def test_a_video_that_is_there_twice(tmp_path):
    layout.catalogue(tmp_path)
    touch(tmp_path, "1.mp4", "videos/title-aaaaaaaaaaa.mp4")
    found, warnings = files(tmp_path)
    assert found == {"1": "1.mp4"}
    assert warnings[0] == "1 is there twice; title-aaaaaaaaaaa.mp4 is not used"


def test_a_broken_youtube_id_matches_nothing(tmp_path):
    layout.catalogue(
        tmp_path, videos=[(1, "", "../../etc/x", None, None), (2, None, "", None, None)]
    )
    touch(tmp_path, "a-.mp4", "x.mp4", "2.mp4")
    assert files(tmp_path)[0] == {"2": "2.mp4"}


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    root = tmp_path / "root"
    layout.catalogue(root)
    touch(root, "1.mp4")
    os.symlink(video(tmp_path / "elsewhere.mp4", seconds=1), root / "2.mp4")
    found = surglavi.find(root)
    assert [row.video_id for row in found.videos] == ["1"]
    assert [(row.video_id, row.reason) for row in found.refused] == [("2", "refused")]


def test_nothing_is_held_out_of_a_catalogue_for_pretraining(tmp_path):
    layout.make(tmp_path)
    assert not any(row.splits for row in surglavi.find(tmp_path).videos)


def test_a_catalogue_without_transcriptions_is_odd_and_no_error(tmp_path):
    layout.make(tmp_path)
    assert not any("transcriptions" in text for text in surglavi.find(tmp_path).warnings)
    layout.change(tmp_path, "DROP TABLE transcriptions")
    assert surglavi.find(tmp_path).warnings[0] == (
        "surglavi_beta.db has no table transcriptions; nothing needs it"
    )


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("DROP TABLE levels", "no such table: levels"),
        ("DROP TABLE captions", "no such table: captions"),
        ("DROP TABLE videos", "no such table: videos"),
        ("ALTER TABLE captions DROP COLUMN caption", "no such column: caption"),
        ("ALTER TABLE videos DROP COLUMN subject", "no such column: subject"),
    ],
)
def test_what_a_catalogue_lacks(tmp_path, statements, message):
    layout.make(tmp_path)
    layout.change(tmp_path, statements)
    with pytest.raises(UserError, match=f"surglavi_beta.db: .*{message}.*get the file again"):
        surglavi.find(tmp_path)


def test_ids_are_whole_numbers(tmp_path):
    layout.make(tmp_path)
    layout.change(tmp_path, "UPDATE captions SET video_id = '1; DROP TABLE videos'")
    with pytest.raises(UserError, match="video_id is '1; DROP TABLE videos'; expected a whole"):
        surglavi.captions(tmp_path, ENDS)
    layout.change(
        tmp_path,
        "DROP TABLE videos; CREATE TABLE videos (video_id, name, youtube_id, procedure_type, "
        "subject); INSERT INTO videos (video_id) VALUES ('../1')",
    )
    with pytest.raises(UserError, match="video_id is '../1'; expected a whole number"):
        surglavi.find(tmp_path)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", b""])
def test_no_database(tmp_path, content):
    (tmp_path / "surglavi_beta.db").write_bytes(content)
    touch(tmp_path, "1.mp4")
    assert not surglavi.recognises(tmp_path)
    with pytest.raises(UserError, match="surglavi_beta.db: (file is not a dat|no such table)"):
        surglavi.find(tmp_path)


def test_a_truncated_database(tmp_path):
    path = layout.catalogue(
        tmp_path, captions=[(i, 1, 1, 0, 1, "x" * 99, "y", 1, 1) for i in range(999)]
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="surglavi_beta.db: .*malformed"):
        surglavi.captions(tmp_path, ENDS)


def test_the_catalogue_is_never_written(tmp_path):
    path = layout.catalogue(tmp_path)
    before = path.read_bytes()
    path.chmod(0o444)
    surglavi.captions(tmp_path, ENDS)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_an_odd_folder_name_is_no_uri(tmp_path):
    root = tmp_path / "100% ?mode=rwc&x#y"
    layout.make(root)
    assert len(surglavi.find(root).videos) == 4


def test_another_database_is_told_apart(tmp_path):
    with sqlite3.connect(tmp_path / "surglavi_beta.db") as database:
        database.execute("CREATE TABLE films (id)")
    database.close()
    touch(tmp_path, "1.mp4")
    assert sources.detect(tmp_path) == sources.FOLDER
