"""Sections of a page about predictions: a folder of results, or one file."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from surgjax.benchmark import (
    charts,
    curves,
    few_shot,
    heat,
    jobs,
    pictures,
    predictions,
    prompt_sets,
    ribbons,
    score,
    suites,
    table_formats,
)
from surgjax.benchmark import table as tables
from surgjax.benchmark.page import Picture, Section, notes, table
from surgjax.benchmark.results import Job

ROWS_A_VIDEO = 10  # from which a ribbon has something to show
NO_CLASSES = ("box", "spearman")  # a task and a protocol that score other columns


def of_results(found: Sequence[Job], out: Path, sizes: curves.Sizes | None) -> list[Section]:
    """Tables and heat tables of every suite, then numbers and pictures of every job.

    Args:
      out: folder of the pictures.
      sizes: of the models; None: of those named as SurgVISTA's settings.

    Raises:
      UserError: as `table.build`, or files that cannot be read.
    """
    sections = []
    for name, tier in dict.fromkeys((job.suite, job.tier) for job in found):
        suite = suites.load(name, tier)
        for built in tables.build(found, suite):
            at = out / "tables" / f"{name}_{tier}_{built.protocol}"
            shown = [_drawn(heat.plot_heat(built), at / "heat", f"Heat table: {built.title}")]
            known = sizes or curves.sizes_by_name(row.name for row in built.rows)
            panels = curves.by_size(built, known)
            shown += _if_possible(
                partial(curves.plot_scaling, panels, unit=known.unit, title=built.title),
                at / "scaling",
                f"Scaling curves: {built.title}",
            )
            body = table_formats.html_part(built, in_panels=True)
            sections.append(Section(built.title, body, tuple(shown)))
    groups: dict[tuple, list[Job]] = {}
    for job in found:
        groups.setdefault((job.model, job.entry, job.task, job.protocol), []).append(job)
    for model in dict.fromkeys(job.model for job in found):
        told = dict.fromkeys(
            f"licence: {job.licence or 'unknown'}; pretrained on: {job.pretrained_on or 'unknown'}"
            for job in found
            if job.model == model
        )
        sections.append(Section(model, notes(told)))
        for (name, entry, task, protocol), seeds in groups.items():
            if name == model:
                title = f"{model}: {entry}, {task}, {protocol}"
                print(title, flush=True)
                sections.append(_job(title, seeds, out / name / entry / task / protocol))
    return sections


def of_predictions(file: Path, task: str, protocol: str, out: Path) -> list[Section]:
    """Numbers and pictures of one file, also where the model was trained on its cases.

    Raises:
      UserError: as `score.score`.
    """
    rows = predictions.read(file)
    dataset = str(rows["dataset"][0]) if "dataset" in rows and len(rows) else None
    if "draw" in rows:
        result = jobs.numbers(file, task, protocol, dataset=dataset, allow_seen=True)
    else:
        asked = {"dataset": dataset, "setting": _main_set(rows) if "setting" in rows else None}
        result = score.score(file, task, protocol, **asked, allow_seen=True)
    body = numbers({"": result})
    title = f"{file.parent.name}/{file.name}: {task}, {protocol}"
    return [Section(title, body, tuple(draw(file, task, protocol, out)))]


def numbers(by_seed: Mapping[str, Mapping]) -> str:
    """HTML of what `score` found, a column for each seed; floors below a rule."""
    first = next(iter(by_seed.values()))
    header = ["", *(f"{seed} value [95 %]".strip() for seed in by_seed)]

    def cells(part: str, name: str) -> list[str]:
        return [_value(result[part].get(name)) for result in by_seed.values()]

    rows = [[name.replace("_", " "), *cells("metrics", name)] for name in first["metrics"]]
    beside = [[f"({name.replace('_', ' ')})", *cells("floors", name)] for name in first["floors"]]
    said = ", ".join(dict.fromkeys(result["saw_test"] for result in by_seed.values()))
    line = f"{first['task']}, {first['protocol']}, {first['videos']} videos"
    return table(header, rows, beside) + notes([f"{line}; model saw test cases: {said}"])


def draw(
    file: Path, task: str, protocol: str, out: Path, exclude: Sequence[str] = ()
) -> list[Picture]:
    """Every picture that suits the predictions, as files in `out`.

    Args:
      exclude: classes that are not scored.

    Raises:
      UserError: as `predictions.read`.
    """
    if task in NO_CLASSES or protocol in NO_CLASSES:
        return []
    rows = predictions.read(file)
    what = pictures.heading(rows.of(rows.models[0]))
    if "draw" in rows and "setting" in rows:
        result = few_shot.score(file) | {"saw_test": rows.saw_test}
        return [_drawn(curves.plot_few_shot(result), out / "few_shot", f"Few-shot curve: {what}")]
    if "setting" in rows:
        rows = rows.where(rows["setting"] == _main_set(rows))
    rows = score.without(rows.of(rows.models[0]), exclude, file)
    wanted = {"per_class": (charts.plot_per_class, "Each class with its interval")}
    if rows.target.ndim == 1:
        wanted = {
            "ribbons": (ribbons.plot_ribbons, "Truth, prediction, error, confidence over time"),
            "confusion": (charts.plot_confusion, "Confusion matrices"),
            **wanted,
            "reliability": (charts.plot_reliability, "Reliability diagram"),
        }
        if len(rows) < ROWS_A_VIDEO * len(set(rows["video_id"].tolist())):
            del wanted["ribbons"]
    elif task == "triplet":
        plot = partial(charts.plot_triplets, protocol=protocol)
        wanted["triplets"] = (plot, "Average precision of instruments with verbs and targets")
    made = []
    for name, (plot, title) in wanted.items():
        made += _if_possible(partial(plot, rows), out / name, f"{title}: {what}")
    return made


def _job(title: str, seeds: Sequence[Job], out: Path) -> Section:
    """Numbers of all seeds, pictures of the first."""
    first = seeds[0]
    entry = suites.load(first.suite, first.tier).entry(first.entry)
    exclude = entry.exclude if entry else ()
    at = out / f"seed{first.seed}"
    shown = draw(first.predictions, first.task, first.score_protocol, at, exclude)
    body = numbers({f"seed {job.seed}": job.score for job in seeds})
    if len(seeds) > 1:
        body += notes([f"pictures: seed {first.seed}"])
    return Section(title, body, tuple(shown), level=3)


def _main_set(rows: predictions.Predictions) -> str:
    return prompt_sets.main_set(list(dict.fromkeys(rows["setting"].tolist())))


def _drawn(made: tuple, path: Path, alt: str) -> Picture:
    return Picture(pictures.save_with_data(*made, path)[0], alt)


def _if_possible(plot: Callable[[], tuple], path: Path, alt: str) -> list[Picture]:
    """Nothing where the numbers do not suit the picture."""
    try:
        return [_drawn(plot(), path, alt)]
    except ValueError:
        return []


def _value(found) -> str:
    if isinstance(found, Mapping):
        between = found.get("ci95")
        text = f" [{between[0]:.3f}, {between[1]:.3f}]" if between else " (too few videos)"
        return _value(found["value"]) + (text if found["value"] is not None else "")
    if isinstance(found, bool):
        return "yes" if found else "no"
    return "-" if found is None else f"{found:.3f}" if isinstance(found, float) else str(found)
