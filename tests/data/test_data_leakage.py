import numpy as np
import pytest

from surgjax.data.leakage import usable_videos
from surgjax.data.store import open_store
from surgjax.errors import UserError


def cases(*numbers):
    return [f"cholec80/video{n:02d}" for n in numbers]


def test_a_case_held_out_anywhere_is_dropped_everywhere(tmp_path, make_tables):
    make_tables(
        tmp_path / "dense",
        [9] * 6,
        case=cases(1, 2, 3, 4, 5, 5),
        split_official=["train", "test", None, "train", "train", "train"],
        split_ours=["train", "train", "val", "train", "held-out", None],
    )
    make_tables(tmp_path / "sparse", [9] * 4, case=cases(4, 2, 3, 6))
    make_tables(tmp_path / "other", [9, 9], case=cases(6, 7), split_official=["test", "train"])
    stores = [open_store(tmp_path / name) for name in ("dense", "sparse", "other")]
    masks, report = usable_videos(stores)

    # The same by hand: 2 (test), 3 (val), 5 (a split of an unknown name) and 6 (test elsewhere).
    assert masks[0].tolist() == [True, False, False, True, False, False]
    assert masks[1].tolist() == [True, False, False, False]
    assert masks[2].tolist() == [False, True]
    assert report["cases"] == cases(1, 4, 7)
    assert (report["kept"], report["dropped"], report["held_out"]) == (4, 8, 4)
    assert report["splits"] == {
        "split_official": {"train": 5, "test": 2, "none": 1},
        "split_ours": {"train": 3, "val": 1, "held-out": 1, "none": 1},
    }
    assert report["stores"][1] == {"name": "sparse", "kept": 1, "dropped": 3}
    assert all(mask.dtype == np.bool_ for mask in masks)


def test_a_store_without_splits_is_used_whole(made_store):
    masks, report = usable_videos([open_store(made_store)])
    assert masks[0].all() and report["dropped"] == 0 and len(report["cases"]) == 3


def test_nothing_left_is_a_mistake_with_a_reason(tmp_path, make_tables):
    make_tables(tmp_path / "train", [9], case=cases(1))
    make_tables(tmp_path / "test", [9], case=cases(2), split_official=["test"])
    with pytest.raises(UserError, match="all 1 videos of .*test are validation or test cases"):
        usable_videos([open_store(tmp_path / "train"), open_store(tmp_path / "test")])
