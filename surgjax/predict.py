"""Phases of whole recordings, or whatever a model was trained to tell.

    python -m surgjax.predict --model=MODEL --video=case.mp4 --out=DIR

MODEL is a run of ours with a trained head, a folder of a public video classifier, or, with
--prompts FILE, a run or public model with a text tower. --video may be given again and may be a
folder of files.

Of each recording DIR gets NAME.csv and NAME.parquet (a row for each time: the most probable class,
or those present, and the probability of each), NAME.png and NAME.svg (the same over time) and
NAME.json (minutes and segments of each class; which model, under which licence, trained on what).
With --features it also gets features.parquet, a vector for each time, and of an encoder without a
head that alone.

A recording is read once from beginning to end, and only the frames of one clip are held. After a
stop the same command goes on with the first recording that is not finished.
"""

import argparse
import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data_prep import guarded
from data_prep.media import VIDEO_SUFFIXES, Unreadable, suffix
from data_prep.video import probe
from surgjax.benchmark import pictures, vectors
from surgjax.benchmark.segments import runs
from surgjax.errors import Stopped, UserError, run
from surgjax.files import csv_text, whole, write_whole
from surgjax.preemption import StopSignal
from surgjax.recogniser import Answer, Recogniser, open_recogniser
from surgjax.recording import Sampling, recording_clips

FEATURES = "features"  # folder of the recordings' vectors, and with .parquet the file of all
LOG_EVERY = 10.0  # seconds
LONG = 600  # seconds from which a picture counts minutes
NAMED = 3  # recordings in a message
PRESENT = 0.5  # probability from which one of several classes counts as there


@dataclass(frozen=True)
class Recognised:
    """What was recognised in one recording, in order of time.

    Attributes:
      t_ms: milliseconds from its first frame.
      probabilities: float32.
      vectors: float32; None where not asked for.
    """

    t_ms: Int[np.ndarray, "n"]
    probabilities: Float[np.ndarray, "n c"]
    vectors: Float[np.ndarray, "n d"] | None = None


@dataclass(frozen=True)
class Segment:
    """A run of answers that have one class: rows [first, end) and when it is seen."""

    index: int  # of the class
    first: int
    end: int
    start_ms: int
    end_ms: int


