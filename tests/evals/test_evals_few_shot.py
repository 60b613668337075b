"""Few labels, several labels a clip, one label a video, and no validation cases."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.preprocessing import StandardScaler
from small_videos import shards, write_video

from surgjax.benchmark import comparison, few_shot, predictions
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals import features, knn, linear_probe
from surgjax.evals import few_shot as evaluation
from surgjax.evals.model import Model

CLIP = ClipShape(2, 4, 32)


def thumbnails(video):
    small = video[:, [0, -1]].reshape(len(video), 2, 8, 4, 8, 4, 3).mean((3, 5))
    return small.reshape(len(video), -1).astype(np.float32)


def corners(video):
    return video[:, 0, ::31, ::31].reshape(len(video), -1).astype(np.float32)


def model(**changes):
    given = {"encode": thumbnails, "random_encode": corners, "clip": CLIP, "used_cases": []}
    return Model(**(given | changes))


def clips_of(label, case, split, classes=4):
    """Clips without pictures."""
    n = len(label)
    blank, names = np.zeros(n, int), [f"c{i}" for i in range(classes)]
    case, split = np.array(case), np.array(split)
    return features.LabelledClips(blank, np.arange(n), label, names, case, split, case, case)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Twelve films of one label each, dark or bright, in training and test cases only."""
    root = tmp_path_factory.mktemp("films")
    labels, splits = ["video,start,end,label"], ["video,split"]
    for i in range(12):
        light = 40 + 150 * (i % 2) + 3 * i
        images = [np.full((64, 96, 3), light + t, np.uint8) for t in range(10)]
        write_video(root / "videos" / f"f{i:02}.mp4", 10, rate=5, images=images)
        labels.append(f"f{i:02},0,2,{'bright' if i % 2 else 'dark'}")
        splits.append(f"f{i:02},{'train' if i < 8 else 'test'}")
    (root / "videos" / "labels.csv").write_text("\n".join(labels) + "\n")
    (root / "videos" / "splits.csv").write_text("\n".join(splits) + "\n")
    shards(root / "videos", root / "store", "--fps", "native")
    return root / "store"


# --- few-shot


def test_draws_are_the_same_for_every_encoder_and_numbers_come_from_the_file(store, tmp_path):
    evaluator = evaluation.Evaluator(store=str(store), every_s=2.0, sizes="1,all", draws=3)
    evaluator.run(model(), out=tmp_path, step=7)
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert few_shot.score(tmp_path / "predictions.parquet")["models"] == saved["models"]
    table = predictions.read(tmp_path / "predictions.parquet")
    train = open_store(store).videos["split_official"] == "train"
    names = [f"{1} video", f"{train.sum()} videos"]
    assert [of["name"] for of in saved["settings"]] == names and saved["saw_test"] == "no"
    # one video of two can be drawn in two ways
    assert [of["draws"] for of in saved["settings"]] == [min(10, train.sum()), 1]
    floors = ["random", "mean_colour", "majority", "best_constant"]
    assert table.models == ["pretrained", *floors]
    assert set(table["split"]) == {"test"}

    opened = open_store(store)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=2.0, split="official")
    parts = {part: clips.split == part for part in ("train", "val", "test")}
    drawn = evaluation.draw_videos(np.unique(clips.video_id[parts["train"]]), 1, 10, 0)
    made = features.features(opened, clips, CLIP, {"pretrained": thumbnails, "random": corners})
    for name, values in made.items():
        for draw, videos in enumerate(drawn):
            rows = table.where((table["model"] == name) & (table["setting"] == "1 video"))
            rows = rows.where(rows["draw"] == draw)
            only = parts["train"] & np.isin(clips.video_id, videos)
            expected, _ = linear_probe.probe(values, clips, {**parts, "train": only})
            np.testing.assert_array_equal(rows.probabilities, expected)
            np.testing.assert_array_equal(rows["t_ms"], clips.t_ms[parts["test"]])


