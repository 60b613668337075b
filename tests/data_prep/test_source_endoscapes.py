"""Endoscapes: folders with the frames of many videos, ratings of every fifth second."""

import json

import numpy as np
import pytest
from layouts import endoscapes as layout
from layouts import images, save_json

from data_prep import manifest, sources
from data_prep.sources import Times, endoscapes
from data_prep.video import list_images, probe
from surgjax.errors import UserError

RATING = {"file_name": "12_50.jpg", "is_ds_keyframe": True, "ds": [1.0, 0.0, 0.0]}


def rated(root, *rows, pictures=("12_50.jpg", "12_75.jpg")):
    images(root / "train", pictures)
    save_json(root / "train" / endoscapes.LABELS, {"images": rows})
    return endoscapes.find(root).videos[0]


def criteria(root, video, frames):
    times = Times(np.arange(frames), np.arange(frames), 1.0)
    table = endoscapes.labels(root, video, times)["cvs"]
    return dict(zip(table.t_ms.tolist(), table.values.tolist(), strict=True))


def test_videos_share_a_folder_but_no_frames(tmp_path):
    layout.make(tmp_path)
    found = endoscapes.find(tmp_path)
    by_id = {video.video_id: video for video in found.videos}
    assert set(by_id) == {"2", "12", "112", "121", "162"}
    assert by_id["12"].path == by_id["112"].path == tmp_path / "train"
    names = {
        video_id: [file.name for _, file in list_images(video.path, video.frames_pattern)]
        for video_id, video in by_id.items()
    }
    assert names["2"] == ["2_0.jpg", "2_25.jpg", "2_50.jpg"]
    assert names["12"] == ["12_29375.jpg", "12_29400.jpg", "12_29450.jpg"]
    assert names["112"] == ["112_50.jpg", "112_75.jpg", "112_100.jpg"]
    assert {video.splits["strict"] for video in found.videos if video.path.name == "val"} == {"val"}
    assert found.warnings == [
        "196 of 201 official videos are missing: 1, 10, 100, 101, 102 and 191 more"
    ]


def test_a_second_is_25_numbers(tmp_path):
    layout.make(tmp_path)
    video = next(video for video in endoscapes.find(tmp_path).videos if video.video_id == "12")
    header = probe(video.path, video.frames_fps, video.frames_pattern)
    assert (header.fps, header.seconds) == (1.0, 4.0)  # one of them is missing


def test_two_of_three_raters_decide(tmp_path):
    means = [[0, 0.333, 0.667], [1 / 3, 2 / 3, 1]]
    rows = [RATING | {"file_name": f"12_{50 + 25 * i}.jpg", "ds": ds} for i, ds in enumerate(means)]
    video = rated(tmp_path, *rows)
    assert criteria(tmp_path, video, 2) == {0: [0, 0, 1], 1: [0, 1, 1]}


def test_the_total_counts_criteria(tmp_path):
    means = [[0, 0.333, 1 / 3], [0.334, 0.667, 0], [1, 1, 1]]
    rows = [RATING | {"file_name": f"12_{50 + 25 * i}.jpg", "ds": ds} for i, ds in enumerate(means)]
    video = rated(tmp_path, *rows, pictures=[row["file_name"] for row in rows])
    times = Times(np.arange(3), np.arange(3), 1.0)
    table = endoscapes.labels(tmp_path, video, times)["total"]
    assert (table.t_ms.tolist(), table.label.tolist()) == ([0, 1, 2], [0, 1, 3])
    assert table.values is None and table.label.dtype == np.int32


def test_only_key_frames_are_labelled(tmp_path):
    carried = {"file_name": "12_75.jpg", "is_ds_keyframe": False, "ds": [1.0, 0.0, 0.0]}
    video = rated(tmp_path, RATING, carried)
    assert criteria(tmp_path, video, 2) == {0: [1, 0, 0]}
    assert endoscapes.check_labels(tmp_path, video, 2) == []


