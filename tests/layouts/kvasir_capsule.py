"""Kvasir-Capsule: rows of two lengths, a frame with two findings, videos without, the pictures."""

from pathlib import Path

from layouts import images, text, video

FPS = "native"
ONE, TWO = "04a78ef00c5245e0", "495f16498db34d3c"  # train and test
OTHER = "00112233445566aa"
HEADER = "filename;video_id;frame_number;finding_category;finding_class;x1;y1;x2;y2;x3;y3;x4;y4"
LABELS = {
    (ONE, "finding", 0): None,
    (ONE, "finding", 333): "Normal clean mucosa",  # frame 10
    (ONE, "finding", 367): "Normal clean mucosa",
    (ONE, "finding", 400): "Blood - fresh",  # a box
    (ONE, "finding", 433): None,  # two findings
    (TWO, "finding", 0): "Ileocecal valve",
    (OTHER, "finding", 0): None,
}


def row(name: str, frame: int, finding: str, box: str = ";;;;;;;") -> str:
    kind = "Anatomy" if finding == "Ileocecal valve" else "Luminal"
    return f"{name}_{frame}.jpg;{name};{frame};{kind};{finding}{box}"


def make(root: Path) -> None:
    for name in (ONE, TWO):
        video(root / "labelled_videos" / f"{name}.mp4", seconds=1, fps=30)
    video(root / "unlabelled_videos" / f"{OTHER}.mp4", seconds=1, fps=30)
    rows = [row(TWO, 0, "Ileocecal valve")]
    rows += [row(ONE, frame, "Normal clean mucosa") for frame in (11, 10, 13)]
    rows += [row(ONE, 12, "Blood - fresh", ";1;1;5;1;5;5;1;5"), row(ONE, 13, "Erosion")]
    rows.append(row("131368cc17e44240", 5, "Pylorus"))  # of a video that is not there
    text(root / "labelled_images" / "metadata.csv", [HEADER, *rows])
    images(root / "labelled_images" / "Blood - fresh", [f"{ONE}_12.jpg"])
