"""Few-shot and scaling curves, and the heat table, of numbers that are made up here."""

import math

import numpy as np
import pytest

from surgjax.benchmark import curves, heat
from surgjax.benchmark.table import Cell, Column, Row, Table
from surgjax.errors import UserError


def interval(value, width=0.05):
    return {"value": value, "low": value - width, "high": value + width}


def few_shot(sizes, videos=8):
    names = [f"{size:g} videos" for size in sizes] if sizes else ["4 shots a class", "all"]
    return {
        "videos": [f"v{i}" for i in range(videos)],
        "metric": "macro_f1_per_video",
        "settings": [
            {"name": n, "size": float(n.split()[0]) if sizes else None, "draws": 5} for n in names
        ],
        "models": {
            model: {
                n: {"macro_f1_per_video": interval(base + 0.1 * i)} for i, n in enumerate(names)
            }
            for model, base in (("pretrained", 0.4), ("random", 0.2))
        },
        "saw_test": "no",
    }


def test_few_shot_curves_are_the_numbers():
    figure, rows = curves.plot_few_shot(few_shot([16, 1, 4]))
    (axis,) = figure.axes
    line = {line.get_label(): line for line in axis.get_lines()}["pretrained"]
    np.testing.assert_array_equal(line.get_xdata(), [1, 4, 16])
    np.testing.assert_allclose(line.get_ydata(), [0.5, 0.6, 0.4])
    assert axis.get_xscale() == "log" and axis.get_xlabel() == "videos"
    band = axis.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((0.35, 0.65))
    assert rows[1][:4] == ["pretrained", "16 videos", 5, 0.4] and len(rows) == 1 + 6
    assert "saw test cases: no" in figure.get_suptitle() and "8 videos" in figure.get_suptitle()


def test_settings_without_a_number_stand_in_their_order():
    figure, _ = curves.plot_few_shot(few_shot(None))
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["4 shots a class", "all"] and figure.axes[0].get_xscale() == "linear"
    few, _ = curves.plot_few_shot(few_shot([1, 2], videos=3))
    band = few.axes[0].collections[0].get_paths()
    assert not band or np.isnan(band[0].vertices).all()  # too few videos for an interval


def table():
    columns = [Column("a:x", "Set $A$", "Acc@1"), Column("b:x", "Set B", "Acc@1")]
    rows = [
        Row("ours-A", "model", {"a:x": Cell(0.5, 0.4, 0.6), "b:x": Cell(0.25)}, "no"),
        Row("ours-E", "model", {"a:x": Cell(0.7, 0.6, 0.8, "*")}, "yes: Set A"),
        Row("constant", "floor", {"a:x": Cell(0.1)}),
        Row("theirs [1]", "cited", {"b:x": Cell(0.9)}, "not said"),
    ]
    return Table("suite, tier strict, knn", "knn", columns, rows, [])


def test_scaling_curves_by_hours_or_variants(tmp_path):
    file = tmp_path / "sizes.csv"
    file.write_text("model,series,hours\nours-E,ours,1000\nours-A,ours,10\nelse,other,1\n")
    sizes = curves.read_sizes(file)
    panels = curves.by_size(table(), sizes)
    figure, rows = curves.plot_scaling(panels, unit=sizes.unit, title="suite")
    (axis,) = figure.axes  # the other set has one model only
    assert axis.get_title(loc="left") == r"Set \$A\$ Acc@1" and "hours" in axis.get_xlabel()
    np.testing.assert_array_equal(axis.get_lines()[0].get_xdata(), [10, 1000])
    assert [row[2:] for row in rows[1:]] == [[10.0, 0.5, 0.4, 0.6], [1000.0, 0.7, 0.6, 0.8]]
    file.write_text("model,series,variant\nours-E,ours,E\nours-A,ours,A\n")
    panels = curves.by_size(table(), curves.read_sizes(file))
    axis = curves.plot_scaling(panels, unit="variant", title="suite")[0].axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["A", "E"]
    np.testing.assert_allclose(axis.get_lines()[0].get_ydata(), [0.5, 0.7])
    with pytest.raises(ValueError, match="two models"):
        curves.plot_scaling({"x": {"one": [curves.Point(1, 0.5)]}}, unit="h", title="")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model,hours\na,1\n", "expected model, series"),
        ("model,series,hours\na,b\n", "line 2"),
        ("model,series,hours\na,b,1\na,b,2\n", "line 3"),
        ("model,series,hours\na,b,1\nc,b,many\n", "one kind"),
        ("", "expected"),
    ],
)
def test_wrong_sizes_are_named(tmp_path, text, says):
    (tmp_path / "sizes.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        curves.read_sizes(tmp_path / "sizes.csv")


def test_heat_table_marks_what_is_missing_and_sets_the_cited_apart():
    figure, rows = heat.plot_heat(table())
    (axis,) = figure.axes
    hatched = [patch for patch in axis.patches if patch.get_hatch()]
    assert len(axis.patches) == 8 and len(hatched) == 3
    words = [text.get_text() for text in axis.texts]
    assert words == ["50.0", "25.0", "70.0*", "10.0", "90.0"]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["ours-A", "ours-E", "floor: constant", "cited: theirs [1]"]
    places = np.diff(axis.get_yticks())
    assert places[0] == 1 and (places[1:] > 1).all()
    assert "model saw test cases" in figure.get_suptitle()
    found = {(row[1], row[3]): row for row in rows[1:]}
    assert found["ours-E", "a:x"][4:] == [0.7, 0.6, 0.8, "*"]
    assert found["theirs [1]", "a:x"][4:] == [None] * 4 and found["theirs [1]", "b:x"][0] == "cited"
    assert not any(math.isnan(row[4] or 0) for row in rows[1:])
