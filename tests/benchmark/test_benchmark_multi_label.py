import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from surgjax.benchmark import multi_label, predictions
from surgjax.errors import UserError


def made(n=300, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random((n, classes)) < [0.5, 0.1, 0.02, 0.0]).astype(np.float32)
    prob = np.round(rng.random((n, classes)) + 0.3 * label, 1).astype(np.float32)  # with ties
    return label, prob


def test_average_precision_is_scikit_learns():
    label, prob = made()
    label[5, 0] = np.nan
    found = multi_label.average_precision(label, prob)
    known = ~np.isnan(label[:, 0])
    assert found[0] == pytest.approx(average_precision_score(label[known, 0], prob[known, 0]))
    for i in (1, 2):
        assert found[i] == pytest.approx(average_precision_score(label[:, i], prob[:, i]))
    assert np.isnan(found[3])  # no positives


def test_a_saved_file_gives_the_numbers(tmp_path):
    label, prob = made()
    videos = np.array([f"video{i // 50}" for i in range(300)])
    columns = {name: videos for name in ("dataset", "split", "video_id", "case", "model")}
    columns |= {"t_ms": np.arange(300), "protocol": videos}
    predictions.write(tmp_path / "p.parquet", columns, prob, label, ["a", "b", "c", "d"])
    result = multi_label.score(tmp_path / "p.parquet")
    each = [average_precision_score(label[:, i], prob[:, i]) for i in range(3)]
    assert result["map_pooled"]["value"] == pytest.approx(np.mean(each))
    assert result["map_pooled"]["low"] <= np.mean(each) <= result["map_pooled"]["high"]
    assert result["ap_pooled"]["d"] is None and result["videos"] == sorted(set(videos))
    assert result["chance"] == pytest.approx(label[:, :3].mean())
    softmax = np.full((300, 4), 0.25, np.float32)
    predictions.write(tmp_path / "p.parquet", columns, softmax, np.zeros(300, int), list("abcd"))
    with pytest.raises(UserError, match="target is one class"):
        multi_label.score(tmp_path / "p.parquet")
