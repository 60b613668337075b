"""Every task of every suite on the miniature of its set: labelled clips, features, a probe or
prompts, predictions, score, table and verify, by the functions that `run` and its jobs call."""

import importlib
import shutil
import zlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import small_videos
from layouts import aixsuture, heichole, images, ldpolypvideo, multibypass140, text, video

from surgjax.benchmark import (
    jobs,
    predictions,
    results,
    run,
    score,
    suites,
    table,
    table_formats,
    verify,
)
from surgjax.benchmark.suites import Entry, Suite
from surgjax.benchmark.weights import Weights
from surgjax.data.plan import ClipShape
from surgjax.data.store import Store, open_store
from surgjax.evals import linear_probe, zero_shot
from surgjax.evals.model import Model, Space

FIRST_TIER = (
    "cholec80 m2cai16 autolaparo multibypass140 cholect50 endoscapes cholec80_cvs heichole grasp "
    "sar_rarp50 jigsaws aixsuture pmlr50 cataract101 cataracts cataract21 pitvis surgicalactions160"
).split()
# Tasks of the first tier that no suite has: dataset, task of `score`, label, metrics.
FURTHER = (
    ("heichole", "phase", "phase", ("image_accuracy", "jaccard")),
    ("heichole", "tool", "instrument", ("map",)),
    ("pitvis", "step", "step", ("image_accuracy", "f1")),
    ("pitvis", "tool", "instrument", ("map",)),
    ("jigsaws", "skill", "skill", ("image_accuracy",)),
)
MORE_PROTOCOLS = {"triplet": ("video_ap", "global_ap"), "skill": ("class", "spearman")}
CLIP, WIDTH = ClipShape(2, 1, 32), 16
EVALUATORS = {"linear_probe": linear_probe.Evaluator, "zero_shot": zero_shot.Evaluator}


def suite(name: str) -> Suite:
    """A suite without the private sets, which have no miniature."""
    if name != "further":
        whole = suites.load(name)
        public = tuple(entry for entry in whole.entries if not entry.own)
        return Suite(name, "strict", whole.paper, whole.averages, whole.protocols, public)
    entries = tuple(
        Entry(
            *(f"{dataset}_{label}", dataset, f"{dataset} {label}", "robotic", task, label),
            unit="video" if task == "skill" else "frame",
            split="strict",
            protocols=("linear_probe",),
            score_protocols=score.PROTOCOLS[task][:1],
            metrics={metric: metric for metric in metrics},
            main=metrics[0],
            source=dataset,
        )
        for dataset, task, label, metrics in FURTHER
    )
    return Suite(name, "strict", "", "main", ("linear_probe",), entries)


def test_the_first_tier_is_whole():
    entries = [
        entry
        for name in ("surgrec16", "surgvista13", "surgclip10", "further")
        for entry in suite(name).entries
    ]
    assert {entry.dataset for entry in entries} >= set(FIRST_TIER)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder for stores and results that several suites have."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.parametrize("name", ["surgrec16", "surgvista13", "surgclip10", "further"])
def test_every_entry_from_clips_to_a_table(name, tmp_path, shared):
    whole, out = suite(name), tmp_path / "results"
    kinds = ("linear_probe", "zero_shot") if name == "surgclip10" else ("linear_probe",)
    stores = {entry.dataset: store_of(entry.dataset, shared) for entry in whole.entries}
    weights = Weights(tmp_path, "0" * 64, used_cases=("another/case",))
    planned = jobs.plan(whole, [*stores.values()], out, "tiny", weights, protocols=kinds)
    assert len(planned) == len(kinds) * len(whole.entries)

    for job in planned:
        print(job.title)  # shown where one fails
        assert job.store.path == stores[job.entry.dataset].path and jobs.saw_test(job) == "no"
        evaluate(job, shared / "evaluated")
        line = run.collect(job)
        assert "model saw test cases: no" in line and "null" not in line
        for protocol in protocols(job):
            found = score_of(job, protocol)
            if protocol == job.entry.score_protocols[0]:
                assert set(job.entry.metrics) <= found["metrics"].keys()
            check(found, job)
        assert jobs.volume(job).clips > 0

    finished = results.read(out)
    tables = table.build(finished, whole)
    assert {one.protocol for one in tables} == set(kinds)
    for one in tables:
        known = {
            f"{job.entry}:{metric}"
            for job in finished
            if job.protocol == one.protocol
            for metric in whole.entry(job.entry).metrics
            if job.score["metrics"][metric]["value"] is not None
        }
        (row,) = (row for row in one.rows if row.kind == "model")
        assert {key for key in row.cells if ":" in key} == known and row.saw_test == "no"
        assert {key.partition(":")[0] for key in known} == {entry.id for entry in whole.entries}
        assert any(row.kind == "floor" for row in one.rows)
    for form in table.FORMATS:
        text_of = getattr(table_formats, form)(tables)
        assert "tiny" in text_of and "nan" not in text_of.lower()
    assert verify.main(Namespace(folder=out)) == 0


