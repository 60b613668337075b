import numpy as np
import pyarrow.parquet as pq
import pytest

from surgjax.data import batch as batches
from surgjax.data import labelled, loader
from surgjax.data.leakage import training_videos
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.data.transforms import MULTISCALE, Augmentation
from surgjax.errors import UserError

SHAPE = ClipShape(4, "0.2s", 32)
TASKS = "phase,instrument"


@pytest.fixture(scope="module")
def opened(store):
    return open_store(store)


def make_plan(opened, batch_size=8, tasks=TASKS, **options):
    masks, _ = training_videos([opened], "official")
    about = labelled.task_labels([opened], tasks)
    return labelled.LabelledPlan([opened], masks, SHAPE, batch_size, 3, tasks=about, **options)


def truth(store, task):
    """(video id, t_ms) -> class number or list of values, read from the file itself."""
    table = pq.read_table(store.path / "labels" / f"{task}.parquet").to_pylist()
    return {(r["video_id"], r["t_ms"]): r.get("label", r.get("values")) for r in table}


@pytest.mark.parametrize("anchor, place", [("last", 3), ("middle", 1)])
def test_a_clip_lies_around_its_label(opened, anchor, place):
    plan = make_plan(opened, anchor=anchor)
    phase, instrument = truth(opened, "phase"), truth(opened, "instrument")
    classes = len(opened.meta["tasks"]["phase"]["classes"])
    seen = 0
    for step in range(4):
        rows = plan.rows(step)
        labels = plan.extras(rows)["labels"]
        for row, columns in zip(rows, labels, strict=True):
            frame = row["start"] + place * SHAPE.stride_in(opened, row["video"])
            key = (opened.video_id(row["video"]), opened.read_times(row["video"], [frame])[0])
            one = columns[:classes]
            if key in phase:
                assert one.sum() == 1 and one[phase[key]] == 1
                seen += 1
            else:
                assert (one == batches.UNKNOWN).all()
            several = columns[classes:]
            expected = instrument.get(key, [batches.UNKNOWN] * len(several))
            np.testing.assert_array_equal(several, np.asarray(expected, np.uint8))
    assert seen > 20


def test_an_epoch_shows_every_labelled_training_frame_once(opened):
    plan = make_plan(opened, batch_size=8, tasks="phase")
    assert plan.num_samples % 8 == 0
    rows = np.concatenate([plan.rows(step) for step in range(plan.num_samples // 8)])
    assert len(np.unique(rows["index"])) == plan.num_samples
    train = {
        opened.video_id(v)
        for v, part in enumerate(opened.videos["split_official"])
        if part == "train"
    }
    assert {opened.video_id(v) for v in rows["video"]} == train
    assert plan.num_samples == sum(video in train for video, _ in truth(opened, "phase"))


def test_repeats_show_one_clip_with_several_crops(opened):
    plan = make_plan(opened, batch_size=8, tasks="phase", repeats=2)
    rows = plan.rows(0)
    pairs = rows.reshape(4, 2)
    assert (pairs["start"][:, 0] == pairs["start"][:, 1]).all()
    assert len(np.unique(rows["index"])) == 8 and len(np.unique(rows["crop_seed"])) == 8
    labels = plan.extras(rows)["labels"].reshape(4, 2, -1)
    np.testing.assert_array_equal(labels[:, 0], labels[:, 1])

    augment = Augmentation("resized", area=(0.3, 0.6))
    options = dict(clip=SHAPE, start_step=0, stop_step=1, augment=augment)
    with loader.train_batches(plan, [opened], **options) as source:
        batch, stats = next(source)
        batches.check(batch, b=8)
        alone = plan.rows(0)
        assert stats["frames_decoded"] <= 4 * 4
    from surgjax.data.clip import decode_clip

    for row, clip in zip(alone, batch["video"], strict=True):
        np.testing.assert_array_equal(clip, decode_clip(opened, row, SHAPE, augment))
    np.testing.assert_array_equal(batch["labels"], plan.extras(alone)["labels"])
    assert np.abs(batch["video"][0].astype(int) - batch["video"][1]).mean() > 2


def test_workers_bring_the_same_labels(opened):
    plan = make_plan(opened)
    options = dict(clip=SHAPE, start_step=1, stop_step=3, augment=MULTISCALE)
    found = []
    for workers in (0, 1):
        with loader.train_batches(plan, [opened], workers=workers, **options) as source:
            found.append([{k: v.copy() for k, v in batch.items()} for batch, _ in source])
    for a, b in zip(*found, strict=True):
        assert set(a) == set(b) == {"video", "index", "labels"}
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_bad_requests_are_told(opened):
    with pytest.raises(UserError, match="has no task 'phases'; it has .*'phase'.*objective.task"):
        labelled.task_labels([opened], "phases")
    with pytest.raises(UserError, match="has no split 'fold9'; it has .*official.*data.split"):
        training_videos([opened], "fold9")
    with pytest.raises(UserError, match="data.anchor is 'first'; choose last or middle"):
        make_plan(opened, anchor="first")
    with pytest.raises(UserError, match="not a multiple of data.repeats=3"):
        make_plan(opened, repeats=3)
