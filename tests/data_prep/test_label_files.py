"""Label files of any kind: what is read, what is refused, which frame gets which row."""

import os
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import small_videos as make

from data_prep import label_files
from data_prep.label_files import Rows
from data_prep.sources import Times, Video
from surgjax.errors import UserError

TIMES = Times(np.array([0, 40, 80, 400]), np.array([0, 1, 2, 10]), 25.0)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", ["\t", ";", ",", "  "])
def test_any_delimiter_and_count(tmp_path, mark):
    path = write(tmp_path / "a.txt", f"Frame{mark}Step", f"1{mark}2", f"2{mark}1")
    rows = label_files.read_classes(
        path, ("x", "y"), header=("Frame", "Step"), first_frame=1, first_class=1
    )
    assert rows.frame.tolist() == [0, 1] and rows.label.tolist() == [1, 0] and rows.line == 2


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("0,3", {"first_class": 1}, "line 1: step is '3'; expected a number from 1 to 2"),
        ("0,-1", {"first_class": 0}, "step is '-1'; expected a number from 0 to 1"),
        ("0,cutt", {}, "unknown step 'cutt' .*did you mean 'cut'.*known: cut, knot"),
        ("1,cut", {}, "expected frame 0 and one step"),
        ("0,cut,cut", {}, "expected frame 0 and one step"),
        ("x,cut", {}, "expected frame 0"),
    ],
)
def test_bad_rows_are_named(tmp_path, line, options, message):
    path = write(tmp_path / "a.csv", line)
    with pytest.raises(UserError, match=message):
        label_files.read_classes(path, ("cut", "knot"), what="step", **options)


def test_a_header_is_no_class(tmp_path):
    path = write(tmp_path / "a.txt", "Frame\tPhase", "0\tcut")
    with pytest.raises(UserError, match=r"line 1: \['Frame', 'Phase'\]; expected frame 0"):
        label_files.read_classes(path, ("cut",))
    with pytest.raises(UserError, match="line 1: header is .*expected Frame and Step"):
        label_files.read_classes(path, ("cut",), header=("Frame", "Step"))
    with pytest.raises(UserError, match="file is empty"):
        label_files.read_classes(write(tmp_path / "b.txt"), ("cut",), header=("Frame", "Step"))


def test_other_bytes_than_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match="a.txt: not UTF-8 text"):
        label_files.read_classes(tmp_path / "a.txt", ("cut",))


def test_a_row_stands_for_its_frame_or_until_the_next():
    rows = Rows(np.array([0, 2, 4]), label=np.array([5, 6, 7], np.int32), step=2)
    exact, held = label_files.of_frames(rows, TIMES), label_files.of_frames(rows, TIMES, held=True)
    assert (exact.t_ms.tolist(), exact.label.tolist()) == ([0, 80], [5, 6])
    assert (held.t_ms.tolist(), held.label.tolist()) == ([0, 40, 80], [5, 5, 6])
    shifted = label_files.of_frames(rows, TIMES, TIMES.index - 8, held=True)
    assert (shifted.t_ms.tolist(), shifted.label.tolist()) == ([400], [6])
    empty = Rows(np.array([], np.int64), label=np.array([], np.int32))
    assert len(label_files.of_frames(empty, TIMES).t_ms) == 0


def test_spans_end_before_their_end():
    table = label_files.of_spans([(0, 80, 1), (40, 80, 2), (80, 81, 0)], TIMES)
    assert (table.t_ms.tolist(), table.label.tolist()) == ([0, 40, 80], [1, 2, 0])
    table = label_files.of_spans([(1, 10, 3)], TIMES, TIMES.index)
    assert (table.t_ms.tolist(), table.label.tolist()) == ([40, 80], [3, 3])


def test_one_label_for_all_frames():
    assert label_files.of_video(TIMES, label=3).label.tolist() == [3] * 4
    assert label_files.of_video(TIMES, values=(1, 0)).values.tolist() == [[1, 0]] * 4


