"""What is in a store: counts, a contact sheet, label ribbons, histograms.

    OUT/counts.csv              videos, hours and frames by dataset and split
    OUT/contact_sheet.png       frames of each video, left to right in time
    OUT/labels_<task>.png       labels of each video over time
    OUT/histograms.png          duration, stored rate, resolution

OUT is STORE-inspect beside the store unless given; the store itself is never written to.
"""

import argparse
from pathlib import Path

import numpy as np

from data_prep.options import make_folder
from surgjax.benchmark import pictures
from surgjax.benchmark.ribbons import plot_label_ribbons, plot_presence
from surgjax.data.decode import UNREADABLE
from surgjax.data.decode import pictures as pictures_of
from surgjax.data.record import LEVELS
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError
from surgjax.files import csv_text, write_whole

SHEET_VIDEOS, SHEET_FRAMES, THUMB_HEIGHT = 40, 6, 96
RIBBON_VIDEOS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder written by `shards`")
    parser.add_argument("--out", default=None, help="folder for the pictures; STORE-inspect")


def main(args: argparse.Namespace) -> int:
    root = Path(args.store)
    store = open_store(root)
    out = Path(args.out) if args.out else root.resolve().with_name(f"{root.resolve().name}-inspect")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--out {out} lies in the store; its files must not change, choose another")
    print(inspect(store, out))
    return 0


def inspect(store: Store, out: Path) -> str:
    """Writes the pictures into `out`; returns the text to print."""
    make_folder(out)
    header, rows = counts(store)
    write_whole(out / "counts.csv", csv_text([header, *rows]))
    lines = [_columns(header, rows), ""]
    made = [pictures.save(contact_sheet(store), out / "contact_sheet.png")]
    for task, description in sorted(store.meta.get("tasks", {}).items()):
        labels = store.labels(task)
        lines.append(_label_counts(task, description, labels))
        made.append(
            pictures.save(ribbons(store, task, description, labels), out / f"labels_{task}.png")
        )
    if store.has_captions:
        lines += _caption_counts(store.captions())
    made.append(pictures.save(histograms(store), out / "histograms.png"))
    quarantined = int(store.meta.get("counts", {}).get("quarantined", 0))
    if quarantined:
        lines.append(f"{quarantined} videos in quarantine, see {store.path / 'quarantine.parquet'}")
    lines.append("pictures: " + ", ".join(str(path) for path in made))
    return "\n".join(lines)


def counts(store: Store) -> tuple[list[str], list[list]]:
    """(column names, rows): one row for each dataset, split column and part, and a total."""
    frames, hours = store.frames, seconds_of(store) / 3600
    dataset = store.videos["dataset"].astype(str)
    header = ["dataset", "split", "part", "videos", "cases", "hours", "frames"]
    case, rows = store.videos["case"].astype(str), []

    def row(names: list[str], mask: np.ndarray) -> list:
        number = [int(mask.sum()), len(set(case[mask])), round(float(hours[mask].sum()), 4)]
        return [*names, *number, int(frames[mask].sum())]

    for name in sorted(set(dataset)):
        own = dataset == name
        for column in store.split_columns or [None]:
            part = np.array([v or "-" for v in store.videos[column]]) if column else None
            for value in ("train", "val", "test", "-"):
                mask = own if part is None else own & (part == value)
                if mask.any() and (part is not None or value == "-"):
                    split = column.removeprefix("split_") if column else "-"
                    rows.append(row([name, split, value], mask))
    rows.append(row(["all", "", ""], np.ones(len(frames), bool)))
    return header, rows


def seconds_of(store: Store) -> np.ndarray:
    """Seconds that the stored frames of each video span, (videos,) float64."""
    fps = store.videos["stored_fps"].astype(np.float64)
    return store.frames / np.where(fps > 0, fps, np.nan)


