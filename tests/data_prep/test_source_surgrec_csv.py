"""SurgRec's lists: how a line is read, what is refused, which clips are one case."""

import os
from collections import Counter

import numpy as np
import pytest
from layouts import surgrec_csv as layout
from layouts import text

from data_prep import manifest, sources
from data_prep.__main__ import main
from data_prep.sources import Times, surgrec_csv
from surgjax.errors import UserError

TIMES = Times(np.array([0, 1000]), np.array([0, 25]), 25.0)
RELEASE = "surgrec_release"


def lists(root, train=(), val=(), test=(), there=True):
    """Lists of (path below the root, class), and empty files of these names."""
    for part, rows in (("train", train), ("val", val), ("test", test)):
        text(root / f"{part}.csv", [f"__DATA_ROOT__/{path} {label}" for path, label in rows])
        for path, _ in rows:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"")
    return surgrec_csv.find(root)


def parts(found, split):
    return {video.video_id: video.splits[split] for video in found.videos}


def test_the_released_split_and_ours(tmp_path):
    layout.make(tmp_path)
    found = surgrec_csv.find(tmp_path)
    assert found.splits == {
        RELEASE: {"tier": "paper-release", "val_is_test": True, "leaky": True},
        "strict": {"tier": "ours"},
    }
    assert Counter(parts(found, RELEASE).values()) == {"train": 3, "test": 2}
    assert sorted(set(parts(found, "strict").values())) == ["test", "train", "val"]
    by_case = {video.case: video.splits["strict"] for video in found.videos}
    assert all(by_case[video.case] == video.splits["strict"] for video in found.videos)
    assert found.warnings == ["3 cases of 5 clips are assumed from their names"]


def test_a_list_without_overlap_has_no_flags(tmp_path):
    found = lists(tmp_path, [("x/a_1.mp4", 0)], [("x/b_1.mp4", 0)], [("y/c_1.mp4", 1)])
    assert found.splits[RELEASE] == {"tier": "paper-release"}
    assert parts(found, RELEASE) == {"x/a_1": "train", "x/b_1": "val", "y/c_1": "test"}


def test_one_common_clip_sets_val_is_test(tmp_path):
    found = lists(tmp_path, [("a_1.mp4", 0)], [("b_1.mp4", 0), ("c_1.mp4", 0)], [("c_1.mp4", 0)])
    assert found.splits[RELEASE] == {"tier": "paper-release", "val_is_test": True}
    assert parts(found, RELEASE) == {"a_1": "train", "b_1": "val", "c_1": "test"}


def test_a_case_in_two_lists_is_a_leak(tmp_path):
    for train, test in (("a_1.mp4", "a_2.mp4"), ("a_1.mp4", "a_1.mp4")):
        found = lists(tmp_path, [(train, 0)], [], [(test, 0)])
        assert found.splits[RELEASE] == {"tier": "paper-release", "leaky": True}
        assert parts(found, RELEASE)[test.removesuffix(".mp4")] == "test"


def test_strict_depends_on_the_lists_alone(tmp_path):
    rows = [(f"k{label}/v{case}_{label}.mp4", label) for case in range(50) for label in (0, 1)]
    every = lists(tmp_path, rows[:60], rows[60:70], rows[70:])
    assert Counter(parts(every, "strict").values()) == {"train": 70, "val": 20, "test": 10}
    for path, _ in rows[1:]:
        (tmp_path / path).unlink()
    one = surgrec_csv.find(tmp_path)
    assert parts(one, "strict")["k0/v0_0"] == parts(every, "strict")["k0/v0_0"]
    assert one.warnings[1].startswith("99 of 100 official videos are missing")


@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        ([("s/Cut/1_1.mp4", 0), ("s/Sew/1_2.mp4", 1)], ["Cut", "Sew"]),
        ([("s/Cut/1_1.mp4", 1), ("s/Sew/1_2.mp4", 0)], ["Sew", "Cut"]),
        ([("Cut/1_1.mp4", 0), ("Rest/1_2.mp4", 0), ("Sew/1_3.mp4", 1)], ["0", "1"]),
        ([("all/1_1.mp4", 0), ("all/1_2.mp4", 1)], ["0", "1"]),
        ([("Cut/1_1.mp4", 0), ("Sew/1_2.mp4", 2)], ["0", "1", "2"]),  # class 1 is never shown
        ([("clips/1_1.mp4", 0)], ["0"]),
    ],
)
def test_names_of_classes(tmp_path, rows, classes):
    assert lists(tmp_path, rows).tasks == {"label": {"kind": "one_of_n", "classes": classes}}


def test_every_frame_has_the_class_of_its_clip(tmp_path):
    found = lists(tmp_path, [("a b/c 3 4_1.mp4", 2), ("a_1.mp4", 0)])
    by_id = {video.video_id: video for video in found.videos}
    for video_id, label in (("a b/c 3 4_1", 2), ("a_1", 0)):
        table = surgrec_csv.labels(tmp_path, by_id[video_id], TIMES)["label"]
        assert (table.t_ms.tolist(), table.label.tolist()) == ([0, 1000], [label, label])


