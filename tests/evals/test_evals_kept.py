"""Features that outlive a stop, and files of features in place of an encoder."""

import numpy as np
import pytest

from surgjax.benchmark import vectors
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.data.transforms import Augmentation
from surgjax.errors import Stopped, UserError
from surgjax.evals import classification, features, kept, knn, linear_probe, progress
from surgjax.evals.model import Model
from surgjax.evals.vectors import Evaluator as WriteVectors

CLIP = ClipShape(2, 4, 32)


def thumbnails(video):
    small = video[:, [0, -1]].reshape(len(video), 2, 8, 4, 8, 4, 3).mean((3, 5))
    return small.reshape(len(video), -1).astype(np.float32)


class Counting:
    """An encoder that counts its clips, and stops after some."""

    def __init__(self, stop_after=10**9):
        self.batches, self.stop_after = 0, stop_after

    def __call__(self, video):
        self.batches += 1
        if self.batches > self.stop_after:
            raise Stopped("asked to", 75)
        return thumbnails(video)


def model(folder, encode, **changes):
    given = {"identity": "weights 1", "used_cases": [], "kept": folder}
    return Model(encode=encode, clip=CLIP, **(given | changes))


def test_a_stopped_evaluation_goes_on_with_the_video_it_was_in(store, tmp_path):
    evaluator = linear_probe.Evaluator(store=str(store), every_s=1.0, batch_size=4)
    whole = Counting()
    evaluator.run(model(None, whole), out=tmp_path / "whole", step=0)
    assert whole.batches == 6 * 12 / 4  # 12 clips of each of six videos
    first, second = Counting(stop_after=8), Counting()
    with pytest.raises(Stopped):
        evaluator.run(model(tmp_path / "kept", first), out=tmp_path / "out", step=0)
    assert not (tmp_path / "out").exists()
    evaluator.run(model(tmp_path / "kept", second), out=tmp_path / "out", step=0)
    # A file has two videos here, six batches: one was written, two batches more are lost.
    assert second.batches == 12
    for name in ("predictions.parquet", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    third = Counting()  # nothing is left; another evaluation of the same clips shares them
    knn.Evaluator(store=str(store), every_s=1.0, batch_size=4).run(
        model(tmp_path / "kept", third), out=tmp_path / "knn", step=0
    )
    assert third.batches == 0


def test_other_weights_clips_crops_and_batches_are_made_anew(store, tmp_path):
    opened = open_store(store)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=3.0, split="official")

    def batches(clips=clips, clip=CLIP, own="weights 1", **changes):
        encode = Counting()
        options = {"batch_size": 4} | changes
        folder = tmp_path / "kept"
        kept.kept_features(opened, clips, clip, {"a": encode}, {"a": own}, folder, **options)
        return encode.batches

    assert batches() == 6 == len(clips) / 4
    assert batches() == 0
    assert batches(own="weights 2") == 6
    assert batches(batch_size=8) == 3
    assert batches(augment=Augmentation("left")) == 6
    assert batches(clip=ClipShape(2, 2, 32)) == 6
    assert batches(clips=clips.where(np.arange(len(clips)) % 2 == 0)) == 3
    assert batches(own="") == batches(own="") == 6  # what has no name is not kept
    with pytest.raises(UserError, match="batch_size is 0; expected at least 1"):
        batches(batch_size=0)
    files = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert not any(name.endswith(".part") for name in files)


def test_how_far_it_is_is_said(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SAY_EVERY", 0.0)
    opened = open_store(store)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=3.0, split="official")
    encoders, names = {"a": thumbnails, "b": thumbnails}, {"a": "1", "b": "2"}

    def lines():
        options = {"batch_size": 5}
        kept.kept_features(opened, clips, CLIP, encoders, names, tmp_path, **options)
        return capsys.readouterr().out.splitlines()

    said = lines()
    assert [line.split(",")[0] for line in said[-2:]] == ["20 of 24 clips", "24 of 24 clips"]
    assert said[-1].endswith("ETA 0:00:00") and "clips/s" in said[-1] and len(said) == 4
    assert lines() == []


def test_files_hold_whole_videos_with_full_batches():
    video = np.repeat([0, 1, 2, 3, 4], [1, 2, 9, 1, 1])
    groups = kept._groups(video, 3)
    assert [rows.tolist() for rows in groups] == [[0, 1, 2], [*range(3, 12)], [12, 13]]


def test_given_vectors_are_looked_up_by_video_and_time(store, tmp_path):
    opened = open_store(store)
    evaluator = linear_probe.Evaluator(store=str(store), every_s=1.0)
    evaluator.run(model(None, thumbnails), out=tmp_path / "encoded", step=0)
    WriteVectors(store=str(store)).run(model(None, thumbnails), out=tmp_path / "file", step=0)
    found = vectors.read(tmp_path / "file" / "features.parquet")
    assert len(found) == 6 * 12 and found.about["used_cases"] == []
    order = np.random.default_rng(0).permutation(len(found))
    shuffled = vectors.Vectors(found.video_id[order], found.t_ms[order], found.values[order])
    given = Model(None, ClipShape(1, 1, 32), vectors=shuffled)
    evaluator.run(given, out=tmp_path / "given", step=0)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=1.0, split="official")
    np.testing.assert_array_equal(classification.vectors_of(shuffled, clips), found.values)
    from surgjax.benchmark import predictions

    tables = [
        predictions.read(tmp_path / name / "predictions.parquet").of("pretrained")
        for name in ("encoded", "given")
    ]
    np.testing.assert_array_equal(tables[0].probabilities, tables[1].probabilities)
    assert tables[1].saw_test == "unknown" and tables[0].saw_test == "no"

    means = classification.vectors_of(shuffled, clips, "video")
    for video in np.unique(found.video_id):
        expected = found.values[found.video_id == video].mean(0)
        np.testing.assert_allclose(means[clips.video_id == video], expected[None] + 0 * means[:12])

    keep = ~((found.video_id == "video02") & (found.t_ms >= 9000))
    fewer = vectors.Vectors(found.video_id[keep], found.t_ms[keep], found.values[keep])
    with pytest.raises(UserError, match="lack 3 of 72 labelled clips; the first is video02 at 9"):
        classification.vectors_of(fewer, clips)
    none = vectors.Vectors(found.video_id[:0], found.t_ms[:0], found.values[:0])
    for unit in ("frame", "video"):
        with pytest.raises(UserError, match="lack 72 of 72"):
            classification.vectors_of(none, clips, unit)
    with pytest.raises(UserError, match="needs an encoder"):
        WriteVectors(store=str(store)).run(given, out=tmp_path, step=0)
