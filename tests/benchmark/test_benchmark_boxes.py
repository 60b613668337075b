import numpy as np
import pytest

from surgjax.benchmark import boxes


def literal_iou(first, second, size=24):
    """Cells of a grid inside both boxes over cells inside either."""
    both = either = 0
    for x in range(size):
        for y in range(size):
            inside = [box[0] <= x < box[2] and box[1] <= y < box[3] for box in (first, second)]
            both, either = both + all(inside), either + any(inside)
    return both / either if either else float("nan")


def test_iou_is_that_of_counted_cells():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 24, (2, 150, 4)).astype(np.float64)  # some inside out
    expected = [literal_iou(a, b) for a, b in zip(first, second, strict=True)]
    assert np.isnan(expected).any() and (np.array(expected) > 0).any()
    np.testing.assert_allclose(boxes.iou(first, second), expected)
    np.testing.assert_allclose(boxes.iou(second / 24, first / 24), expected, atol=1e-12)


def test_missing_answers_count_zero():
    truth = np.array([[0, 0, 10, 10]] * 5, np.float32)
    pred = np.array(
        [
            [0, 0, 10, 10],
            [5, 0, 15, 10],
            [np.nan] * 4,
            [10, 10, 0, 0],  # inside out
            [0, 0, np.inf, 10],
        ],
        np.float32,
    )
    np.testing.assert_allclose(boxes.iou_or_zero(truth, pred), [1, 1 / 3, 0, 0, 0])
    assert boxes.mean_iou(truth, pred) == pytest.approx((1 + 1 / 3) / 5)
    assert np.isnan(boxes.mean_iou(truth[:0], pred[:0]))


@pytest.mark.parametrize("bad", [[5, 5, 5, 9], [np.nan] * 4])
def test_a_true_box_without_area_is_refused(bad):
    with pytest.raises(ValueError, match="true box"):
        boxes.mean_iou(np.array([bad], np.float64), np.array([[0, 0, 1, 1]], np.float64))
