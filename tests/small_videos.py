"""Small recordings of every kind, made with PyAV, for the tests of data_prep."""

import csv
import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq

from data_prep import review
from data_prep.__main__ import main
from data_prep.qc import TABLES


def picture(i: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A grey ramp that brightens with `i`, with a green upper left corner."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (np.linspace(0, 80, width)[None, :, None] + 40 + (3 * i) % 120).astype(np.uint8)
    image[: height // 3, : width // 3] = (20, 220, 30)
    return image


def write_video(
    path: Path,
    frames: int = 50,
    *,
    width: int = 96,
    height: int = 64,
    codec: str = "libx264",
    rate: int = 25,
    pts: list[int] | None = None,
    rotation: int = 0,
    options: dict | None = None,
    images: list[np.ndarray] | None = None,
    audio: bool = False,
    container_options: dict | None = None,
    metadata: dict | None = None,
) -> Path:
    """A video of `picture`s, or of `images`; `pts` in units of 1/1000 s makes the rate variable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=1000 if pts else rate, options=options or {})
        stream.width, stream.height = width, height
        odd = width % 2 or height % 2
        formats = {"gif": "rgb8", "mjpeg": "yuvj420p"}
        stream.pix_fmt = formats.get(codec, "yuv444p" if odd else "yuv420p")
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16000) if audio else None
        for i in range(frames):
            image = images[i] if images else picture(i, width, height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = pts[i] if pts else i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            _add_tone(container, sound, frames / rate)
    return path


def write_audio(path: Path, seconds: float = 1.0) -> Path:
    with av.open(str(path), "w") as container:
        _add_tone(container, container.add_stream("aac", rate=16000), seconds)
    return path


def _add_tone(container, stream, seconds: float) -> None:
    wave = np.sin(np.arange(1024) / 9).astype(np.float32)[None]
    for i in range(int(seconds * 16000 / 1024)):
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 1024 * i
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_images(folder: Path, numbers: list[int], kind: str = "jpg", stem: str = "f_") -> Path:
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    for i, number in enumerate(numbers):
        assert cv2.imwrite(str(folder / f"{stem}{number:06d}.{kind}"), picture(i)[:, :, ::-1])
    return folder


def write_cholec(
    root: Path,
    name: str = "video01",
    frames: int = 60,
    *,
    phases: list[str] | None = None,
    phase_rows: int | None = None,
    tool_rows: int | None = None,
    video: bool = True,
) -> Path:
    """A Cholec80 video and its labels: a phase change at frame 30, the hook every other time."""
    phases = phases or ["Preparation", "CalotTriangleDissection"]
    if video:
        write_video(root / "videos" / f"{name}.mp4", frames)
    rows = [f"{i}\t{phases[int(i >= 30)]}" for i in range(phase_rows or frames)]
    _lines(root / "phase_annotations" / f"{name}-phase.txt", ["Frame\tPhase", *rows])
    tools = ["Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag"]
    count = -(-frames // 25) if tool_rows is None else tool_rows
    rows = [f"{25 * i}\t1\t0\t{i % 2}\t0\t0\t0\t0" for i in range(count)]
    _lines(root / "tool_annotations" / f"{name}-tool.txt", ["\t".join(["Frame", *tools]), *rows])
    return root


def _lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def shards(videos: Path, out: Path, *options: str, workers: int = 1) -> int:
    """`python -m data_prep shards` in this process."""
    common = ["shards", "--videos", str(videos), "--out", str(out), "--workers", str(workers)]
    return main([*common, *options])


def findings(qc: Path, videos: list[list], spans: list[list], boxes: list[list]) -> None:
    """A folder as `data_prep qc` leaves it; rows in the order of its columns."""
    qc.mkdir(parents=True, exist_ok=True)
    columns = {name: words.split() for name, words in TABLES.items()}
    digests = {}
    for name, given in {"videos": videos, "spans": spans, "boxes": boxes}.items():
        with (qc / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([columns[name], *given])
        data = (qc / f"{name}.csv").read_bytes()
        digests[f"{name}.csv"] = hashlib.sha256(data).hexdigest()
    meta = {"schema_version": 1, "source": "folder", "about": {}, "tables": digests}
    (qc / "qc.json").write_text(json.dumps(meta))
    reviews(qc)


def reviews(qc: Path, *rows: list) -> None:
    """review.csv; rows without reviewer and date."""
    with (qc / "review.csv").open("w", newline="") as file:
        lines = [[*row, "Dr A", "2026-05-31"] for row in rows]
        csv.writer(file, lineterminator="\n").writerows([review.COLUMNS, *lines])


def rows(store: Path, table: str) -> list[dict]:
    return pq.read_table(store / f"{table}.parquet").to_pylist()


def quarantined(store: Path) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in rows(store, "quarantine")}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