def test_sets_of_videos_differ_and_follow_from_the_seed():
    videos = np.array([f"v{i}" for i in range(9)])
    sets = evaluation.draw_videos(videos, 2, 20, 0)
    assert len({tuple(one) for one in sets}) == 20 and {len(set(one)) for one in sets} == {2}
    again = evaluation.draw_videos(videos, 2, 20, 0)
    np.testing.assert_array_equal(sets, again)
    assert not np.array_equal(sets, evaluation.draw_videos(videos, 2, 20, 1))
    assert len(evaluation.draw_videos(videos, 1, 20, 0)) == 9
    assert len(evaluation.draw_videos(videos, 9, 20, 0)) == 1


def test_settings_of_each_way_to_count(films):
    opened = open_store(films)
    clips = features.labelled_clips(opened, "label", CLIP, every_s=1.0, split="official")
    train = clips.split == "train"

    def settings(**given):
        made = evaluation.Evaluator(store=str(films), task="label", **given)
        return made._settings(clips, train)

    def videos(mask):
        return len(np.unique(clips.video_id[mask]))

    by_videos = settings()
    assert {n: len(d) for n, d in by_videos.items()} == {
        "1 video": 8,  # as many as there are
        "2 videos": 10,
        "4 videos": 5,
        "8 videos": 1,
    }
    assert all(videos(mask) == 4 and (mask <= train).all() for mask in by_videos["4 videos"])
    share = settings(by="selfsupsurg")
    assert {n: len(d) for n, d in share.items()} == {"12.5 %": 5, "25 %": 5, "100 %": 1}
    assert [videos(mask) for mask in share["25 %"]] == [2] * 5
    shots = settings(by="shots", sizes="1,4", draws=3)
    assert {n: len(d) for n, d in shots.items()} == {"1 shot": 10, "4 shots": 3}
    for mask in shots["4 shots"]:
        assert np.bincount(clips.label[mask]).tolist() == [4, 4] and (mask <= train).all()
    for wrong, word in (
        ({"by": "cases"}, "expected videos, shots, selfsupsurg"),
        ({"sizes": "2,x"}, "'x'; expected whole"),
        ({"sizes": "0.5"}, "'0.5'; expected whole"),
        ({"sizes": "inf"}, "'inf'; expected whole"),
        ({"by": "selfsupsurg", "sizes": "2"}, "expected shares"),
        ({"sizes": "9"}, "8 videos; expected at most"),
    ):
        with pytest.raises(UserError, match=word):
            settings(**wrong)


def test_shots_of_several_classes():
    label = np.zeros((30, 3))
    label[:20, 0] = label[10:25, 1] = label[3, 2] = 1
    label[5, 0] = np.nan
    clips = clips_of(label, ["a"] * 30, ["train"] * 30, 3)
    train = np.arange(30) < 28
    mask = evaluation.draw_shots(clips, train, 2, (0, 0))
    assert mask[3] and 4 <= mask.sum() <= 5 and not mask[[5, 28, 29]].any()
    assert (label[mask] == 1).sum(0)[:2].min() >= 2


# --- linear probe


def test_without_validation_cases_training_cases_choose():
    rng = np.random.default_rng(0)
    label = np.tile([0, 1, 3], 60)
    values = (np.eye(4)[label] + 0.4 * rng.normal(size=(180, 4))).astype(np.float32)
    case = np.repeat([f"case{i:02}" for i in range(18)], 10)
    split = np.repeat(["train"] * 12 + ["test"] * 6, 10)
    clips = clips_of(label, case, split)
    parts = {name: split == name for name in ("train", "val", "test")}
    probs, strength = linear_probe.probe(values, clips, parts)
    judged = np.isin(case, ["case04", "case09"])
    fitted, best = parts["train"] & ~judged, {}
    scaler = StandardScaler().fit(values[fitted])
    for c in linear_probe.STRENGTHS:
        one = LogisticRegression(C=c, max_iter=2000, tol=1e-6)
        one.fit(scaler.transform(values[fitted]), label[fitted])
        scores = [
            f1_score(label[rows], one.predict(scaler.transform(values[rows])), average="macro")
            for rows in (case == "case04", case == "case09")
        ]
        best[c] = np.mean(scores)
    assert strength == max(best, key=best.get)
    scaler = StandardScaler().fit(values[parts["train"]])
    again = LogisticRegression(C=strength, max_iter=2000, tol=1e-6)
    again.fit(scaler.transform(values[parts["train"]]), label[parts["train"]])
    expected = again.predict_proba(scaler.transform(values[parts["test"]]))
    np.testing.assert_allclose(probs[:, [0, 1, 3]], expected, atol=1e-3)
    assert "every fifth training case" in linear_probe.choice_in_words(clips, parts)
    few = parts | {"train": np.isin(case, ["case00", "case01", "case02", "case03"])}
    _, strength = linear_probe.probe(values, clips, few)
    assert strength == linear_probe.FIXED
    assert linear_probe.choice_in_words(clips, few) == "no validation cases: strength 0.01"