def contact_sheet(store: Store):
    """Figure with SHEET_FRAMES frames of up to SHEET_VIDEOS videos, spread over store and time."""
    import cv2
    from matplotlib.figure import Figure

    videos = _spread(np.flatnonzero(store.frames > 0), SHEET_VIDEOS)
    lines, titles = [], []
    for video in videos:
        total = int(store.frames[video])
        wanted = ((np.arange(SHEET_FRAMES) + 0.5) / SHEET_FRAMES * total).astype(int)
        thumbs = []
        for frame in wanted:
            try:
                picture = next(pictures_of(store, video, [frame]))
            except UNREADABLE:  # a damaged frame is shown as a red box, not as a black one
                thumbs.append(np.full((THUMB_HEIGHT, THUMB_HEIGHT, 3), (200, 30, 30), np.uint8))
                continue
            width = max(1, round(picture.shape[1] * THUMB_HEIGHT / picture.shape[0]))
            thumbs.append(cv2.resize(picture, (width, THUMB_HEIGHT), interpolation=cv2.INTER_AREA))
        lines.append(np.hstack(thumbs))
        titles.append(store.video_id(video))
    width = max(line.shape[1] for line in lines)
    padded = [
        np.pad(n, ((0, 3), (0, width - n.shape[1]), (0, 0)), constant_values=255) for n in lines
    ]
    sheet = np.vstack(padded)
    figure = Figure(figsize=(sheet.shape[1] / 100 + 1, sheet.shape[0] / 100 + 0.3), layout="tight")
    axis = figure.subplots()
    axis.imshow(sheet, interpolation="nearest")
    middle = (np.arange(len(lines)) + 0.5) * (THUMB_HEIGHT + 3)
    axis.set_yticks(middle, titles, fontsize=8)
    axis.set_xticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    return figure


def ribbons(store: Store, task: str, description: dict, labels: dict[str, np.ndarray]):
    """Figure of a task's labels over time, up to RIBBON_VIDEOS videos."""
    values = labels["label"] if "label" in labels else labels["values"]
    shown = []
    for video in _spread(np.unique(labels["video"]), RIBBON_VIDEOS):
        at = np.flatnonzero(labels["video"] == video)
        at = at[np.argsort(labels["t_ms"][at], kind="stable")]
        parts = [store.videos[column][video] for column in store.split_columns[:1]]
        title = " ".join([store.video_id(video), *(part for part in parts if part)])
        shown.append((title, labels["t_ms"][at] / 1000, values[at]))
    draw = plot_label_ribbons if values.ndim == 1 else plot_presence
    return draw(shown, _classes(description, values), task)


def histograms(store: Store):
    """Figure of duration, stored rate and resolution over the videos."""
    fps, seconds = store.videos["stored_fps"].astype(np.float64), seconds_of(store)
    width, height = store.videos["width"], store.videos["height"]
    size = np.array([f"{w}x{h}" for w, h in zip(width, height, strict=True)])
    columns = {
        "duration": seconds / 60,
        "stored rate": np.array([f"{value:g}" for value in np.round(fps, 3)]),
        "resolution": size,
    }
    return pictures.plot_histograms(columns, {"duration": "minutes", "stored rate": "frames/s"})


def _classes(description: dict, values: np.ndarray) -> list[str]:
    count = values.shape[1] if values.ndim > 1 else int(values.max(initial=0)) + 1
    return list(description.get("classes") or [str(i) for i in range(count)])


def _label_counts(task: str, description: dict, labels: dict[str, np.ndarray]) -> str:
    values = labels["label"] if "label" in labels else labels["values"]
    names = _classes(description, values)
    if values.ndim == 1:
        number = np.bincount(values[values >= 0], minlength=len(names))
    else:
        number = (values >= 0.5).sum(0)
    shown = ", ".join(f"{name} {n}" for name, n in zip(names, number, strict=False))
    return f"{task} ({description['kind']}, {len(values)} labelled frames): {shown}"


def _caption_counts(captions: dict[str, np.ndarray]) -> list[str]:
    """A line a level: how many, how long, and the words of the first."""
    seconds = (captions["end_ms"] - captions["start_ms"]) / 1000
    paired = captions["surgical"] & captions["descriptive"]
    lines = []
    for level in LEVELS:
        own = captions["level"] == level
        if own.any():
            text = captions["text"][own]
            words = np.mean([len(caption.split()) for caption in text])
            lines.append(
                f"captions, {level}: {own.sum()} of {len(set(captions['video'][own]))} videos, "
                f"{(own & paired).sum()} surgical and descriptive, {np.mean(seconds[own]):.1f} s "
                f"and {words:.0f} words on average, as {text[0]!r}"
            )
    return lines


def _spread(values: np.ndarray, most: int) -> list[int]:
    """At most `most` of the values, evenly spread."""
    chosen = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [int(value) for value in values[chosen]]


def _columns(header: list[str], rows: list[list]) -> str:
    text = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in text
    )
