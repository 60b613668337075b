"""Maps and neighbours of features, against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from surgjax.benchmark import embedding, pictures, vectors
from surgjax.data.store import open_store
from surgjax.errors import UserError


@pytest.fixture(scope="module")
def of_frames(store):
    """A vector for every tenth frame of the rendered corpus, and the store."""
    opened, rng = open_store(store), np.random.default_rng(0)
    video, t_ms = [], []
    for v in range(len(opened)):
        times = opened.read_times(v, range(0, int(opened.frames[v]), 10))
        video += [opened.video_id(v)] * len(times)
        t_ms += times
    values = rng.normal(size=(len(video), 12)).astype(np.float32)
    values[:, 0] *= 5
    about = {"model": "of $numbers$", "used_cases": [str(opened.videos["case"][0])]}
    return vectors.Vectors(np.array(video), np.array(t_ms), values, about), opened


def test_principal_components_are_scikit_learns():
    values = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32) + 3
    at, share = embedding.principal_components(values, 3)
    reference = PCA(3, svd_solver="full").fit(values.astype(np.float64))
    expected = reference.transform(values.astype(np.float64))
    largest = np.abs(reference.components_).argmax(1)
    expected *= np.sign(reference.components_[np.arange(3), largest])
    np.testing.assert_allclose(at, expected, atol=1e-9)
    np.testing.assert_allclose(share, reference.explained_variance_ratio_)
    np.testing.assert_array_equal(embedding.principal_components(np.ones((4, 3)))[1], 0)
    with pytest.raises(ValueError, match="no 2 principal components"):
        embedding.principal_components(values[:1])


def test_neighbours_are_scikit_learns_without_the_own_case():
    rng = np.random.default_rng(1)
    values, case = rng.normal(size=(50, 6)), np.repeat(list("abcde"), 10)
    queries = np.array([3, 27, 49])
    rows, likeness = embedding.nearest_of_other_cases(values, case, queries, 4)
    for query, found, like in zip(queries, rows, likeness, strict=True):
        others = np.flatnonzero(case != case[query])
        search = NearestNeighbors(n_neighbors=4, metric="cosine").fit(values[others])
        distance, index = search.kneighbors(values[query : query + 1])
        np.testing.assert_array_equal(found, others[index[0]])
        np.testing.assert_allclose(like, 1 - distance[0])
    with pytest.raises(ValueError, match="fewer than 41"):
        embedding.nearest_of_other_cases(values, case, queries, 41)


def test_map_shows_every_group(of_frames):
    found, store = of_frames
    figure, rows = embedding.plot_embedding(found, [store])
    at, _ = embedding.principal_components(found.values)
    assert len(rows) == 1 + len(found) and rows[0][2:4] == ["dataset", "procedure"]
    np.testing.assert_array_equal([row[4:] for row in rows[1:]], at)
    assert {row[2] for row in rows[1:]} == {"synthetic"}
    by_procedure, by_source = figure.axes
    (label,) = by_source.get_legend_handles_labels()[1]
    assert label == f"synthetic ({len(found)})"
    drawn = by_source.collections[0].get_offsets()
    np.testing.assert_allclose(np.asarray(drawn), at)
    figure.draw_without_rendering()
    width, height = by_source.bbox.size
    across, up = np.ptp(by_source.get_xlim()), np.ptp(by_source.get_ylim())
    assert width / across == pytest.approx(height / up, rel=0.02)  # equal distances look equal
    assert "saw 1 of these 6 cases" in figure.get_suptitle()
    fewer = embedding.plot_embedding(found, [store], most=7)[1]
    assert len(fewer) == 8 and fewer[1] == rows[1] and fewer[-1] == rows[-1]


def test_gallery_shows_the_frames_themselves(of_frames, tmp_path):
    found, store = of_frames
    figure, rows = embedding.plot_neighbours(found, [store], queries=2, k=3)
    assert len(rows) == 1 + 2 * 3
    first = rows[1]
    row = {(v, t): i for i, (v, t) in enumerate(zip(found.video_id, found.t_ms, strict=True))}
    case = dict(zip(store.videos["video_id"], store.videos["case"], strict=True))
    for line in rows[1:]:
        query, near = row[line[0], line[1]], row[line[4], line[5]]
        one, other = found.values[query].astype(float), found.values[near].astype(float)
        like = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert line[7] == pytest.approx(like, abs=1e-6) and case[line[0]] != case[line[4]]
    labels = store.labels("phase")
    classes = store.meta["tasks"]["phase"]["classes"]
    number = list(store.videos["video_id"]).index(first[4])
    told = (labels["video"] == number) & (labels["t_ms"] == first[5])
    assert [first[6]] == [classes[i] for i in labels["label"][told]] or (first[6], told.sum()) == (
        "",
        0,
    )
    shown = figure.axes[0].images[0].get_array()
    import cv2

    from surgjax.data.decode import pictures as frames_of

    number = list(store.videos["video_id"]).index(first[0])
    (at,) = store.frames_at(number, [first[1]])
    frame = next(frames_of(store, number, [int(at)]))
    small = cv2.resize(frame, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(shown, small)
    again = embedding.plot_neighbours(found, [store], queries=2, k=3)
    files = [
        pictures.save_with_data(*made, tmp_path / name)
        for name, made in (("a", (figure, rows)), ("b", again))
    ]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_features_of_other_stores_are_named(of_frames):
    found, store = of_frames
    other = vectors.Vectors(np.array(["video99"]), np.array([0]), found.values[:1], {})
    with pytest.raises(UserError, match="video 'video99'.*that no store given has"):
        embedding.plot_embedding(other, [store])