def main(arguments: list[str] | None = None) -> int:
    """Returns 0; raises UserError, also where a recording could not be read, and Stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m surgjax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, type=Path, help="run, or folder of a public model")
    add("--video", required=True, type=Path, action="append", help="file, or folder of files")
    add("--out", required=True, type=Path, help="folder for everything")
    add("--fps", type=float, default=1.0, help="answers a second (default 1)")
    how = parser.add_mutually_exclusive_group()
    online = {"dest": "anchor", "action": "store_const", "const": "last", "default": "last"}
    how.add_argument("--online", **online, help="clips end at their time (default)")
    offline = online | {"const": "middle"}
    how.add_argument("--offline", **offline, help="clips lie around their time")
    add("--task", default="", help="of a head that has several")
    add("--prompts", type=Path, help="csv class_id,class,prompt, for a model with a text tower")
    add("--features", action="store_true", help="write features.parquet too")
    add("--rate", type=float, help="frames a second inside a clip (default: as in training)")
    add("--frames", type=int, help="of a clip, for image encoders; 1 is the frame alone")
    add("--batch-size", type=int, default=16, help="clips at once (default 16)")
    given = parser.parse_args(arguments)
    if given.batch_size < 1:
        raise UserError(f"--batch-size is {given.batch_size}; expected at least 1")
    videos = find_videos(given.video)
    chosen = {name: getattr(given, name) for name in ("frames", "prompts", "task")}
    model = open_recogniser(given.model, **chosen, has_vectors=given.features)
    rate = given.fps if model.frames == 1 else given.rate or model.rate
    if rate is None:
        raise UserError(
            f"{given.model} does not say how many frames a second its clips have; give --rate, the "
            f"rate of the frames it was trained on divided by their stride, as 25 / 4 = 6.25"
        )
    sampling = Sampling(model.frames, model.size, rate, given.fps, given.anchor)
    print(
        f"{model.about['model']}: {model.frames} frames a clip, {rate:g} a second, "
        f"{'ending at' if given.anchor == 'last' else 'around'} their time",
        flush=True,
    )
    if model.anchor not in (None, given.anchor):
        print(f"note: it was trained on clips with the label on their {model.anchor} frame")
    predict(model, videos, given.out, sampling, batch_size=given.batch_size)
    return 0


def predict(
    model: Recogniser,
    videos: Mapping[str, Path],
    out: Path,
    sampling: Sampling,
    *,
    batch_size: int = 16,
) -> None:
    """Write the files of every recording that is not finished; see the module.

    Args:
      videos: name -> file, as `find_videos` gives them.

    Raises:
      UserError: recordings that cannot be read, once the others are done; or `out` holds those of
        another model, file or way to cut clips.
      Stopped: after SIGTERM or Ctrl-C; finished recordings stay.
    """
    failed, progress = [], _Progress()
    with StopSignal() as signal:
        for name, path in videos.items():
            settings = {"model": dict(model.about), "clips": asdict(sampling)}
            try:
                settings["bytes"] = path.stat().st_size
                if _is_finished(out, name, settings, model.has_vectors):
                    print(f"{name}: finished before", flush=True)
                    continue
                progress.begin(name, guarded.result(probe, path).seconds)
                found = recognise(model, path, sampling, batch_size, progress, signal)
            except (Unreadable, OSError) as error:
                why = ": ".join(str(word) for word in error.args[:2] if word)
                print(f"{name}: cannot be read: {why}", flush=True)
                failed.append(name)
                continue
            _write(out, name, model, found, settings)
            progress.end()
    if model.has_vectors and len(failed) < len(videos):
        _join_features(out)
    if failed:
        shown = ", ".join(failed[:NAMED]) + (", ..." if len(failed) > NAMED else "")
        raise UserError(
            f"{len(failed)} of {len(videos)} recordings cannot be read: {shown}; the others are in "
            f"{out}; `python -m data_prep check --root FOLDER` says more of them"
        )


def recognise(
    model: Recogniser,
    path: Path,
    sampling: Sampling,
    batch_size: int,
    progress: "_Progress",
    signal: StopSignal,
) -> Recognised:
    """What the model says of one recording; one batch is read while it works on the one before.

    Raises:
      Unreadable: as `recording_clips`.
      Stopped: a signal came.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    before: tuple[Answer, list[int]] | None = None

    def take(answer: Answer, t_ms: list[int]) -> None:
        made = (values[: len(t_ms)] for values in answer() if values is not None)
        parts.append((np.array(t_ms, np.int64), *made))
        progress.add(t_ms[-1])

    threads = len(os.sched_getaffinity(0))
    with contextlib.closing(recording_clips(path, sampling, threads=threads)) as clips:
        while some := list(itertools.islice(clips, batch_size)):
            if signal.code:
                raise Stopped("stopped; the same command goes on from here", signal.code)
            video = np.stack([clip for _, clip in some])
            repeated = np.minimum(np.arange(batch_size), len(some) - 1)  # batches of one size
            begun = model.begin(video[repeated])
            if before:
                take(*before)
            before = begun, [t_ms for t_ms, _ in some]
    take(*before)
    return Recognised(*map(np.concatenate, zip(*parts, strict=True)))


