"""MultiBypass140: spans in milliseconds, overlays, and folds that are partly in pickles."""

from collections import Counter

import numpy as np
import pytest
from layouts import multibypass140 as layout
from layouts import save_pickle, text
from layouts import video as write_video

from data_prep import manifest
from data_prep.sources import Times, Video, multibypass140
from surgjax.errors import UserError

TIMES = Times(np.arange(5) * 1000, np.arange(5) * 25, 25.0)
PREPARATION = layout.span(0, 5000, 0, "preparation")
FILE = "labels_by70/BBP01.mp4.json"


def recording(root, phases=(), steps=()):
    layout.save(root, "bern", "BBP01", list(phases), list(steps))
    return Video("BBP01", root / "BernBypass70/videos/BBP01.mp4", *["x"] * 6)


def stored(root, phases=(), steps=()):
    tables = multibypass140.labels(root, recording(root, phases, steps), TIMES)
    return {
        task: dict(
            zip(
                (table.t_ms // 1000).tolist(),
                (table.label if table.values is None else table.values).tolist(),
                strict=True,
            )
        )
        for task, table in tables.items()
    }


def test_spans_are_milliseconds_and_end_before_their_end(tmp_path):
    steps = [layout.span(1000, 3000, 2, "any name"), layout.span(3000, 3999, 0, "null")]
    assert stored(tmp_path, [PREPARATION], steps) == {
        "phase": dict.fromkeys(range(5), 0),
        "step": {1: 2, 2: 2, 3: 0},
        "overlay": {},
    }


def test_the_span_that_starts_later_counts(tmp_path):
    later = layout.span(2000, 5000, 9, "cleaning_coagulation")
    for phases in ([PREPARATION, later], [later, PREPARATION]):
        assert stored(tmp_path, phases)["phase"] == {0: 0, 1: 0, 2: 9, 3: 9, 4: 9}


def test_overlays_lie_over_phases_and_nothing_is_labelled_out_of_the_body(tmp_path):
    phases = [
        layout.span(1000, 3000, 12, "out_of_body"),
        layout.span(2000, 4000, 13, "severe_index"),
        PREPARATION,
    ]
    assert stored(tmp_path, phases, [layout.span(0, 5000, 39, "coagulation")]) == {
        "phase": {0: 0, 3: 0, 4: 0},
        "step": {0: 39, 3: 39, 4: 39},
        "overlay": {1: [1, 0], 2: [1, 1], 3: [0, 1]},
    }


def test_classes():
    phases, steps = (multibypass140.ABOUT.tasks[task]["classes"] for task in ("phase", "step"))
    assert len(phases) == 12 and len(steps) == 46
    assert (phases[6], phases[11]) == ("closure_petersen_space", "other_intervention")
    assert [steps[i] for i in (0, 13, 28, 39, 45)] == [
        "null",
        "omental_section",
        "petersen_space_closing",
        "coagulation",
        "specimen_retrieval",
    ]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (layout.span(0, 9, 14, "x"), r"phases\[1\]: phase is '14'; expected a number from 0 to 13"),
        (layout.span(0, 9, 1, "preparation"), "'preparation'; 1 is gastric_pouch_creation"),
        (layout.span(0, 9, 0, "Vorbereitung"), r"\[1\]: label_name is 'Vorbereitung'; 0 is prep"),
        (layout.span(9, 0, 0, "preparation"), r"\[1\]: from 9 to 0; expected start and end"),
        (layout.span("0", 9, 0, "preparation"), "expected start and end, milliseconds"),
        ({"start": 0, "end": 9}, "phase is 'None'"),
        ([0, 9], "from None to None"),
    ],
)
def test_bad_spans_are_named(tmp_path, phase, message):
    video = recording(tmp_path, [PREPARATION, phase])
    with pytest.raises(UserError, match=f"{FILE}, .*{message}"):
        multibypass140.labels(tmp_path, video, TIMES)


def test_steps_go_by_number(tmp_path):
    video = recording(tmp_path, [], [layout.span(0, 9, 46, "calibration")])
    with pytest.raises(UserError, match=r"steps\[0\]: step is '46'; expected .* 0 to 45"):
        multibypass140.labels(tmp_path, video, TIMES)