@pytest.mark.parametrize(
    ("line", "video_id"),
    [
        ('"__DATA_ROOT__/a b/c.mp4" 1', "a b/c"),
        ("__DATA_ROOT__/a b/c.mp4 1", "a b/c"),
        ("__DATA_ROOT__//a b/./c.mp4 1\r", "a b/c"),
        ("a b/c.mp4 1", "a b/c"),
    ],
)
def test_the_last_blank_counts(tmp_path, line, video_id):
    lists(tmp_path, [("a b/c.mp4", 1)])
    text(tmp_path / "train.csv", ["", line, ""])
    assert [video.video_id for video in surgrec_csv.find(tmp_path).videos] == [video_id]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "__DATA_ROOT__/a.mp4",
            "train.csv, line 2: '__DATA_ROOT__/a.mp4'; expected a path",
        ),
        ("__DATA_ROOT__/a.mp4 one", "train.csv, line 2: .*number of a class below 1000"),
        ("__DATA_ROOT__/a.mp4 -1", "train.csv, line 2: "),
        ("__DATA_ROOT__/a.mp4 1000", "train.csv, line 2: "),
        ("__DATA_ROOT__/a.mp4,1", "train.csv, line 2: "),
        ("__DATA_ROOT__/x.mp4 1", "line 2: x.mp4 of class 1, seen before as x.mp4 of class 0; exp"),
        ("__DATA_ROOT__/x.avi 0", "line 2: x.avi of class 0, seen before as x.mp4 of class 0"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    text(tmp_path / "train.csv", ["__DATA_ROOT__/x.mp4 0", line])
    with pytest.raises(UserError, match=message):
        surgrec_csv.find(tmp_path)


def test_two_lists_that_disagree(tmp_path):
    with pytest.raises(UserError, match="test.csv, line 1: a.mp4 of class 2, .*of class 1"):
        lists(tmp_path, [("a.mp4", 1)], [], [("a.mp4", 2)])


def test_paths_that_leave_the_folder_are_refused(tmp_path, capsys):
    root = tmp_path / "lists"
    layout.make(root)
    (tmp_path / "secret.mp4").write_bytes(b"")
    os.symlink(tmp_path / "secret.mp4", root / "link.mp4")
    os.symlink(tmp_path, root / "up")
    os.symlink("loop.mp4", root / "loop.mp4")
    (root / "list.m3u8").write_text("#EXTM3U\n")
    bad = [
        "__DATA_ROOT__/../secret.mp4",
        f"__DATA_ROOT__/{layout.STEM}/../../lists/link.mp4",
        f"{tmp_path}/secret.mp4",
        f"{root}/{layout.STEM}/pylorus/b2_0-40.mp4",
        "__DATA_ROOT__/link.mp4",
        "__DATA_ROOT__/up/secret.mp4",
        "__DATA_ROOT__/list.m3u8",
        "__DATA_ROOT__/a\0b.mp4",
    ]
    with (root / "train.csv").open("a") as file:
        file.writelines(f"{path} 1\n" for path in [*bad, "__DATA_ROOT__/loop.mp4"])
    found = surgrec_csv.find(root)
    assert len(found.videos) == 5
    assert [row.reason for row in found.refused] == ["refused"] * len(bad)
    details = Counter(row.detail.partition(";")[0] for row in found.refused)
    assert details == {
        "a path or link that leaves the folder": 6,
        "no name of a video file": 2,
    }
    assert "1 of 14 official videos are missing: loop" in found.warnings
    assert main(["check", "--root", str(root)]) == 1
    assert "damaged or refused: ../secret.mp4: refused, a path or link" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("video_id", "case"),
    [
        ("cholec80/x/cholec80_41_3", "cholec80_41"),
        ("cholec80/x/cholec80_4_13", "cholec80_4"),
        ("hk/9a3f-77_12", "9a3f-77"),
        ("kc/Pylorus/8885668afb844852_1280-1360", "8885668afb844852"),
        ("jigsaws/Suturing_B001_capture2_12.5_14.0_G3", "Suturing_B001"),
        ("ld/0_12_30_45_no_polyps", "0_12"),
        ("ld/1_12_30_45_polyps", "1_12"),
        ("ld/1_30_45_polyps", "1"),
        ("lap/Bleeding/Train/Rest/case_12_Bleeding_3", "case_12"),
        ("lap/Bleeding/Test/Bleeding/case_121_Bleeding_3", "case_121"),
        ("sar/train/video_11_1/4_7", "video_11"),
        ("sar/train/4/video_11_2_7", "video_11"),
        ("uci/Adenoma/NBI(36)", "(36)"),
        ("uci/Adenoma/WL (36)", "(36)"),
        ("uci/Hyperplasic/WL", "unnumbered"),
        ("aix/beginner/X88U", "U88X"),
        ("aix/expert/U88X", "U88X"),
        ("cat/4687", "4687"),
        ("cat/Incision/07_Incision_3", "07"),
        ("m2cai/test_workflow_video_03_4", "test_workflow_video_03"),
        ("sa/07_knot pushing/07_03", "sa/07_knot pushing/07_03"),  # recordings were not published
        ("sa/07_knot pushing/08_03", "08"),
        ("m2/m2cai16w_train_dataset_workflow_video_14_CleaningCoagulation", "workflow_video_14"),
        ("mb/bern/phase/BBP10/BBP10_phase_017_jejunal_separation_074731-079001", "BBP10"),
    ],
)
def test_cases_by_name(video_id, case):
    assert surgrec_csv.case_of(video_id) == case