def test_ratings_without_a_picture_are_told(tmp_path):
    video = rated(tmp_path, RATING, RATING | {"file_name": "12_25.jpg"})
    assert endoscapes.check_labels(tmp_path, video, 2) == [
        "train/12_*.jpg: 1 of 2 rated frames are missing, 12_25.jpg is the first"
    ]
    assert criteria(tmp_path, video, 2) == {0: [1, 0, 0]}


def test_a_video_without_ratings(tmp_path):
    video = rated(tmp_path, RATING | {"file_name": "112_50.jpg"})
    assert criteria(tmp_path, video, 2) == {} and endoscapes.check_labels(tmp_path, video, 2) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (RATING | {"ds": [1.0, 0.0]}, r"picture 12_50.jpg has ds \[1.0, 0.0\]; expected .* 3 crit"),
        (RATING | {"ds": [1.0, 0.0, 2]}, "expected .*a mean of 0 to 1"),
        (RATING | {"ds": 2}, "has ds 2"),
        (RATING | {"file_name": "frame.jpg"}, "picture frame.jpg .*expected a name such as"),
        ({"file_name": "12_50.jpg"}, "KeyError 'ds'; expected JSON with images"),
        (7, "AttributeError"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    video = rated(tmp_path, row)
    with pytest.raises(UserError, match=f"train/annotation_ds_coco.json: .*{message}"):
        criteria(tmp_path, video, 1)


def test_damaged_file(tmp_path):
    video = rated(tmp_path, RATING)
    (video.path / endoscapes.LABELS).write_text('{"images": [')
    with pytest.raises(UserError, match="train/annotation_ds_coco.json: JSONDecodeError"):
        endoscapes.check_labels(tmp_path, video, 2)


def test_a_part_without_label_file(tmp_path):
    layout.make(tmp_path)
    (tmp_path / "train" / endoscapes.LABELS).unlink()
    found = endoscapes.find(tmp_path)
    assert found.warnings[1] == "3 of 5 videos have no CVS file: 112, 12, 2"
    assert endoscapes.labels(tmp_path, found.videos[0], Times(*[np.zeros(1)] * 2, 1.0)) == {}
    assert endoscapes.check_labels(tmp_path, found.videos[0], 3) == []


def test_a_video_in_two_folders_counts_once(tmp_path):
    layout.make(tmp_path)
    images(tmp_path / "val", ["12_29400.jpg"])
    found = endoscapes.find(tmp_path)
    assert found.warnings[0] == "val/ holds videos of another folder, which counts: 12"
    assert {v.path.name for v in found.videos if v.video_id == "12"} == {"train"}


def test_a_link_that_leaves_the_root_is_not_followed(tmp_path):
    layout.make(tmp_path / "elsewhere")
    layout.make(tmp_path / "root")
    for part in ("val", "test"):
        (tmp_path / "root" / part).rename(tmp_path / part)
        (tmp_path / "root" / part).symlink_to(tmp_path / part)
    found = endoscapes.find(tmp_path / "root")
    assert [row.path for row in found.refused] == ["val", "test"]
    assert {video.video_id for video in found.videos} == {"2", "12", "112"}


def test_other_folders_of_train_and_val_are_no_endoscapes(tmp_path):
    images(tmp_path / "train", ["12_50.jpg"])
    save_json(tmp_path / "train/annotation_coco.json", {"images": []})
    assert sources.detect(tmp_path) == sources.FOLDER
    save_json(tmp_path / "train" / endoscapes.LABELS, {"images": []})
    assert sources.detect(tmp_path) == "endoscapes"
    assert json.loads((tmp_path / "train" / endoscapes.LABELS).read_text()) == {"images": []}


def test_splits():
    splits = manifest.read("endoscapes").splits
    parts = {part: [int(n) for n, p in splits["strict"].items() if p == part] for part in
             ("train", "val", "test")}  # fmt: skip
    assert parts["train"] == list(range(1, 121)) and parts["val"] == list(range(121, 162))
    assert parts["test"] == list(range(162, 202))
    assert splits["official"] == splits["surgvista"] == splits["strict"]
