"""PmLR50: rows go by the number in the frame's name; text files, or pickles where they lack."""

from collections import Counter

import numpy as np
import pytest
from layouts import images, save_pickle, text
from layouts import pmlr50 as layout

from data_prep import manifest
from data_prep.sources import Times, Video, pmlr50
from surgjax.errors import UserError


def recording(root, numbers, name="01"):
    folder = images(root / "frames" / name, [f"{number:08d}.jpg" for number in numbers])
    return Video(name, folder, *["x"] * 6, frames_fps=1.0)


def stored(*positions):
    position = np.array(positions)
    return Times(1000 * position, position, 1.0)


def entries(*phases, **more):
    return [{"frame_id": i, "phase_gt": phase, **more} for i, phase in enumerate(phases)]


def test_a_missing_first_frame_moves_nothing(tmp_path):
    text(tmp_path / "phase_annotations/01.txt", ["Frame\tPhase", "0\t0", "1\t1", "2\t2"])
    video = recording(tmp_path, [1, 2])
    table = pmlr50.labels(tmp_path, video, stored(0, 1))["phase"]
    assert table.label.tolist() == [1, 2]
    assert pmlr50.check_labels(tmp_path, video, frames=2) == []


@pytest.mark.parametrize("header", ["Frame Phase", "frame\tphase", "Frame,Label"])
def test_any_header(tmp_path, header):
    text(tmp_path / "phase_annotations/01.txt", [header, "0\t4".replace("\t", header[5])])
    video = recording(tmp_path, [0])
    assert pmlr50.labels(tmp_path, video, stored(0))["phase"].label.tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "lines", "message"),
    [
        ("phase", ["0\t0", "1\t5"], "phase_annotations/01.txt, line 3: phase is '5'.*from 0 to 4"),
        ("phase", ["1\t0"], "phase_annotations/01.txt, line 2: .*expected frame 0"),
        ("blocking", ["0\t2"], "blocking_annotations/01.txt, line 2: blocking is '2'.*0 to 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, kind, lines, message):
    text(tmp_path / f"{kind}_annotations/01.txt", ["Frame\tLabel", *lines])
    with pytest.raises(UserError, match=message):
        pmlr50.labels(tmp_path, recording(tmp_path, [0, 1]), stored(0))


def test_text_files_come_before_pickles(tmp_path):
    text(tmp_path / "phase_annotations/01.txt", ["Frame\tPhase", "0\t3"])
    pickled = {"01": entries(1, blocking_gt=1)}
    save_pickle(tmp_path / "labels/train/1fpstrain.pickle", pickled)
    tables = pmlr50.labels(tmp_path, recording(tmp_path, [0]), stored(0))
    assert tables["phase"].label.tolist() == [3] and tables["blocking"].label.tolist() == [1]


@pytest.mark.parametrize("folder", ["train", "val", "test", "infer"])
@pytest.mark.parametrize("key", ["07", 7])
def test_a_pickle_of_any_part_and_key(tmp_path, folder, key):
    save_pickle(tmp_path / f"labels/{folder}/1fps{folder}.pickle", {key: entries(np.int64(2), 4)})
    video = recording(tmp_path, [0, 1], "07")
    tables = pmlr50.labels(tmp_path, video, stored(0, 1))
    assert tables.keys() == {"phase"} and tables["phase"].label.tolist() == [2, 4]
    assert pmlr50.recognises(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"01": entries(0, 5)}, r"train/1fps.pickle, video 01, entry 1: phase is '5'"),
        ({"01": [{"frame_id": 1, "phase_gt": 0}]}, "entry 0: frame_id is 1; expected 0"),
        ({"01": [{"phase_gt": 0}]}, "entry 0: frame_id is None; expected 0"),
        ({"01": [1, 2]}, "expected a dictionary with a list of entries a video"),
        ([1, 2], "expected a dictionary with a list of entries a video"),
    ],
)
def test_bad_pickles_are_named(tmp_path, data, message):
    save_pickle(tmp_path / "labels/train/1fps.pickle", data)
    with pytest.raises(UserError, match=message):
        pmlr50.labels(tmp_path, recording(tmp_path, [0]), stored(0))


def test_lengths(tmp_path):
    text(tmp_path / "phase_annotations/01.txt", ["Frame\tPhase", "0\t0", "1\t0", "2\t0"])
    check = lambda numbers: pmlr50.check_labels(  # noqa: E731
        tmp_path, recording(tmp_path / str(len(numbers)), numbers), len(numbers)
    )
    assert check(range(3)) == []
    one = ["phase_annotations/01.txt: 1 rows too short (3 of 4)"]
    assert check(range(4)) == one
    assert check([1, 3]) == one  # numbers from 1 where the labels count from 0
    with pytest.raises(UserError, match=r"3 rows, .*needs 5; row 3 \(line 5\) is the first missi"):
        check(range(5))


def test_the_length_of_a_pickle_names_the_video(tmp_path):
    save_pickle(tmp_path / "labels/test/1fps.pickle", {"01": entries(0, 0, 0)})
    with pytest.raises(UserError, match=r"^labels/test/1fps.pickle/01: 3 rows, .*row 1 \(line 1\)"):
        pmlr50.check_labels(tmp_path, recording(tmp_path, [0]), 1)


def test_missing_files_are_told(tmp_path):
    layout.make(tmp_path)
    (tmp_path / "blocking_annotations/38.txt").unlink()
    found = pmlr50.find(tmp_path)
    assert found.warnings[0].startswith("47 of 50 official videos are missing: 02, 03")
    assert found.warnings[1:] == ["1 of 3 videos have no blocking file: 38"]


def test_frames_without_labels_are_no_pmlr50(tmp_path):
    recording(tmp_path, [0, 1])
    assert not pmlr50.recognises(tmp_path)


def test_split_sizes():
    splits = manifest.read("pmlr50").splits
    assert splits.keys() == {"official", "strict", "surgvista"}
    for parts in splits.values():
        assert Counter(parts.values()) == {"train": 35, "val": 5, "test": 10}
        assert {name for name, part in parts.items() if part == "val"} == set(
            "34 35 36 37 48".split()
        )
        assert parts["33"] == parts["49"] == parts["50"] == "train"
