"""LapGyn6-Events: four tasks of two classes, cases in both published parts."""

import numpy as np
import pytest
from layouts import lapgyn6_events as layout

from data_prep.sources import Times, lapgyn6_events

TIMES = Times(np.array([0, 1000]), np.array([0, 30]), 30.0)


@pytest.fixture
def videos(tmp_path):
    layout.make(tmp_path)
    return {video.video_id: video for video in lapgyn6_events.find(tmp_path).videos}


def test_a_clip_is_labelled_for_the_task_of_its_folder_alone(videos, tmp_path):
    found = {}
    for name, video in videos.items():
        (task, table), *others = lapgyn6_events.labels(tmp_path, video, TIMES).items()
        assert not others and table.label.tolist() == [table.label[0]] * 2
        found[name] = task, int(table.label[0])
    assert found == {
        layout.CLIPS[0]: ("abdominal_access", 1),
        layout.CLIPS[1]: ("abdominal_access", 0),
        layout.CLIPS[2]: ("bleeding", 1),
        layout.CLIPS[3]: ("bleeding", 1),
        layout.CLIPS[4]: ("coagulation_transection", 1),
        layout.CLIPS[5]: ("coagulation_transection", 0),
        layout.CLIPS[6]: ("needle_passing", 0),
        layout.CLIPS[7]: ("needle_passing", 1),
    }


def test_published_parts_are_by_clip(videos):
    for name, video in videos.items():
        part = "test" if "/Test/" in name else "train"
        assert video.splits["official"] == video.splits["surgrec_release"] == part


def test_strict_keeps_cases_together(videos, tmp_path):
    train, test = videos[layout.CLIPS[2]], videos[layout.CLIPS[3]]
    assert train.case == test.case == "lapgyn6_events/case_116"
    assert train.splits["official"] == "train" and train.splits["strict"] == "test"
    parts = {}
    for video in videos.values():
        parts.setdefault(video.case, set()).add(video.splits["strict"])
    assert all(len(of) == 1 for of in parts.values())
    assert sorted(case for case, of in parts.items() if of == {"test"}) == [
        "lapgyn6_events/case_100",
        "lapgyn6_events/case_116",
        "lapgyn6_events/case_645",
    ]
    splits = lapgyn6_events.find(tmp_path).splits
    assert splits["official"] == {"tier": "official", "leaky": True}
    assert splits["surgrec_release"]["val_is_test"] and "leaky" not in splits["strict"]


def test_other_folders_are_told_apart(tmp_path):
    for name in ("Bleeding/case_1_Bleeding_0.mp4", "Bleeding/Train/Bleeding/1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not lapgyn6_events.recognises(tmp_path)
