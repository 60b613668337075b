"""Every public dataset as it is downloaded: check, shards, labels, verify, on a miniature."""

import importlib
import pkgutil

import layouts
import pytest
import small_videos as make

from data_prep import manifest, sources
from data_prep.__main__ import main
from surgjax.errors import UserError

DATASETS = sorted(module.name for module in pkgutil.iter_modules(layouts.__path__))


@pytest.mark.parametrize("dataset", DATASETS)
def test_from_download_to_verified_store(dataset, tmp_path, capsys):
    layout, about = importlib.import_module(f"layouts.{dataset}"), sources.load(dataset).ABOUT
    root, out = tmp_path / "root", tmp_path / "store"
    layout.make(root)

    assert sources.detect(root) == dataset
    assert main(["check", "--root", str(root)]) == 0
    report = capsys.readouterr().out
    assert f"{dataset}, layout {about.layout} ({about.evidence})" in report

    arguments = ["--dataset", dataset, "--fps", str(layout.FPS), "--short-side", "48"]
    assert make.shards(root, out, *arguments) == 0
    videos = {row["video_id"]: row for row in make.rows(out, "videos")}
    assert not make.rows(out, "quarantine")
    tasks = sources.load(dataset).find(root).tasks
    for row in videos.values():
        case = getattr(layout, "CASES", {}).get(row["video_id"], row["video_id"])
        assert row["case"] == f"{dataset}/{case}" and row["licence"] == about.licence
        if tasks:  # what has no labels is for pretraining
            assert row["split_strict"] in ("train", "val", "test")

    stored = {}
    for task, of in tasks.items():
        for row in make.rows(out, f"labels/{task}"):
            if "label" in row:
                value = of["classes"][row["label"]]
            elif of["kind"] == "multi_label":
                value = {c for c, x in zip(of["classes"], row["values"], strict=True) if x}
            else:
                value = tuple(row["values"])
            stored[row["video_id"], task, row["t_ms"]] = value
    assert {key: stored.get(key) for key in layout.LABELS} == layout.LABELS
    assert {video_id for video_id, _, _ in layout.LABELS} <= videos.keys()

    arguments = ["verify", str(out), "--against-source", "50", "--root", str(root)]
    assert main(arguments) == 0, capsys.readouterr().out


@pytest.mark.parametrize("dataset", DATASETS)
def test_another_folder_is_told_apart(dataset, tmp_path):
    make.write_images(tmp_path / "holiday", [1, 2, 3])
    assert sources.detect(tmp_path) == sources.FOLDER
    with pytest.raises(UserError, match=f"no {dataset} videos in .*expected .*found holiday/"):
        sources.load(dataset).find(tmp_path)


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "video01.mp4").symlink_to(tmp_path / "videos" / "video01.mp4")
    found = sources.load("cholec80").find(tmp_path)
    assert not found.videos and found.refused[0].detail == "a link to nothing"


def test_every_source_has_a_miniature():
    others = {sources.FOLDER, "synthetic"}
    assert set(DATASETS) == set(sources.known()) - others
    with_splits = {path.stem for path in manifest.FOLDER.glob("*.yaml")}
    assert with_splits <= set(DATASETS)


def test_the_table_of_the_readme_is_the_programs(capsys):
    assert main(["datasets", "--markdown"]) == 0
    readme = (manifest.FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out in readme
    assert main(["datasets"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert set(DATASETS) <= set(printed)