def test_test_labels_change_nothing():
    rng = np.random.default_rng(1)
    label, values = rng.integers(0, 3, 90), rng.normal(size=(90, 5)).astype(np.float32)
    case, split = np.repeat([f"c{i}" for i in range(9)], 10), np.repeat(["train", "test"], [60, 30])
    parts = {name: split == name for name in ("train", "val", "test")}
    probs, strength = linear_probe.probe(values, clips_of(label, case, split, 3), parts)
    other = np.where(split == "test", 2 - label, label)
    again, same = linear_probe.probe(values, clips_of(other, case, split, 3), parts)
    np.testing.assert_array_equal(probs, again)
    assert strength == same


def test_several_classes_are_a_regression_each_on_what_is_known():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(200, 6)).astype(np.float32)
    label = (values @ rng.normal(size=(6, 5)) + rng.normal(size=(200, 5)) > 0.3).astype(float)
    label[:, 3], label[:, 4] = 0, 1
    label[rng.random((200, 5)) < 0.2] = np.nan
    asked = rng.normal(size=(50, 6)).astype(np.float32)
    for strength in (1e-3, 1.0):
        probs = linear_probe.fit(values, label, strength, 5)(asked)
        scaler = StandardScaler().fit(values)
        for c in range(3):
            known = ~np.isnan(label[:, c])
            one = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
            one.fit(scaler.transform(values[known]), label[known, c])
            expected = one.predict_proba(scaler.transform(asked))[:, 1]
            np.testing.assert_allclose(probs[:, c], expected, atol=1e-3)  # ours stops earlier
        np.testing.assert_array_equal(probs[:, 3:], np.tile([0.0, 1.0], (50, 1)))


# --- several labels a clip


def test_votes_of_several_classes_are_of_neighbours_whose_label_is_known():
    pool = np.array([[1, 0], [0.9, 0.1], [-1, 0], [0, -1]], np.float32)
    label = np.array([[1, 0, np.nan], [0, np.nan, np.nan], [1, 1, 1], [0, 1, 0]])
    found = knn.vote(np.array([[1.0, 0.0]], np.float32), pool, label, 3, 2)
    mean, deviation = pool.mean(0), pool.std(0)
    q, p = (np.array([[1.0, 0.0]]) - mean) / deviation, (pool - mean) / deviation
    cosine = (q @ p.T / np.linalg.norm(q) / np.linalg.norm(p, axis=1))[0]
    # the first of the two neighbours alone is known for class 1, neither for class 2: the share
    expected = [cosine[0] / cosine[:2].sum(), 0, 0.5]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_the_nearest_are_those_of_a_stable_sort():
    cosine = np.round(np.random.default_rng(0).normal(size=(40, 30)), 1)  # with ties
    cosine[0] = 0.5
    for count in (1, 7, 30):
        expected = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(knn.nearest(cosine, count), expected)


def test_many_queries_in_blocks_vote_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    query, pool = rng.normal(size=(50, 4)), rng.normal(size=(40, 4))
    label = rng.integers(0, 3, 40)
    whole = knn.vote(query, pool, label, 3, 5)
    monkeypatch.setattr(knn, "AT_ONCE", 100)
    np.testing.assert_allclose(knn.vote(query, pool, label, 3, 5), whole, atol=1e-6)


