import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from surgjax.benchmark import metrics


def made(n=300, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random((n, classes)) < [0.5, 0.1, 0.02, 0.0]).astype(np.float32)
    prob = np.round(rng.random((n, classes)) + 0.3 * label, 1).astype(np.float32)  # with ties
    return label, prob


def test_average_precision_is_scikit_learns():
    label, prob = made()
    label[5, 0] = np.nan
    found = metrics.average_precision(label, prob)
    known = ~np.isnan(label[:, 0])
    assert found[0] == pytest.approx(average_precision_score(label[known, 0], prob[known, 0]))
    for i in (1, 2):
        assert found[i] == pytest.approx(average_precision_score(label[:, i], prob[:, i]))
    assert np.isnan(found[3])  # no positives