def find_videos(paths: Iterable[Path]) -> dict[str, Path]:
    """Name without suffix -> file, of files and of the files in folders, in order of names.

    Raises:
      UserError: nothing there, a folder without videos, or two files whose results have one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; expected a video or a folder of videos")
        files = [path]
        if path.is_dir():
            files = [f for f in path.iterdir() if suffix(f.name) in VIDEO_SUFFIXES and f.is_file()]
            files = [file for file in files if file.name[0] != "."]
        if not files:
            raise UserError(f"{path} holds no videos; expected files such as case.mp4")
        for file in files:
            if found.setdefault(file.stem, file) != file or file.stem == FEATURES:
                raise UserError(
                    f"the results of {file} would overwrite others of that name; rename it, or "
                    f"give it a command and an --out of its own"
                )
    return dict(sorted(found.items()))


def segments(index: Int[np.ndarray, "n"], t_ms: Int[np.ndarray, "n"], step: int) -> list[Segment]:
    """Runs of equal numbers in order of time; the last lasts `step` milliseconds longer."""
    times = [*t_ms.tolist(), int(t_ms[-1]) + step]
    return [
        Segment(value, first, end, times[first], times[end])
        for value, first, end in zip(*(part.tolist() for part in runs(index)), strict=True)
    ]


def summary(model: Recogniser, found: Recognised) -> dict[str, Any]:
    """Time in all and of each class, segments and mean confidence, as in NAME.json."""
    probabilities, t_ms, step = found.probabilities, found.t_ms, _step(found.t_ms)
    about: dict[str, Any] = {
        "minutes": round((int(t_ms[-1]) + step) / 60_000, 3),
        "kind": model.kind,
    }
    if not model.classes:
        return about
    lasting = np.diff(t_ms, append=t_ms[-1] + step) @ _present(model, probabilities)
    about["classes"] = {
        name: {"minutes": round(ms / 60_000, 3), "share": round(ms / (t_ms[-1] + step), 4)}
        for name, ms in zip(model.classes, lasting.tolist(), strict=True)
    }
    about["segments"] = [
        {
            "class": model.classes[one.index],
            "start_ms": one.start_ms,
            "end_ms": one.end_ms,
            "confidence": round(float(probabilities[one.first : one.end, one.index].mean()), 4),
        }
        for one in _segments(model, found)
    ]
    if model.kind == "one_of_n":
        about["mean_confidence"] = round(float(probabilities.max(axis=1).mean()), 4)
    return about


def plot_recording(title: str, model: Recogniser, found: Recognised) -> Figure:
    """Classes over time as coloured stripes, and below their confidence: of one of n classes the
    highest probability, of several the probability of each."""
    scale, unit = (60_000, "minutes") if found.t_ms[-1] >= 1000 * LONG else (1000, "seconds")
    spans = _segments(model, found)
    one = model.kind == "one_of_n"
    shown = sorted({span.index for span in spans}) if one else range(len(model.classes))
    rows = {index: 0 if one else len(model.classes) - 1 - index for index in shown}
    height = 0.7 if one else 0.25 * len(rows)
    figure = Figure(figsize=(9, 2.4 + height), layout="constrained")
    ribbon, curve = figure.subplots(2, sharex=True, height_ratios=[height, 1.2])
    for row in set(rows.values()):
        own = [span for span in spans if rows[span.index] == row]  # of all classes, in time's order
        bars = [(s.start_ms / scale, (s.end_ms - s.start_ms) / scale) for s in own]
        shades = [pictures.colour(span.index) for span in own]
        ribbon.broken_barh(bars, (row, 0.9), facecolors=shades, snap=False)
    ribbon.set_ylim(-0.05, max(rows.values()) + 0.95)
    names = {rows[i] + 0.45: pictures.plain(model.classes[i], 24) for i in shown}
    ribbon.set_yticks(*([], []) if one else (list(names), list(names.values())), fontsize=7)
    ends = [*found.t_ms, found.t_ms[-1] + _step(found.t_ms)]
    times = np.array(ends) / scale
    curves = {0: found.probabilities.max(axis=1)} if one else dict(enumerate(found.probabilities.T))
    for index, values in curves.items():
        shade = pictures.GREY if one else pictures.colour(index)
        curve.step(times, np.r_[values, values[-1]], where="post", color=shade, linewidth=1)
    curve.set_ylim(0, 1.02)
    curve.set_xlim(times[0], times[-1])
    curve.set_ylabel("confidence" if one else "probability", fontsize=7)
    curve.set_xlabel(unit, fontsize=7)
    for axis in (ribbon, curve):
        axis.tick_params(labelsize=7)
    about = model.about
    pictures.entitle(figure, title, f"{about['model']}, licence {about['licence']}")
    if one:
        handles = [
            Patch(color=pictures.colour(i), label=pictures.plain(model.classes[i], 40))
            for i in shown
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _present(model: Recogniser, probabilities: np.ndarray) -> np.ndarray:
    """bool (n, c): the most probable class, of several all that are probable enough."""
    if model.kind == "one_of_n":
        return probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
    return probabilities >= PRESENT


def _segments(model: Recogniser, found: Recognised) -> list[Segment]:
    """In order of time; of several classes, class by class where they are present."""
    there, step = _present(model, found.probabilities), _step(found.t_ms)
    if model.kind == "one_of_n":
        return segments(there.argmax(axis=1), found.t_ms, step)
    runs = (
        segments(np.where(column, index, -1), found.t_ms, step)
        for index, column in enumerate(there.T)
    )
    return [one for of_class in runs for one in of_class if one.index >= 0]


def _step(t_ms: np.ndarray) -> int:
    """What the last answer stands for: as long as answers usually do, milliseconds."""
    return round(float(np.median(np.diff(t_ms)))) if len(t_ms) > 1 else 1000


def _write(
    out: Path, name: str, model: Recogniser, found: Recognised, settings: Mapping[str, Any]
) -> None:
    """The files of one recording; NAME.json last, for it says that the others are there."""
    if model.classes:
        there, names = _present(model, found.probabilities), np.array(model.classes)
        columns: dict[str, list] = {"t_ms": found.t_ms.tolist()}
        if model.kind == "one_of_n":
            columns["phase"] = names[there.argmax(axis=1)].tolist()
            columns["confidence"] = found.probabilities.max(axis=1)
        else:
            columns["present"] = [";".join(names[row]) for row in there]
        columns |= dict(zip(model.classes, found.probabilities.T, strict=True))
        with whole(out / f"{name}.parquet") as part:
            pq.write_table(pa.table(columns), part)
        rows = zip(*columns.values(), strict=True)
        text = [[f"{x:.6f}" if isinstance(x, np.floating) else x for x in row] for row in rows]
        write_whole(out / f"{name}.csv", csv_text([list(columns), *text]))
        figure = plot_recording(name, model, found)
        for kind in (".png", ".svg"):
            pictures.save(figure, out / f"{name}{kind}")
    if found.vectors is not None:
        about = dict(model.about) | {"used_cases": model.used_cases}
        times = np.repeat(name, len(found.t_ms)), found.t_ms
        vectors.write(out / FEATURES / f"{name}.parquet", *times, found.vectors, about)
    about = {"video": name, **summary(model, found), **settings}
    write_whole(out / f"{name}.json", json.dumps(about, indent=1) + "\n")


def _is_finished(out: Path, name: str, settings: Mapping[str, Any], has_vectors: bool) -> bool:
    """Raises UserError where the results that are there were made otherwise."""
    file = out / f"{name}.json"
    if not file.is_file():
        return False
    before = json.loads(file.read_text(encoding="utf-8"))
    for key, now in json.loads(json.dumps(settings)).items():
        if before.get(key) != now:
            raise UserError(
                f"{file} was made with {key} {before.get(key)}, now it is {now}; give another "
                f"--out, or delete that file to make its results anew"
            )
    return not has_vectors or (out / FEATURES / f"{name}.parquet").is_file()


def _join_features(out: Path) -> None:
    """features.parquet, the vectors of all recordings in `out`."""
    files = sorted((out / FEATURES).glob("[!.]*.parquet"))
    with (
        whole(out / f"{FEATURES}.parquet") as part,
        pq.ParquetWriter(part, pq.read_schema(files[0])) as writer,
    ):
        for file in files:
            writer.write_table(pq.read_table(file))


class _Progress:
    """Lines about how far a recording is, and how fast against its own time."""

    def __init__(self):
        self._is_first = True

    def begin(self, name: str, seconds: float) -> None:
        self._name, self._seconds, self._done = name, seconds, 0.0
        self._said = self._began = time.monotonic()
        self._from = 0.0

    def add(self, t_ms: int) -> None:
        """A batch is done, up to a time in the recording."""
        self._done, now = t_ms / 1000, time.monotonic()
        if self._is_first:  # it compiled
            self._is_first, self._began, self._from = False, now, self._done
        elif now - self._said >= LOG_EVERY:
            self._said = now
            whole_time = _in_words(max(self._seconds, self._done))
            print(f"{self._name}: {self._done / 60:.0f} of {whole_time}{self._speed()}", flush=True)

    def end(self) -> None:
        print(f"{self._name}: {_in_words(self._seconds)}{self._speed()}", flush=True)

    def _speed(self) -> str:
        seconds = self._done - self._from
        if seconds <= 0:
            return ""
        return f", {seconds / max(time.monotonic() - self._began, 1e-9):.1f}x real time"


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


if __name__ == "__main__":
    run(main)