def test_clips_of_released_lists_are_those_of_their_set(tmp_path):
    """A model that saw operations in Cholec80 is known to have seen them in SurgRec's clips."""
    root, store = tmp_path / "lists", tmp_path / "surgrec_cholec80"
    for part, cases in {"train": (1, 2), "test": (41, 42)}.items():
        names = [f"cholec80/split_video/cholec80_{case:02d}_1.mp4" for case in cases]
        lines = [f"__DATA_ROOT__/{name} {label}" for label, name in enumerate(names)]
        text(root / f"{part}.csv", lines)
        for name in names:
            video(root / name, seconds=1)
    assert not small_videos.shards(root, store, "--dataset", "surgrec_csv", "--short-side", "48")
    whole, stores = suites.load("surgrec16", "release"), suites.open_stores([tmp_path])
    given = {"only": ["cholec80"], "protocols": ["linear_probe"]}
    for used, seen in (((), "no"), (("cholec80/video41",), "yes"), (("cholec80/video01",), "no")):
        weights = Weights(tmp_path, "0" * 64, used_cases=used)
        (job,) = jobs.plan(whole, stores, tmp_path / "results", f"saw {seen}", weights, **given)
        assert job.entry.unit == "video" and jobs.saw_test(job) == seen
    evaluate(job, tmp_path / "evaluated")
    assert "2 videos, model saw test cases: no" in run.collect(job)


def protocols(job: jobs.Planned) -> list[str]:
    """All that the predictions can be scored with."""
    entry = job.entry
    return list(dict.fromkeys((*entry.score_protocols, *MORE_PROTOCOLS.get(entry.task, ()))))


def score_of(job: jobs.Planned, protocol: str) -> dict:
    entry = job.entry
    return jobs.numbers(
        *(job.folder / results.PREDICTIONS, entry.task, protocol),
        dataset=entry.dataset,
        exclude=entry.exclude,
    )


def check(found: dict, job: jobs.Planned) -> None:
    """Metrics are shares; one is null where a class has none, or all answers are equal."""
    answers = predictions.read(job.folder / results.PREDICTIONS)
    answers = answers.of(answers.models[0])
    if "image_accuracy" in found["metrics"] and "relaxed" not in found["protocol"]:
        excluded = [answers.classes.index(name) for name in job.entry.exclude]
        kept = ~np.isin(answers.target, excluded)
        right = (answers.pred == answers.target)[kept].mean()
        assert found["metrics"]["image_accuracy"]["value"] == pytest.approx(right)
    for name, metric in found["metrics"].items():
        value, per_class = metric["value"], found["per_class"].values()
        if value is not None:
            assert (-1 if name == "spearman" else 0) <= value <= 1
        elif name == "spearman":
            assert len(set(answers["value"].tolist())) == 1
        else:
            assert None in [own[name.removesuffix("_pooled")] for own in per_class]


def evaluate(job: jobs.Planned, made: Path) -> None:
    """What the job's process does with its arguments, for a tiny encoder; suites share results."""
    mark = f"--config.evals.{job.evaluation}."
    asked = dict(
        argument.removeprefix(mark).split("=", 1)
        for argument in jobs.command(job)
        if argument.startswith(mark)
    )
    if "every_s" in asked:
        asked["every_s"] = float(asked["every_s"])
    out = job.folder / results.WORK / "eval" / job.evaluation
    key = "-".join([job.store.name, job.protocol, *map(str, list(asked.values())[1:])])
    if not (made / key).is_dir():
        space = Space(lambda clips: unit(features(clips)), embed_text)
        model = Model(
            features,
            CLIP,
            used_cases=["another/case"],
            space=space,
            about={"licence": "MIT", "pretrained_on": ["nothing"]},
        )
        EVALUATORS[job.protocol](**asked).run(model, out=made / key, step=0)
    shutil.copytree(made / key, out)