@pytest.mark.parametrize("content", ["{", "[]", '{"phases": []}', '{"phases": 1, "steps": []}'])
def test_other_files_are_refused(tmp_path, content):
    video = recording(tmp_path)
    text(tmp_path / "labels/bern" / FILE, [content])
    with pytest.raises(UserError, match=f"{FILE}: .*expected JSON with lists of phases and steps"):
        multibypass140.labels(tmp_path, video, TIMES)


def test_labels_past_the_end_of_the_recording(tmp_path):
    write_video(tmp_path / "BernBypass70/videos/BBP01.mp4")  # three seconds
    check = lambda end: multibypass140.check_labels(  # noqa: E731
        tmp_path, recording(tmp_path, [layout.span(500, end, 0, "preparation")]), 75
    )
    assert check(3000) == check(3900) == []
    with pytest.raises(
        UserError, match=f"{FILE}: the first phase past .* 3000 ms is from 500 to 4"
    ):
        check(4100)


def test_missing_label_files_are_told(tmp_path):
    layout.make(tmp_path)
    found = multibypass140.find(tmp_path)
    assert found.warnings[0].startswith("136 of 140 official videos are missing: BBP03")
    assert found.warnings[1] == "1 of 4 videos have no label file: BBP02"
    assert multibypass140.check_labels(tmp_path, found.videos[1], 75) == []


def test_folds_of_strasbourg_come_from_its_pickles(tmp_path):
    layout.make(tmp_path)
    save_pickle(tmp_path / layout.FOLD.format(3), {f"SBP{n:02d}": [] for n in layout.TESTED})
    found = multibypass140.find(tmp_path)
    splits = {video.video_id: video.splits for video in found.videos}
    assert splits["SBP01"]["strasbourg_0"] == splits["SBP01"]["crossval_3"] == "test"
    assert splits["SBP09"]["strasbourg_3"] == "train" and "crossval_2" not in splits["SBP09"]
    assert splits["SBP09"]["crossval_0"] == splits["SBP09"]["strict"] == "val"
    assert splits["BBP02"]["crossval_0"] == splits["BBP02"]["bern_0"] == "test"
    assert found.splits["crossval_4"] == {"tier": "official", "fold": True}
    assert found.splits["strict"] == {"tier": "official"}


def test_a_fold_is_whole(tmp_path):
    layout.make(tmp_path)
    parts = multibypass140._splits(tmp_path).splits
    assert Counter(parts["strasbourg_0"].values()) == {"train": 40, "val": 10, "test": 20}
    assert Counter(parts["crossval_0"].values()) == {"train": 80, "val": 20, "test": 40}
    assert parts["strict"] == parts["crossval_0"]


@pytest.mark.parametrize("data", [[1], {}, {"BBP01": []}, {"SBP01": [], "SBP09": []}])
def test_an_odd_fold_is_refused(tmp_path, data):
    layout.make(tmp_path)
    save_pickle(tmp_path / layout.FOLD.format(1), data)
    with pytest.raises(UserError, match="test/1fps_1.pickle: . videos SBPnn; expected 20"):
        multibypass140.find(tmp_path)


def test_without_pickles_strasbourg_is_told(tmp_path):
    layout.make(tmp_path)
    (tmp_path / layout.FOLD.format(0)).unlink()
    found = multibypass140.find(tmp_path)
    assert found.warnings[0].startswith("1 videos are not in strict without labels/strasbourg")
    assert [sorted(video.splits) for video in found.videos][2] == ["surgvista"]


def test_bern():
    splits = manifest.read("multibypass140").splits
    for fold in range(5):
        parts = splits[f"bern_{fold}"]
        assert Counter(parts.values()) == {"train": 40, "val": 10, "test": 20}
        assert Counter(splits[f"strasbourg_{fold}"].values()) == {"val": 10}
    test = lambda fold: {v for v, part in splits[f"bern_{fold}"].items() if part == "test"}  # noqa: E731
    assert test(1) >= {"BBP02", "BBP43"} and test(4) >= {"BBP01", "BBP67"}
    assert all(len(test(fold) & test(fold + 1)) == 10 for fold in range(4))
    assert Counter(splits["strict"].values()) == {"train": 40, "val": 20, "test": 20}
