"""Ribbons: what is drawn is what the rows say."""

import numpy as np
import pytest

from surgjax.benchmark import pictures, ribbons
from surgjax.benchmark.predictions import Predictions


def table(videos=3, frames=20, classes=4, seed=0, step_ms=1000):
    rng = np.random.default_rng(seed)
    n = videos * frames
    columns = {
        "video_id": np.repeat([f"v{i}" for i in range(videos)], frames),
        "t_ms": np.tile(np.arange(frames) * step_ms, videos),
        "dataset": np.full(n, "cholec80"),
    }
    probabilities = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    names = [f"phase {i}" for i in range(classes)]
    return Predictions(names, probabilities, rng.integers(0, classes, n), columns, "no")


def widths(axis, bottom):
    """Total length of the bars of one stripe, by colour."""
    found = {}
    for bars in axis.collections:
        for path in bars.get_paths():
            (left, low), (right, high) = path.get_extents().get_points()
            if abs(low - bottom) < 1e-6 and abs(high - bottom - 0.9) < 1e-6:
                shade = tuple(bars.get_facecolor()[0])
                found[shade] = found.get(shade, 0) + right - left
    return found


def test_stripes_are_as_long_as_the_rows_say():
    made = table()
    figure, rows = ribbons.plot_ribbons(made)
    right = {
        v: (made.pred == made.target)[made["video_id"] == v].mean() for v in ("v0", "v1", "v2")
    }
    for axis in figure.axes:
        video = axis.get_title(loc="left").split(":")[0]
        own = made.where(made["video_id"] == video)
        (error,) = widths(axis, 1).values()
        assert error == pytest.approx(20 * (1 - right[video]))
        assert f"accuracy {right[video]:.2f}" in axis.get_title(loc="left")
        for bottom, values in ((3, own.target), (2, own.pred)):
            counts = np.bincount(values)
            assert sorted(widths(axis, bottom).values()) == pytest.approx(
                sorted(counts[counts > 0])
            )
        (area,) = [c for c in axis.collections if c.get_paths()[0].get_extents().y0 == 0]
        tops = area.get_paths()[0].vertices[:, 1]
        assert tops.max() == pytest.approx(0.9 * own.probabilities.max(), abs=1e-6)
    assert len(rows) == 1 + len(made)
    cells = [row for row in rows[1:] if row[0] == "v1"]
    own = made.where(made["video_id"] == "v1")
    assert [row[2] for row in cells] == [made.classes[i] for i in own.target]
    assert [row[4] for row in cells] == own.probabilities.max(1).astype(float).tolist()
    assert "cholec80" in figure.get_suptitle() and "saw test cases: no" in figure.get_suptitle()


def test_the_worst_are_shown_first_and_minutes_for_long_ones():
    figure, rows = ribbons.plot_ribbons(table(videos=5, step_ms=60_000), most=2)
    scores = [float(axis.get_title(loc="left").rsplit(" ", 1)[1]) for axis in figure.axes]
    assert len(scores) == 2 and scores == sorted(scores) and len({row[0] for row in rows[1:]}) == 2
    assert [text.get_text() for text in figure.axes[0].texts] == ["minutes"]
    assert "2 worst of 5" in figure.get_suptitle()


def test_what_has_no_ribbon():
    made = table()
    with pytest.raises(ValueError, match="one class a row"):
        ribbons.plot_ribbons(Predictions(made.classes, made.probabilities, made.probabilities, {}))
    without = Predictions(made.classes, made.probabilities, made.target, {})
    with pytest.raises(ValueError, match="time of each"):
        ribbons.plot_ribbons(without)
    one = ribbons.plot_ribbons(made.where(np.arange(len(made)) < 1))[0]
    assert len(one.axes) == 1


def test_many_classes_keep_their_colours_apart():
    assert len({pictures.colour(i) for i in range(24)}) == 24
    assert pictures.colour(24) == pictures.colour(0) == "#0072B2"
    figure, _ = ribbons.plot_ribbons(table(frames=200, classes=40))
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert len(words) == ribbons.NAMED + 1 and words[-1] == "and 16 more"
