"""AIxSuture: three raters, codes read backwards, the split of the authors' program."""

import numpy as np
import pytest
from layouts import aixsuture as layout
from layouts import text, video

from data_prep import sources
from data_prep.sources import Times, aixsuture
from surgjax.errors import UserError

TIMES = Times(np.array([0, 1000]), np.array([0, 30]), 30.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def one(root, name):
    return next(video for video in aixsuture.find(root).videos if video.video_id == name)


@pytest.mark.parametrize(
    ("scores", "skill"),
    [((8, 8, 8), 0), ((15, 16, 16), 0), ((16, 16, 16), 1), ((23, 24, 24), 1), ((24, 24, 24), 2),
     ((40, 40, 40), 2)],
)  # fmt: skip
def test_skill_is_that_of_the_mean_score(root, scores, skill):
    rows = [f"1;;PRE;X88U;;A;{score};" + ";".join(["3"] * 8) for score in scores]
    text(root / "OSATS.csv", [layout.HEADER, *rows])
    tables = aixsuture.labels(root, one(root, "X88U"), TIMES)
    assert tables["skill"].label.tolist() == [skill] * 2
    # the authors' program: whole part of the mean, in range(8, 16), range(16, 24), range(24, 41)
    whole = int(np.mean(scores))
    assert skill == [whole in range(8, 16), whole in range(16, 24), whole in range(24, 41)].index(1)


def test_items_are_the_mean_of_the_raters(root):
    osats = aixsuture.labels(root, one(root, "X88U"), TIMES)["osats"].values
    np.testing.assert_allclose(osats, [[2] * 7 + [5 / 3]] * 2, rtol=1e-6)


def test_both_videos_of_a_student_are_one_case(root):
    before, after = one(root, "X88U"), one(root, "U88X")
    assert before.case == after.case == "aixsuture/U88X" and before.splits == after.splits
    assert one(root, "A31H").case == one(root, "H13A").case == "aixsuture/A31H"


def all_students() -> list[str]:
    codes = [f"{chr(65 + i % 13)}{i:02d}{chr(78 + i % 13)}" for i in range(100)]
    codes += [f"{chr(65 + i % 13)}{i:02d}{chr(79 + i % 12)}" for i in range(57)]
    assert len({aixsuture._case(code) for code in codes}) == 157
    return codes


def test_the_split_is_that_of_the_authors_program(root):
    """Students in the order of the sheet, divided by torch with the seed 42."""
    torch = pytest.importorskip("torch")
    codes = all_students()
    codes[60] = "X88U"
    rows = [
        layout.row(str(1000 - i), time, name, rater, [3] * 8)
        for i, code in enumerate(codes)
        for time, name in (("PRE", code), ("POST", code[::-1]))
        for rater in "ABC"
    ]
    text(root / "OSATS.csv", [layout.HEADER, *rows])
    splits = aixsuture._splits(root)
    assert splits.splits["official"] == splits.splits["strict"]
    drawn = torch.utils.data.random_split(codes, [0.7, 0.15, 0.15], generator=torch.manual_seed(42))
    for part, subset in zip(("train", "val", "test"), drawn, strict=True):
        cases = {min(codes[i], codes[i][::-1]) for i in subset.indices}
        assert {case for case, of in splits.splits["official"].items() if of == part} == cases
    found = aixsuture.find(root)
    assert found.splits == dict.fromkeys(("official", "strict"), {"tier": "paper-release"})
    part = splits.splits["official"]["U88X"]
    assert one(root, "X88U").splits == {"official": part, "strict": part}


def test_without_all_students_cases_are_divided_by_name(root):
    assert aixsuture.find(root).splits == {"strict": {"tier": "ours"}}
    (root / "OSATS.csv").unlink()
    found = aixsuture.find(root)
    assert found.splits == {"strict": {"tier": "ours"}}
    assert found.warnings == ["4 of 4 videos have no OSATS file: A31H, H13A, U88X, X88U"]
    assert aixsuture.labels(root, found.videos[0], TIMES) == {}
    assert aixsuture.check_labels(root, found.videos[0], 60) == []


def test_a_video_without_row(root):
    assert aixsuture.check_labels(root, one(root, "H13A"), 60) == ["OSATS.csv: no row for H13A"]
    assert aixsuture.check_labels(root, one(root, "A31H"), 60) == []


def test_a_spreadsheet_has_to_be_saved_as_csv(root):
    (root / "OSATS.csv").rename(root / "OSATS.xlsx")
    assert sources.detect(root) == "aixsuture"
    with pytest.raises(UserError, match="OSATS.xlsx is a spreadsheet.*save it .*OSATS.csv"):
        aixsuture.find(root)


def test_videos_of_all_packages_in_one_folder(tmp_path):
    video(tmp_path / "K78J.mp4", seconds=1)
    assert not aixsuture.recognises(tmp_path)  # any file can have such a name
    text(tmp_path / "OSATS.csv", [layout.HEADER])
    assert aixsuture.recognises(tmp_path)
    assert [video.video_id for video in aixsuture.find(tmp_path).videos] == ["K78J"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1;;PRE;X88U;;A;41;3;3;3;3;3;3;3;3", "line 2: .*expected a score of 8 to 40"),
        ("1;;PRE;X88U;;A;24;3;3;3;3;3;3;3;6", "line 2: .*eight items of 1 to 5"),
        ("1;;PRE;X88U;;A;24;3;3;3;3;3;3;3", "line 2: OSATS_FINAL_QUALITY is ''; expected a number"),
        ("1;;PRE;X88U;;A;x;3;3;3;3;3;3;3;3", "line 2: GLOBA_RATING_SCORE is 'x'"),
    ],
)
def test_bad_rows_name_the_line(root, line, message):
    text(root / "OSATS.csv", [layout.HEADER, line])
    with pytest.raises(UserError, match=f"OSATS.csv, {message}"):
        aixsuture.find(root)


def test_missing_columns_are_named(root):
    text(root / "OSATS.csv", ["VIDEO;STUDENT;OSATS_RESPECT", "X88U;1;3"])
    with pytest.raises(UserError, match="line 1: no column GLOBA_RATING_SCORE, OSATS_MOTION"):
        aixsuture.find(root)