def features(clips: np.ndarray) -> np.ndarray:
    """A random layer on the mean colours of 4 by 4 places."""
    b, t, h, w, c = clips.shape
    places = clips.reshape(b, t, 4, h // 4, 4, w // 4, c).mean((1, 3, 5)).reshape(b, -1) / 255
    weights = np.random.default_rng(0).normal(size=(places.shape[1], WIDTH))
    return np.tanh(places @ weights).astype(np.float32)


def embed_text(sentences) -> np.ndarray:
    draws = [np.random.default_rng(zlib.crc32(s.encode())).normal(size=WIDTH) for s in sentences]
    return unit(np.array(draws))


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


# --- stores ------------------------------------------------------------------------------------


def store_of(dataset: str, folder: Path) -> Store:
    """The store of a set's miniature, with cases in the parts that the miniature leaves empty."""
    layout, root, out = (
        importlib.import_module(f"layouts.{dataset}"),
        folder / "root",
        folder / dataset,
    )
    if not out.is_dir():
        layout.make(root / dataset)
        MORE.get(dataset, lambda root: None)(root / dataset)
        arguments = ["--dataset", dataset, "--fps", str(layout.FPS), "--short-side", "48"]
        assert small_videos.shards(root / dataset, out, *arguments) == 0
    return open_store(out)


def append(path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def more_aixsuture(root) -> None:
    for number, (name, marks) in enumerate(
        {"B22K": (1, 5), "C33L": (5, 1), "D44M": (3, 5)}.items()
    ):
        for time, code, mark in zip(("PRE", "POST"), (name, name[::-1]), marks, strict=True):
            video(root / f"Package 03/{code}.mp4", seconds=2)
            row = aixsuture.row(str(3 + number), time, code, "A", [mark] * 8)
            append(root / "OSATS.csv", row)


def more_cataract101(root) -> None:
    video(root / "videos/case_817.mp4", seconds=2)
    append(root / "annotations.csv", "817;0;2", "817;20;3")
    append(root / "videos.csv", "817;50;25;1;1")


def more_cataract1k(root) -> None:
    file = "case_4687/case_4687_annotations_phases.csv"
    append(
        root / "Phase_recognition_dataset/annotations" / file, "4687,Viscoelastic,90,118,1.5,1.9"
    )


def more_cholec80_cvs(root) -> None:
    append(root / "cholec80-CVS.csv", "41,0,0,3,0,4,1,0,0,1")


def more_colonoscopic(root) -> None:
    for name in ("Adenoma/adenoma_18", "Hyperplasic/hyperplasic_05"):
        video(root / name / "videos/NBI.mp4", seconds=2)


def more_heichole(root) -> None:
    video(root / "Videos/Full/Hei-Chole2.mp4")
    heichole.rows(root, "Phase", "Hei-Chole2", [2] * 30 + [3] * 45)
    shown = [
        heichole.instruments(*(heichole.FIRST if i < 30 else heichole.LATER)) for i in range(75)
    ]
    heichole.rows(root, "Instrument", "Hei-Chole2", shown)


def more_jigsaws(root) -> None:
    for trial, skill in (("Suturing_F001", "I"), ("Suturing_E001", "E")):
        video(root / f"Suturing/video/{trial}_capture1.avi", 3, fps=30)
        text(root / f"Suturing/transcriptions/{trial}.txt", ["1 40 G2", "41 80 G1"])
        append(root / "Suturing/meta_file_Suturing.txt", f"{trial}\t{skill}\t20\t3\t3\t3\t4\t3\t4")


def more_lapgyn6_events(root) -> None:
    for clip in (
        "AbdominalAccess/Test/AbdominalAccess/case_701_AbdominalAccess_0",
        "Bleeding/Train/Bleeding/case_702_Bleeding_0",
        "Bleeding/Train/Rest/case_703_irrelevant_0",
        "Coag-Transection/Train/Rest/case_703_irrelevant_1",
        "NeedlePassing/Train/NeedlePassing/case_704_NeedlePassing_0",
    ):
        video(root / f"{clip}.mp4", seconds=2, fps=30)


def more_ldpolypvideo(root) -> None:
    images(root / "TrainValid/Images/11", [f"{i:04d}.jpg" for i in range(1, 5)])
    ldpolypvideo.annotate(root, "TrainValid/11", [["1", ldpolypvideo.BOX]] * 4)


def more_multibypass140(root) -> None:
    spans = (
        multibypass140.span(0, 1500, 0, "preparation"),
        multibypass140.span(1500, 3000, 3, "gastrojejunal_anastomosis"),
    )
    for centre, name in (("Bern", "BBP04"), ("Stras", "SBP04")):
        video(root / f"{centre}Bypass70/videos/{name}.mp4")
        centre = {"Stras": "strasbourg"}.get(centre, "bern")
        multibypass140.save(root, centre, name, [*spans], [])


MORE = {
    name.removeprefix("more_"): make
    for name, make in list(globals().items())
    if name[:5] == "more_"
}