def test_numbers_of_frame_files(tmp_path):
    make.write_images(tmp_path / "v", [50, 75, 125], stem="12_")
    make.write_images(tmp_path / "v", [7, 8], stem="3_")
    video = Video("12", tmp_path / "v", *["x"] * 6, frames_fps=1.0, frames_pattern="12_")
    times = Times(np.array([0, 3000]), np.array([0, 3]), 1.0)
    assert label_files.file_numbers(video, times).tolist() == [50, 125]
    (tmp_path / "v" / "12_x.jpg").write_bytes((tmp_path / "v" / "3_000007.jpg").read_bytes())
    (tmp_path / "v" / "cover.jpg").write_bytes((tmp_path / "v" / "3_000007.jpg").read_bytes())
    with pytest.raises(UserError, match="v/cover.jpg: no number in the name"):
        label_files.file_numbers(replace(video, frames_pattern=""), times)


def test_pictures_of_videos_that_share_a_folder(tmp_path):
    make.write_images(tmp_path / "v", [50, 75, 125], stem="12_")
    make.write_images(tmp_path / "v", [7, 8], stem="3_")
    video = Video("12", tmp_path / "v", *["x"] * 6, frames_fps=1.0, frames_pattern="12_")
    path = tmp_path / "labels" / "12.csv"
    assert label_files.check_pictures(path, video, [50, 75, 125]) == []
    assert label_files.check_pictures(path, video, [50, 100]) == [
        "labels/12.csv: 12 has 1 rows without a picture, 100 is the first",
        "labels/12.csv: 12 has 2 pictures without a row, 75 is the first",
    ]
    with pytest.raises(UserError, match="12 has a row for 7, but its last picture is 125"):
        label_files.check_pictures(path, video, [7, 8])


class Built:
    """Pickled as a call of `function`, and perhaps with a state."""

    def __init__(self, function, *arguments, state=None):
        self.all = (function, arguments) + (() if state is None else (state,))

    def __reduce__(self):
        return self.all


def memory_unsafe() -> list:
    """What numpy's own constructors would make of a stranger's bytes: addresses, and far fields."""
    objects = Built(np.dtype, "O8", False, True)
    far = (3, "|", None, ("a",), {"a": (np.dtype("i8"), 1000)}, 8, 1, 0)
    fields = Built(np.dtype, "V8", False, True, state=far)
    array = np.arange(3).__reduce__()[0]
    scalar = np.int64(1).__reduce__()[0]
    return [
        Built(np.ndarray, (1,), objects, b"\x41" * 8),
        Built(np.ndarray, (10**12,), np.dtype("u1")),
        [np.dtype("i8"), np.ndarray],
        Built(scalar, objects, b"\x41" * 8),
        Built(scalar, fields, b"\x41" * 8),
        Built(scalar, np.dtype("i8"), b"\x41"),
        Built(array, np.ndarray, (0,), b"b", state=(1, (10**9,), np.dtype("i8"), False, b"\x41")),
        Built(array, np.ndarray, (0,), b"b", state=(1, (1,), fields, False, b"\x41" * 8)),
    ]


def test_a_short_pickle_takes_little_memory(tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x00.")  # a list, kept at place 16,777,215
    tracemalloc.start()
    try:
        assert label_files.read_pickle(path) == []
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_pickles_of_plain_data_only(tmp_path):
    data = {"a": [{"frame": 1, "x": np.int64(2), "v": np.arange(3)}]}
    (tmp_path / "good.pickle").write_bytes(pickle.dumps(data))
    got = label_files.read_pickle(tmp_path / "good.pickle")["a"][0]
    assert got == {"frame": 1, "x": 2, "v": [0, 1, 2]}

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'done'}",)

    (tmp_path / "evil.pickle").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="evil.pickle: no pickle of plain data .*asks for .*system"):
        label_files.read_pickle(tmp_path / "evil.pickle")
    for number, odd in enumerate(memory_unsafe()):
        (tmp_path / f"{number}.pickle").write_bytes(pickle.dumps(odd))
        with pytest.raises(UserError, match=f"{number}.pickle: no pickle of plain data"):
            label_files.read_pickle(tmp_path / f"{number}.pickle")
    (tmp_path / "cut.pickle").write_bytes(pickle.dumps(data)[:10])
    with pytest.raises(UserError, match="cut.pickle: no pickle"):
        label_files.read_pickle(tmp_path / "cut.pickle")
    assert not (tmp_path / "done").exists()