@pytest.mark.parametrize("module", [knn, linear_probe], ids=lambda m: m.__name__.split(".")[-1])
def test_instruments_are_told_beside_chance(store, tmp_path, capsys, module):
    evaluator = module.Evaluator(store=str(store), task="instrument", every_s=1.0)
    scalars = evaluator.run(model(), out=tmp_path, step=0)
    saved = json.loads((tmp_path / "metrics.json").read_text())
    table = predictions.read(tmp_path / "predictions.parquet")
    names = ["pretrained", "random", "mean_colour", "class_frequency"]
    assert list(saved["models"]) == table.models == names and saved["saw_test"] == "no"
    again = comparison.compare(tmp_path / "predictions.parquet")
    assert again == {key: saved[key] for key in again}
    for name in names:
        own, each = table.of(name), []
        for c in np.flatnonzero((own.target > 0.5).any(0)):
            each.append(average_precision_score(own.target[:, c], own.probabilities[:, c]))
        assert saved["models"][name]["map_pooled"]["value"] == pytest.approx(np.mean(each))
    assert saved["models"]["class_frequency"]["map_pooled"]["value"] == saved["chance"]
    assert scalars["map"] == saved["models"]["pretrained"]["map_pooled"]["value"]
    assert "pretrained minus random" in capsys.readouterr().out


def test_few_videos_of_several_classes(store, tmp_path):
    evaluator = evaluation.Evaluator(
        store=str(store), task="instrument", every_s=3.0, sizes="1", draws=1
    )
    evaluator.run(model(random_encode=None), out=tmp_path, step=0)
    saved = json.loads((tmp_path / "metrics.json").read_text())
    table = predictions.read(tmp_path / "predictions.parquet").of("pretrained")
    each = []
    for draw in np.unique(table["draw"]):
        own = table.where(table["draw"] == draw)
        each.append(comparison.compare_table(own, "draw")["models"]["pretrained"])
    value = saved["models"]["pretrained"]["1 video"]["map_pooled"]
    assert value["value"] == pytest.approx(np.mean([one["map_pooled"]["value"] for one in each]))
    assert value["seeds"] == len(each) and value["low"] <= value["value"] <= value["high"]


# --- one label a video


@pytest.mark.parametrize("module", [knn, linear_probe, evaluation])
def test_a_video_is_the_mean_of_its_segments(films, tmp_path, module):
    more = {"sizes": "4"} if module is evaluation else {}
    evaluator = module.Evaluator(store=str(films), task="label", unit="video", segments=3, **more)
    evaluator.run(model(), out=tmp_path, step=0)
    table = predictions.read(tmp_path / "predictions.parquet").of("pretrained")
    table = table.where(table["draw"] == 0) if "draw" in table else table
    assert sorted(table["video_id"]) == ["f08", "f09", "f10", "f11"]
    assert (table.pred == table.target).all()
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert "mean of 3 clips spread over each video" in saved["protocol"]
    if module is linear_probe:
        assert "every fifth training case" in saved["protocol"]


def test_segments_lie_from_the_first_clip_to_the_last(films):
    opened = open_store(films)
    clips = features.labelled_clips(
        opened, "label", CLIP, every_s=1.0, split="official", unit="video"
    )
    assert len(clips) == 12
    views = features.segments(opened, clips, CLIP, 3)  # of 10 frames, a clip spans 5
    assert [view.rows["start"].tolist() for view in views] == [[0] * 12, [2] * 12, [5] * 12]
    assert features.segments(opened, clips, CLIP, 1)[0].rows["start"].tolist() == [2] * 12


def test_a_video_of_two_labels_is_no_unit(store):
    with pytest.raises(UserError, match="video01 has more than one label"):
        features.labelled_clips(
            open_store(store), "phase", CLIP, every_s=1.0, split="official", unit="video"
        )
    with pytest.raises(UserError, match="unit is 'case'"):
        features.labelled_clips(
            open_store(store), "phase", CLIP, every_s=1.0, split="official", unit="case"
        )
