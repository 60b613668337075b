import csv
import dataclasses
import shutil
from argparse import ArgumentParser
from pathlib import Path

import av
import numpy as np
import pytest

from data_prep import operation, rendering, synthesize
from surgjax.errors import UserError


def read_tsv(path):
    with open(path, newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    return header, rows


def splits_of(root):
    with open(root / "splits.csv", newline="") as file:
        return list(csv.DictReader(file))


def decode(path, every=25):
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray(format="rgb24")
            for i, frame in enumerate(container.decode(video=0))
            if i % every == 0
        ]


def test_layout_is_that_of_cholec80(corpus):
    videos = sorted(path.stem for path in (corpus / "videos").iterdir())
    assert videos == [f"video{i:02d}" for i in range(1, 7)]
    for video in videos:
        with av.open(str(corpus / "videos" / f"{video}.mp4")) as container:
            stream = container.streams.video[0]
            assert len(container.streams) == 1
            assert (stream.codec.name, stream.frames, stream.average_rate) == ("h264", 300, 25)
            assert (stream.width, stream.height, stream.pix_fmt) == (320, 192, "yuv420p")
        header, rows = read_tsv(corpus / "phase_annotations" / f"{video}-phase.txt")
        assert header == ["Frame", "Phase"]
        assert [int(row[0]) for row in rows] == list(range(300))
        assert {row[1] for row in rows} == set(operation.PHASES)
        header, rows = read_tsv(corpus / "tool_annotations" / f"{video}-tool.txt")
        assert header == ["Frame", *operation.INSTRUMENTS]
        assert [int(row[0]) for row in rows] == list(range(0, 300, 25))
        assert {value for row in rows for value in row[1:]} == {"0", "1"}
    leftovers = [path for path in corpus.rglob("*") if path.suffix == ".part"]
    assert not leftovers


@pytest.mark.parametrize("videos, expected", [(6, (2, 2, 2)), (12, (6, 2, 4)), (24, (12, 4, 8))])
def test_every_split_has_both_hospitals(videos, expected):
    found = synthesize.splits(videos)
    assert tuple(found.count(part) for part in ("train", "val", "test")) == expected
    for part in ("train", "val", "test"):
        assert {i % 2 for i, value in enumerate(found) if value == part} == {0, 1}


def test_splits_file_names_every_video_and_its_hospital(corpus):
    rows = splits_of(corpus)
    assert [row["video"] for row in rows] == [f"video{i:02d}" for i in range(1, 7)]
    assert [row["split"] for row in rows] == synthesize.splits(6)
    for row in rows:
        corner = decode(corpus / "videos" / f"{row['video']}.mp4", every=100)[1][:12, :12]
        dark = float(corner.mean()) < 5
        assert dark == (row["hospital"] == "round")


def test_a_second_run_renders_only_what_is_missing_with_the_same_bytes(corpus, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    lost = copy / "videos" / "video02.mp4"
    lost.unlink()
    (copy / "videos" / "video02.mp4.part").write_bytes(b"left by a killed run")
    kept = {path: path.stat().st_mtime_ns for path in (copy / "videos").glob("*.mp4")}
    synthesize.synthesize(copy, videos=6, seconds=12, seed=0, workers=1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path in sorted(p.relative_to(corpus) for p in corpus.rglob("*") if p.is_file()):
        assert (corpus / path).read_bytes() == (copy / path).read_bytes(), path


def test_mean_colour_does_not_give_the_phase_away(corpus):
    colours, phases, videos = [], [], []
    for row in splits_of(corpus):
        name = row["video"]
        _, labels = read_tsv(corpus / "phase_annotations" / f"{name}-phase.txt")
        frames = decode(corpus / "videos" / f"{name}.mp4")
        colours += [frame.mean((0, 1)) for frame in frames]
        phases += [labels[25 * i][1] for i in range(len(frames))]
        videos += [name] * len(frames)
    colours, phases, videos = np.array(colours), np.array(phases), np.array(videos)
    right = 0
    for video in np.unique(videos):  # nearest neighbour in colour among the other videos
        own, others = videos == video, videos != video
        far = np.abs(colours[own][:, None] - colours[others][None]).sum(-1)
        right += int((phases[others][far.argmin(1)] == phases[own]).sum())
    assert right / len(phases) < 0.6


def test_an_instrument_labelled_visible_is_drawn_and_one_that_is_not_is_absent():
    def draw(plan):
        return list(rendering.frames(np.random.default_rng(5), plan, (160, 96)))

    plan = operation.plan_operation(np.random.default_rng(4), 150, 25, "full", 160 / 96)
    tool = plan.tools[1]
    assert tool.visible.any() and not tool.visible.all()
    away = dataclasses.replace(tool, tip=np.repeat(tool.pivot[None], 150, 0))
    without = dataclasses.replace(plan, tools=(plan.tools[0], away, plan.tools[2]))
    for index, (a, b) in enumerate(zip(draw(plan), draw(without), strict=True)):
        changed = np.abs(a.astype(int) - b).max(-1) > 12
        if tool.visible[index]:
            y, x = np.round((tool.tip[index] * 96 + [80, 48])[::-1]).astype(int)
            assert changed[max(0, y - 12) : y + 12, max(0, x - 12) : x + 12].any(), index
        elif np.hypot(*(tool.tip[index] - tool.pivot)) < 0.02:
            assert not changed.any(), index


def test_orders_differ_and_every_phase_occurs():
    orders = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        plan = operation.plan_operation(rng, 100, 25, operation.HOSPITALS[seed % 2], 1.6)
        assert set(plan.phase) == {0, 1, 2, 3}
        assert not plan.tools[2].visible[plan.phase == 0].any()  # no clipper in Preparation
        changes = np.flatnonzero(np.diff(plan.phase))
        orders.add(tuple(plan.phase[np.r_[0, changes + 1]]))
    assert len(orders) > 2


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"videos": 0}, "--videos"),
        ({"seconds": 1}, "--seconds"),
        ({"seed": -1}, "--seed"),
        ({"size": (321, 192)}, "even"),
    ],
)
def test_bad_numbers_are_named_and_nothing_is_written(tmp_path, settings, word):
    with pytest.raises(UserError, match=word):
        synthesize.synthesize(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_or_other_settings_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="no rendered corpus"):
        synthesize.synthesize(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]
    with pytest.raises(UserError, match="other seed .found 0, asked for 3"):
        synthesize.synthesize(corpus, videos=6, seconds=12, seed=3)


def test_verb_renders_and_says_what_is_next(tmp_path, capsys):
    parser = ArgumentParser()
    synthesize.add_arguments(parser)
    out = tmp_path / "out"
    args = parser.parse_args(
        ["--out", str(out), "--videos", "1", "--seconds", "4", "--workers", "1"]
    )
    assert synthesize.main(args) == 0
    assert "next: python -m data_prep shards" in capsys.readouterr().out
    assert [path.name for path in Path(out, "videos").iterdir()] == ["video01.mp4"]
