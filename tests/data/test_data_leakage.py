import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgjax.data.leakage import names_of, saw, training_videos, usable_videos
from surgjax.data.store import open_store
from surgjax.errors import UserError

SAME = "same_cases.parquet"


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


def same(folder, *rows):
    columns = ("case", "same_as", "held_out")
    table = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    pq.write_table(pa.table(table | {"evidence": ["published"] * len(rows)}), folder / SAME)


def test_what_a_model_saw(tmp_path, make_tables):
    names = ["cholec80/video41", "surgrec_csv/(57)"]
    make_tables(tmp_path, [9] * 2, case=names)
    same(tmp_path, ("cholec80/video41", "cholect50/VID41", True))
    store = open_store(tmp_path)
    phase, unclear = [[name] for name in names]
    assert saw(store, names, None) == "unknown" and saw(store, names, []) == "no"
    assert saw(store, phase, ["cholect50/VID41"]) == saw(store, unclear, unclear) == "yes"
    assert saw(store, phase, ["cholec80/video01"]) == "no"
    # It may have seen these clips under their own set's name, but not in other lists.
    assert saw(store, unclear, ["colonoscopic/adenoma_22"]) == "unknown"
    assert saw(store, names, ["colonoscopic/adenoma_22"]) == "unknown"
    assert saw(store, names, [*unclear, "cholec80/video41"]) == "yes"
    assert saw(store, unclear, ["surgrec_csv/(36)"]) == "no"


def test_other_names_of_a_case_count(tmp_path, make_tables):
    """Two stores show cholec80/video02 under names of their own, and one of them knows it."""
    triplets = [f"cholect50/VID{n:02d}" for n in (1, 2, 3)]
    make_tables(tmp_path / "triplets", [9] * 3, case=triplets)
    make_tables(tmp_path / "phases", [9] * 2, case=cases(2, 9), split_official=["test", "train"])
    stores = [open_store(tmp_path / name) for name in ("triplets", "phases")]
    assert usable_videos(stores)[0][0].tolist() == [True] * 3  # nobody knows

    same(
        tmp_path / "triplets",
        ("cholect50/VID02", "cholec80/video02", False),
        ("cholect50/VID03", "m2cai16/x", True),
        ("m2cai16/x", "m2cai16/y", False),
    )
    masks, report = usable_videos(stores)
    assert masks[0].tolist() == [True, False, False] and masks[1].tolist() == [False, True]
    assert names_of(stores, ["m2cai16/y"]) == {"m2cai16/x", "m2cai16/y", "cholect50/VID03"}

    masks, report = usable_videos(stores, "none")
    assert all(mask.all() for mask in masks) and report["dropped"] == 0
    assert set(report["names"]) - set(report["cases"]) == {"m2cai16/x", "m2cai16/y"}
    # A published split elsewhere is no reason to leave a case out of supervised training here.
    make_tables(tmp_path / "tuned", [9] * 2, case=triplets[1:], split_own=["train", "train"])
    same(tmp_path / "tuned", ("cholect50/VID03", "m2cai16/x", True))
    assert training_videos([open_store(tmp_path / "tuned")], "own")[0][0].all()


def test_chosen_splits_hold_out_and_an_unknown_one_is_told(tmp_path, make_tables):
    parts = {"split_paper": ["train", "test", "train"], "split_other": ["val", "train", "train"]}
    make_tables(tmp_path / "s", [9] * 3, case=cases(1, 2, 3), **parts)
    same(tmp_path / "s", ("cholec80/video03", "x/3", True))
    stores = [open_store(tmp_path / "s")]
    assert usable_videos(stores, "paper")[0][0].tolist() == [True, False, False]
    with pytest.raises(UserError, match="nothing is left"):
        usable_videos(stores, "other, paper")
    with pytest.raises(UserError, match="data.held_out=papr: no store has a split 'papr'; .*paper"):
        usable_videos(stores, "papr")


def test_folds_are_not_held_out_in_pretraining(tmp_path, make_tables):
    make_tables(
        tmp_path / "s",
        [9] * 3,
        split_fold1=["test", "train", "train"],
        split_strict=[None, "test", None],
    )
    meta = json.loads((tmp_path / "s" / "store.json").read_text())
    about = {"fold1": {"tier": "official", "fold": True}, "strict": {"tier": "ours"}}
    meta["sources"] = [{"splits": about}]
    (tmp_path / "s" / "store.json").write_text(json.dumps(meta))
    store = open_store(tmp_path / "s")
    assert store.held_out_columns == ["split_strict"]
    assert usable_videos([store])[0][0].tolist() == [True, False, True]
    assert training_videos([store], "fold1")[0][0].tolist() == [False, True, True]