# A line of each list, as released; without a case of Colonoscopic.
RELEASED = {
    "AlxSuture/video_faststart/X88U": "aixsuture/U88X",
    "AutoLaparo/split_video/label_15_1": "autolaparo/15",
    "Colonoscopic-web/Adenoma/NBI(57)": None,
    "JIGSAWS/videos/Needle_Passing_D001_capture1_1.53_3.77_G1": "jigsaws/Needle_Passing_D001",
    "LDPolyVideo/videos/0_61_21_30_no_polyps": "ldpolypvideo/videos without polyps/61",
    "LDPolyVideo/videos/1_15_79_89_polyps": "ldpolypvideo/videos with polyps/15",
    "LDPolyVideo/videos/65_0_10_polyps": "ldpolypvideo/65",
    "LapGyn_dataset/Bleeding/Test/Rest/case_624_x_0": "lapgyn6_events/case_624",
    "M2CAI16-Workflow/split_video/m2cai16w_test_dataset_test_workflow_video_04_Phase": (
        "m2cai16/test_workflow_video_04"
    ),
    "MultiBypass140/split_videos/bern/phase/BBP02/BBP02_phase_001_preparation_000000-022529": (
        "multibypass140/BBP02"
    ),
    "PitVis/split_clip/01_x/video_01_label01_x_seg001_00003-00174": "pitvis/video_01",
    "SAR-RARP50/split_video/00_other/video_11_2_label00_other_seg0016_004636-004991": (
        "sar_rarp50/video_11"
    ),
    "SurgicalActions160/01_abdominal_access/01_02": "surgicalactions160/01_02",
    "cat-21/split_clip/Antibiotikum/case_18_validation_0012": "cataract21/case_18",
    "cataract-101/split_clip/phase_01_incision/case_764_phase01_001_001107_001824": (
        "cataract101/case_764"
    ),
    "cataract-1k-phase/split_video/case_5011/case_5011_segment_01_incision_000.000-001.451": (
        "cataract1k/case_5011"
    ),
    "cholec80/split_video/cholec80_41_1": "cholec80/video41",
    "hyper-kvasir/videos/lower-parasites/0c35ad30-14c3-4ab9-b60b-b421e568a921_2": (
        "hyperkvasir/0c35ad30-14c3-4ab9-b60b-b421e568a921"
    ),
    "kvasir-capsule/videos/Ileocecal valve/04a78ef00c5245e0_48702-48782": (
        "kvasir_capsule/04a78ef00c5245e0"
    ),
}


@pytest.mark.parametrize(("video_id", "case"), RELEASED.items(), ids=range(len(RELEASED)))
def test_released_paths_tell_whose_a_clip_is(tmp_path, video_id, case):
    assert surgrec_csv.own_case(video_id) == case
    assert surgrec_csv.own_case(f"x/{video_id}") is None
    (video,) = lists(tmp_path, [(f"{video_id}.mp4", 0)]).videos
    assert video.dataset == "surgrec_csv"
    assert video.case == (case or "surgrec_csv/(57)")
    dataset, _, name = video.case.partition("/")
    known = manifest.read(dataset).names
    if dataset in sources.known() and known and not name.startswith("videos with"):
        assert any(one.startswith(name) for one in known)  # SAR-RARP50 names parts of cases


def test_clips_numbered_within_their_class_stand_alone(tmp_path):
    rows = [(f"SA/{n:02d}_x y/{n:02d}_{k:02d}.mp4", n) for n in range(3) for k in range(1, 11)]
    found = lists(tmp_path, rows)
    assert {video.case for video in found.videos} == {
        f"surgrec_csv/{path.removesuffix('.mp4')}" for path, _ in rows
    }
    for n in range(3):  # each class is in each part
        of_class = {video.splits["strict"] for video in found.videos if f"/{n:02d}_x" in video.case}
        assert of_class == {"train", "val", "test"}


def test_another_list_is_told_apart(tmp_path):
    layout.make(tmp_path)
    assert surgrec_csv.recognises(tmp_path)
    text(tmp_path / "train.csv", ["video,split", "a.mp4,train"])
    assert not surgrec_csv.recognises(tmp_path)
    (tmp_path / "train.csv").unlink()
    assert not surgrec_csv.recognises(tmp_path)
