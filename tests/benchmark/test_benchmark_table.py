"""Tables of results: their numbers recomputed from the predictions, and every format read back."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from data_prep import sources
from surgjax.benchmark import (
    curves,
    jobs,
    predictions,
    results,
    score,
    suites,
    table,
    table_formats,
)
from surgjax.benchmark.__main__ import main
from surgjax.errors import UserError


def job(out, suite, entry_id, model, *, seed=0, skill=0.5, saw="no", videos=6, protocol="finetune"):
    """A finished job on rendered predictions with their floors; labels are the same for all."""
    suite = suites.load(suite)
    entry = suite.entry(entry_id)
    classes = sources.load(entry.source).ABOUT.tasks[entry.label]["classes"]
    truth = np.random.default_rng(len(entry.id))
    rng = np.random.default_rng([seed, *map(ord, model + entry.id)])
    frames, count = 20, len(classes)
    n = videos * frames
    if several := entry.task in ("tool", "triplet"):
        target = (truth.random((n, count)) < 0.2).astype(np.float32)
        answers = {"pretrained": skill * target + rng.random((n, count))}
        answers["random"] = rng.random((n, count))
    else:
        target = truth.integers(0, count, n)
        onehot = np.eye(count)
        answers = {"pretrained": rng.dirichlet(np.ones(count), n) + skill * onehot[target]}
        answers["random"] = rng.dirichlet(np.ones(count), n)
        answers["majority"] = onehot[np.zeros(n, int)]
        answers["best_constant"] = onehot[np.full(n, np.bincount(target).argmax())]
        answers = {name: a / a.sum(1, keepdims=True) for name, a in answers.items()}
    names = np.repeat([f"v{i}" for i in range(videos)], frames)
    columns = {
        "video_id": np.tile(names, len(answers)),
        "t_ms": np.tile(np.tile(np.arange(frames) * 1000, videos), len(answers)),
        "case": np.char.add(f"{entry.dataset}/", np.tile(names, len(answers))),
        "model": np.repeat(list(answers), n),
    }
    folder = results.job_folder(out, model, entry.id, entry.task, protocol, seed)
    file = folder / results.PREDICTIONS
    folder.mkdir(parents=True)
    stacked = np.concatenate(list(answers.values())).astype(np.float32)
    target = np.tile(target, (len(answers), 1) if several else len(answers))
    predictions.write(file, columns, stacked, target, list(classes), saw)
    how = entry.score_protocols[0]
    said = {"dataset": entry.dataset, "exclude": entry.exclude, "allow_seen": True}
    predictions.write_json(folder / results.SCORE, score.score(file, entry.task, how, **said))
    about = {name: getattr(entry, name) for name in ("dataset", "task", "label", "split")}
    about |= {"suite": suite.name, "tier": suite.tier, "model": model, "entry": entry.id}
    about |= {"protocol": protocol, "score_protocol": how, "seed": seed, "saw_test": saw}
    predictions.write_json(folder / results.JOB, about)
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "RESAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory, few_resamples):
    """Two models on some sets of two suites; one lacks AutoLaparo, one has two seeds."""
    out = tmp_path_factory.mktemp("results")
    for model in ("vista-A", "vista-B"):
        job(out, "surgrec16", "cholec80", model, saw="yes" if model == "vista-A" else "no")
        job(out, "surgrec16", "cataract21", model, videos=4)
        job(out, "surgrec16", "lapgyn6_events_bleeding", model)
        job(out, "surgrec16", "lapgyn6_events_needle_passing", model, skill=0.1)
        job(out / "vista", "surgvista13", "cholect50", model)
    job(out, "surgrec16", "autolaparo", "vista-B")
    job(out, "surgrec16", "cholec80", "vista-B", seed=1)
    return out


def build(out, name="surgrec16", **options):
    (found,) = table.build(results.read(out), suites.load(name), **options)
    return found


def rows_of(found):
    return {row.name: row for row in found.rows}


def own_rows(folder, model="pretrained"):
    return predictions.read(folder / results.PREDICTIONS).of(model)


def accuracy(folder, model="pretrained"):
    rows = own_rows(folder, model)
    return accuracy_score(rows.target, rows.pred)


def folder_of(out, entry, model, seed=0):
    task = suites.load("surgrec16").entry(entry).task
    return results.job_folder(out, model, entry, task, "finetune", seed)


def test_cells_are_the_numbers_of_the_predictions(out):
    found = build(out)
    rows = rows_of(found)
    folder = folder_of(out, "cholec80", "vista-A")
    one = rows["vista-A"].cells["cholec80:image_accuracy"]
    said = json.loads((folder / results.SCORE).read_text())["metrics"]["image_accuracy"]
    assert one.value == pytest.approx(accuracy(folder))
    assert [one.low, one.high] == said["ci95"] and one.marks == table.SAW
    two = rows["vista-B"].cells["cholec80:image_accuracy"]
    each = [accuracy(folder_of(out, "cholec80", "vista-B", seed)) for seed in (0, 1)]
    assert two.value == pytest.approx(np.mean(each)) and two.low < two.value < two.high
    assert two.high - two.low > max(each) - min(each) and not two.marks
    few = rows["vista-B"].cells["cataract21:image_accuracy"]
    assert few.low is None and few.high is None  # 4 videos
    assert "autolaparo:image_accuracy" not in rows["vista-A"].cells
    assert (rows["vista-A"].saw_test, rows["vista-B"].saw_test) == ("yes: 1 of 3", "no")
    keys = {column.key for column in found.columns[:19]}
    there = sum(len(keys & rows[name].cells.keys()) for name in ("vista-A", "vista-B"))
    assert there == 9 and "29 of 38 cells of models are missing" in " ".join(found.notes)


def test_averages_are_over_common_sets_which_are_named(out):
    found = build(out)
    a, b = (rows_of(found)[name] for name in ("vista-A", "vista-B"))
    for row in (a, b):
        of = {key.split(":")[0]: cell.value for key, cell in row.cells.items() if ":" in key}
        events = [of["lapgyn6_events_bleeding"], of["lapgyn6_events_needle_passing"]]
        laparoscopy = np.mean([of["cholec80"], np.mean(events)])
        assert row.cells["laparoscopy"].value == pytest.approx(laparoscopy)
        assert row.cells["cataract"].value == of["cataract21"]
        sets = [of["cholec80"], np.mean(events), of["cataract21"]]
        assert row.cells["mean"].value == pytest.approx(np.mean(sets))
        assert not {"macro", "worst", "robotic", "endoscopy"} & row.cells.keys()  # no such set
    (note,) = (note for note in found.notes if note.startswith("Averages"))
    assert "4 of 19 public columns" in note and "AutoLap" not in note and "Cat-21 (Acc@1)" in note
    vista = build(out / "vista", "surgvista13")
    row = rows_of(vista)["vista-A"]
    assert row.cells["main"].value == row.cells["cholect50:ap_ivt"].value
    label = own_rows(out / "vista" / "vista-A" / "cholect50" / "triplet" / "finetune" / "seed0")
    assert row.cells["cholect50:ap_ivt"].value == pytest.approx(mean_video_ap(label))
    assert "1 of 11 public columns" in " ".join(vista.notes)


def mean_video_ap(rows):
    """AP of each class and video that shows it, mean over videos and then over classes."""
    of_class = {}
    for video in np.unique(rows["video_id"]):
        at = rows["video_id"] == video
        for k in np.flatnonzero(rows.target[at].any(0)):
            ap = average_precision_score(rows.target[at, k], rows.probabilities[at, k])
            of_class.setdefault(k, []).append(ap)
    return np.mean([np.mean(values) for values in of_class.values()])


def test_floors_are_beside_the_models(out):
    rows = rows_of(build(out))
    key = "cholec80:image_accuracy"
    folder = folder_of(out, "cholec80", "vista-A")
    target = own_rows(folder).target
    assert rows["majority class of train"].cells[key].value == pytest.approx(np.mean(target == 0))
    best = np.bincount(target).max() / len(target)
    assert rows["best constant answer"].cells[key].value == pytest.approx(best)
    for model in ("vista-A", "vista-B"):
        seeds = (0, 1) if model == "vista-B" else (0,)
        each = [accuracy(folder_of(out, "cholec80", model, seed), "random") for seed in seeds]
        value = rows[f"{model}, random weights"].cells[key].value
        assert value == pytest.approx(np.mean(each))
    triplets = rows_of(build(out / "vista", "surgvista13"))["best constant answer"]
    shares = own_rows(out / "vista/vista-A/cholect50/triplet/finetune/seed0").target.mean(0)
    chance = shares[shares > 0].mean()  # the precision of equal scores
    assert triplets.cells["cholect50:ap_ivt"].value == pytest.approx(chance)


def test_cited_rows_stand_below_and_are_in_no_average(out, monkeypatch):
    found = build(out)
    kinds = [row.kind for row in found.rows]
    assert kinds == sorted(kinds, key=["model", "floor", "cited"].index) and "cited" in kinds
    row = rows_of(found)["VideoMAE [1, 2]"]
    assert row.cells["cholec80:image_accuracy"].value == pytest.approx(0.1465)
    assert row.cells["macro"].value == pytest.approx(0.3812)
    assert row.cells["macro"].marks == table.PRINTED and row.saw_test == "not said"
    notes = "\n".join(found.notes)
    assert "[1] SurgRec, Table 2; finetune." in notes and "+5.48, +4.86 and -2.89" in notes
    assert "† VideoMAE: not of Table 2, which gives 15.70 20.82 47.08 25.00" in notes
    monkeypatch.setattr(table.literature, "of_suite", lambda name: [])
    without = build(out)
    assert without.rows == [row for row in found.rows if row.kind != "cited"]
    assert not any("Cited" in note for note in without.notes)


def test_sets_that_show_the_same_operations_are_named(tmp_path):
    job(tmp_path, "surgclip10", "cholec80", "ours", protocol="zero_shot")
    job(tmp_path, "surgclip10", "cholec80_tool", "ours", protocol="zero_shot")
    notes = " ".join(build(tmp_path, "surgclip10").notes)
    assert "share test cases: Cholec80 and Cholec80 Tool (6)" in notes
    row = rows_of(build(tmp_path, "surgclip10"))["ours"]
    assert row.cells["Acc"].value == row.cells["cholec80:video_accuracy"].value
    assert row.cells["mAP"].value == row.cells["cholec80_tool:map"].value


def test_a_metric_and_a_protocol_can_be_chosen(out, tmp_path):
    found = build(out, metric="f1_pooled")
    assert {c.key.split(":")[1] for c in found.columns if ":" in c.key} == {"f1_pooled"}
    assert len([c for c in found.columns if ":" in c.key]) == 7  # sets with phases
    assert found.rows[0].cells["cholec80:f1_pooled"].low is not None
    both = tmp_path / "both"
    job(both, "surgrec16", "autolaparo", "ours")
    job(both, "surgrec16", "autolaparo", "ours", protocol="knn")
    suite = suites.load("surgrec16")
    done = results.read(both)
    assert [t.protocol for t in table.build(done, suite)] == ["finetune", "knn"]
    assert [t.protocol for t in table.build(done, suite, protocol="knn")] == ["knn"]


def test_markdown(out):
    lines = table_formats.markdown([build(out)]).split("\n")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    panels = [i for i, row in enumerate(rows) if row[0].strip() == "model"]
    assert len(panels) == 3  # 12 and 7 sets, then the averages
    for start, end in zip(panels, [*panels[1:], None], strict=True):
        assert len({len(row) for row in rows[start:end]}) == 1
        assert all(len(row) <= 2 + table_formats.WIDEST for row in rows[start:end])
    (ours, *_) = (row for row in rows if row[0].strip() == "vista-A")
    value = 100 * accuracy(folder_of(out, "cholec80", "vista-A"))
    assert ours[2 + 5].strip().startswith(f"{value:.2f}\\* [") and ours[2].strip() == "-"
    assert any(line.startswith("- Averages are over") for line in lines)


def test_latex(out):
    text = table_formats.latex([build(out), build(out / "vista", "surgvista13")])
    for part in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.S):
        width = len(re.match(r"\\begin\{tabular\}\{(\w+)\}", part)[1])
        bodies = part.split(r"\midrule")[1:]
        rows = [row for body in bodies for row in body.split("\\\\\n") if " & " in row]
        assert rows and {len(re.split(r"(?<!\\)&", row)) for row in rows} == {width}
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count("adjustbox}") / 2
    assert r"AP\_IVT" in text and r"19.09\dag{}" in text and "95 \\%" in text
    assert not re.search(r"\\\\\n\[", text)  # would be an option of the line before


def test_csv(out):
    found = build(out)
    lines = table_formats.csv([found]).splitlines()
    rows = {row["model"]: row for row in csv.DictReader(lines)}
    assert rows.keys() == rows_of(found).keys()
    for name in ("vista-A", "vista-B"):
        cell, row = rows_of(found)[name].cells["cholec80:image_accuracy"], rows[name]
        assert float(row["Cholec80 Acc@1"]) == cell.value
        assert float(row["Cholec80 Acc@1 low"]) == cell.low
    assert rows["vista-A"]["AutoLap. Acc@1"] == "" and rows["vista-A"]["protocol"] == "finetune"
    assert rows["vista-A"]["Cholec80 Acc@1 marks"] == "*"
    both = table_formats.csv([found, build(out, metric="f1")]).splitlines()
    (first, second) = (row for row in csv.DictReader(both) if row["model"] == "vista-A")
    assert first["Cholec80 Acc@1"] and not first["Cholec80 f1"]
    assert second["Cholec80 f1"] and not second["Cholec80 Acc@1"]


class Cells(HTMLParser):
    """Cells of each row of a table, counting columns that a cell spans."""

    def __init__(self):
        super().__init__()
        self.rows, self.links, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [value for name, value in attrs.items() if name in ("src", "href")]
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(attrs.get("colspan", 1))
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_one_page_that_needs_nothing_else(out):
    found = build(out)
    text = table_formats.html([found, build(out / "vista", "surgvista13")])
    parser = Cells()
    parser.feed(text)
    widths = [2 + len(found.columns)] * (2 + len(found.rows))
    assert parser.rows[: len(widths)] == widths and not parser.open
    assert all(link.startswith("#part") for link in parser.links)
    assert "://" not in text and len(text) < 200_000
    rows = [table.Row("<script>alert(1)</script>", "model", {})]
    odd = table_formats.html([table.Table("a & b", "knn", found.columns, rows, ["1 < 2"])])
    assert "<script" not in odd and "&lt;script&gt;" in odd and "a &amp; b" in odd


def test_the_command_writes_equal_files(out, tmp_path, capsys):
    arguments = ["table", str(out), "--suite", "surgrec16"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for name in ("t.md", "t.tex", "t.csv", "t.html"):
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
        assert str(out) not in (tmp_path / name).read_text()
    assert (tmp_path / "t.md").read_text() == printed
    assert (tmp_path / "t.tex").read_text().startswith("% surgrec16")
    text = tmp_path / "t.txt"
    assert main([*arguments, "--out", str(text), "--format", "csv"]) == 0
    assert text.read_text() == (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize(
    "name, more, match",
    [
        ("", ["--format", "csv"], "is a folder; give a file, as .*table.md"),
        ("t.docx", [], r"ends in \.docx; expected one of \.md, \.tex, \.csv, \.html"),
        ("tables", [], "ends in no suffix; expected .* or give --format"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_first(out, tmp_path, name, more, match):
    with pytest.raises(UserError, match=match):
        main(["table", str(out), "--suite", "surgrec16", "--out", str(tmp_path / name), *more])
    assert not list(tmp_path.iterdir())


def test_few_shot_learning_has_a_column_a_setting(out, tmp_path):
    folder = job(tmp_path, "surgclip10", "cholec80", "ours", protocol="few_shot")
    rows = predictions.read(folder / results.PREDICTIONS)
    rows = rows.where(np.isin(rows["model"], ["pretrained", "random"]))
    n, settings = len(rows), ["1 videos", "all videos"]
    columns = {name: np.tile(values, 4) for name, values in rows.columns.items()}
    columns |= {"setting": np.repeat(settings, 2 * n), "draw": np.tile(np.repeat([0, 1], n), 2)}
    file, tiled = folder / results.PREDICTIONS, np.tile(rows.probabilities, (4, 1))
    predictions.write(file, columns, tiled, np.tile(rows.target, 4), rows.classes)
    found = jobs.numbers(file, "phase", "strict", dataset="cholec80")
    predictions.write_json(folder / results.SCORE, found)
    made = build(tmp_path, "surgclip10")
    key = "cholec80:macro_f1_per_video {}"
    assert [c.key for c in made.columns[:2]] == [key.format(name) for name in settings]
    (ours, random) = (row for row in made.rows if row.kind != "cited")
    for row, model, setting in zip((ours, random), ("pretrained", "random"), settings, strict=True):
        own = rows.of(model)
        videos = [own["video_id"] == video for video in np.unique(own["video_id"])]
        f1 = [f1_score(own.target[at], own.pred[at], average="macro") for at in videos]
        assert row.cells[key.format(setting)].value == pytest.approx(np.mean(f1))


@pytest.mark.parametrize(
    "more, match",
    [
        (["--suite", "surgvista13"], "no finished job of suite surgvista13; there is surgrec16"),
        (["--suite", "surgrec16", "--tier", "release"], "tier release; there is strict"),
        (["--suite", "surgrec16", "--protocol", "knn"], "protocol 'knn'.*there is finetune"),
        (["--suite", "surgrec16", "--metric", "jacard"], "did you mean 'jaccard'"),
    ],
)
def test_mistakes_are_told(out, more, match):
    with pytest.raises(UserError, match=match):
        main(["table", str(out), *more])


def test_seeds_on_other_videos_are_refused(tmp_path):
    job(tmp_path, "surgrec16", "autolaparo", "ours")
    job(tmp_path, "surgrec16", "autolaparo", "ours", seed=1, videos=7)
    with pytest.raises(UserError, match="autolaparo.*different videos; run all seeds on one store"):
        build(tmp_path)


def test_models_on_other_labels_are_told(tmp_path):
    """As after a store was prepared again."""
    for model, videos in (("ours", 6), ("theirs", 7)):
        job(tmp_path, "surgrec16", "autolaparo", model, videos=videos)
        job(tmp_path, "surgrec16", "cholec80", model)
    note = "AutoLap.: not all models and seeds were tested on the same labels."
    assert build(tmp_path).notes.count(note) == 1


def test_curves_over_pretraining_data(out):
    built = build(out)
    sizes = curves.sizes_by_name(row.name for row in built.rows)
    found = curves.by_size(built, sizes)
    points = found["Cholec80 Acc@1"]["vista"]
    assert [point.x for point in points] == [86_344, 209_061]
    rows = rows_of(built)
    for point, name in zip(points, ("vista-A", "vista-B"), strict=True):
        cell = rows[name].cells["cholec80:image_accuracy"]
        assert (point.value, point.low, point.high) == (cell.value, cell.low, cell.high)
    assert len(found["AutoLap. Acc@1"]["vista"]) == 1
