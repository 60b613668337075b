"""Sections of a page about everything below a folder: runs, their evaluations, pictures."""

import html
from collections.abc import Mapping
from pathlib import Path

from surgjax.benchmark import (
    charts,
    comparison,
    curves,
    few_shot,
    pictures,
    predictions,
    prompt_sets,
    retrieval,
    statistics,
)
from surgjax.benchmark.page import Picture, Section, notes, table
from surgjax.errors import UserError
from surgjax.files import parse_json

SHOWN_ELSEWHERE = {"floors.png", "ribbons.png", "curves.png"}


def of_folder(folder: Path, out: Path) -> list[Section]:
    """Evaluations, curves of training, and other pictures, of a reconstruction the first and last.

    Args:
      out: folder of the pictures made for the page; what is in it is not shown.
    """
    return [*_evaluations(folder, out), *_training(folder), *_pictures(folder, out)]


def _evaluations(folder: Path, out: Path) -> list[Section]:
    sections = []
    for path in sorted(folder.rglob("metrics.json")):
        try:
            result = parse_json(path.read_text(encoding="utf-8"))
            title, body = result["evaluation"].replace("_", " "), _numbers(result)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            continue  # not one of ours
        saved = [(path.parent / f"{name}.png", name) for name in ("floors", "ribbons")]
        shown = [Picture(file, f"{title}: {name}") for file, name in saved if file.is_file()]
        shown += _drawn(path.parent, result, out / path.parent.relative_to(folder))
        sections.append(Section(title, body, tuple(shown)))
    return sections


def _numbers(result: Mapping) -> str:
    """HTML of what metrics.json says, by the kind of evaluation."""
    said = [str(result["protocol"])]
    if "groups" in result:
        text = retrieval.text_table(result)
        said.append(f"{result['pairs']} pairs of {len(result['videos'])} videos")
    elif "settings" in result:
        text = few_shot.text_table(result)
    elif "sets" in result:
        text = prompt_sets.text_table(result)
    elif "chance" in result:
        text = comparison.text_table(result)
    else:
        return _compared(result)
    if "clips" in result:
        said.append(f"{result['clips']} clips")
    said += [f"model saw test cases: {result['saw_test']}", f"step {result['step']}"]
    return f"<pre>{html.escape(text)}</pre>{notes(['; '.join(said)])}"


def _compared(result: Mapping) -> str:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows, lines = [], []
    for name, found in result["models"].items():
        f1 = found["macro_f1_per_video"]
        rows.append(
            [
                name.replace("_", " "),
                statistics.as_text(f1, found["by_video"].values()),
                cell(found["macro_f1_pooled"]),
                cell(found["accuracy_pooled"]),
                *(cell(value) for value in found["f1_pooled"].values()),
            ]
        )
    for name, row in result["differences"].items():
        if name.endswith("-random"):
            each = comparison.differences_by_video(result, name)
            lines.append(
                f"{name.replace('-', ' minus ')}: {statistics.as_text(row, each, '+')} macro-F1 "
                f"per video, paired, over {row['videos']} held-out videos"
            )
    lines.append(
        f"{result['protocol']}; {result['clips']} clips; model saw test cases: "
        f"{result['saw_test']}; step {result['step']}"
    )
    header = ["model", "macro-F1 per video [95 %], or (each video)", "pooled", "accuracy"]
    return table([*header, *(f"F1 {name}" for name in result["classes"])], rows) + notes(lines)


def _drawn(folder: Path, result: Mapping, out: Path) -> list[Picture]:
    """Pictures of an evaluation that it did not draw itself."""
    file, made = folder / "predictions.parquet", {}
    if "settings" in result:
        made["few_shot"] = ("few-shot curve", curves.plot_few_shot(result))
    elif "models" in result and file.is_file():
        try:
            rows = predictions.read(file)
        except UserError:
            return []
        made["per_class"] = ("each class with its interval", charts.plot_per_class(rows))
        if rows.target.ndim == 1:
            made["confusion"] = ("confusion matrices", charts.plot_confusion(rows))
            made["reliability"] = ("reliability diagram", charts.plot_reliability(rows))
    title = str(result["evaluation"]).replace("_", " ")
    return [
        Picture(pictures.save_with_data(*drawn, out / name)[0], f"{title}: {alt}")
        for name, (alt, drawn) in made.items()
    ]


def _training(folder: Path) -> list[Section]:
    sections = []
    for path in sorted(folder.rglob("metrics.jsonl")):
        try:
            figure = pictures.plot_curves(path)
        except UserError:
            continue
        picture = pictures.save(figure, path.parent / "curves.png")
        run = path.parent.name
        shown = (Picture(picture, f"curves of {run} against the step"),)
        sections.append(Section(f"Training: {run}", pictures=shown))
    return sections


def _pictures(folder: Path, out: Path) -> list[Section]:
    found = [
        path
        for path in sorted(folder.rglob("*.png"))
        if path.name not in SHOWN_ELSEWHERE and not path.is_relative_to(out)
    ]
    steps: dict[Path, list[Path]] = {}
    for path in found:
        if path.name.startswith("step_"):
            steps.setdefault(path.parent, []).append(path)
    chosen = [path for group in steps.values() for path in dict.fromkeys((group[-1], group[0]))]
    chosen += [path for path in found if not path.name.startswith("step_")]
    sections = []
    for path in chosen:
        name = f"{path.parent.name}/{path.stem}" if path.name.startswith("step_") else path.stem
        title = name.replace("_", " ")
        sections.append(Section(title, pictures=(Picture(path, title),)))
    return sections
