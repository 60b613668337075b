"""GynSurg: the folder is the label, cases stay together over its three datasets."""

import numpy as np
from layouts import gynsurg as layout
from layouts import video

from data_prep.sources import Times, gynsurg

TIMES = Times(np.array([0, 1000]), np.array([0, 30]), 30.0)


def test_the_label_is_the_folders(tmp_path):
    layout.make(tmp_path)
    found = {}
    for clip in gynsurg.find(tmp_path).videos:
        ((task, table),) = gynsurg.labels(tmp_path, clip, TIMES).items()
        found[clip.video_id] = task, table.label.tolist()
    assert found == {
        layout.CLIPS[0]: ("action", [3, 3]),
        layout.CLIPS[1]: ("action", [2, 2]),
        layout.CLIPS[2]: ("bleeding", [0, 0]),
        layout.CLIPS[3]: ("smoke", [1, 1]),
    }


def test_a_case_is_in_one_part(tmp_path):
    for case in range(1, 11):
        for folder in ("GynSurg_action_dataset/Rest", "GynSurg_smoke_dataset/Non_smoke"):
            path = tmp_path / folder / f"case_{case}_{case % 3}_0_00_01.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    found = gynsurg.find(tmp_path)
    assert found.splits == {"strict": {"tier": "ours"}} and len(found.videos) == 20
    parts = {}
    for clip in found.videos:
        parts.setdefault(clip.case, set()).add(clip.splits["strict"])
    assert len(parts) == 10 and all(len(of) == 1 for of in parts.values())
    assert [sum(of == {part} for of in parts.values()) for part in ("train", "val", "test")] == [
        7,
        2,
        1,
    ]


def test_other_folders_and_names_are_told_apart(tmp_path):
    video(tmp_path / "GynSurg_action_dataset" / "Cutting" / "case_1_a.mp4", seconds=1)
    video(tmp_path / "GynSurg_smoke_dataset" / "Smoke" / "1.mp4", seconds=1)
    assert not gynsurg.recognises(tmp_path)
