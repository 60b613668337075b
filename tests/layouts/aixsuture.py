"""AIxSuture: two packages, a student's two videos, three raters, a sheet with an empty row."""

from pathlib import Path

from layouts import text, video

FPS = 1
HEADER = (
    "STUDENT;GROUP;TIME;VIDEO;SUTURES;INVESTIGATOR;GLOBA_RATING_SCORE;OSATS_RESPECT;OSATS_MOTION;"
    "OSATS_INSTRUMENT;OSATS_SUTURE;OSATS_FLOW;OSATS_KNOWLEDGE;OSATS_PERFORMANCE;OSATS_FINAL_QUALITY"
)
LABELS = {
    ("X88U", "skill", 0): "novice",  # a mean of 15.67
    ("X88U", "skill", 1000): "novice",
    ("U88X", "skill", 0): "intermediate",
    ("A31H", "skill", 1000): "proficient",
    ("X88U", "osats", 1000): (2, 2, 2, 2, 2, 2, 2, 1.6666666269302368),
    ("A31H", "osats", 0): (3, 3, 3, 3, 3, 3, 3, 3),
    ("H13A", "skill", 0): None,  # no row
}
CASES = {"X88U": "U88X", "H13A": "A31H"}


def row(student: str, time: str, name: str, rater: str, items: list[int]) -> str:
    marks = ";".join(map(str, items))
    return f"{student};TUTOR-LED;{time};{name};4;{rater};{sum(items)};{marks}"


def make(root: Path) -> None:
    for path in ("Package 01/X88U", "Package 01/A31H", "Package 02/U88X", "Package 02/H13A"):
        video(root / f"{path}.mp4", seconds=2)
    rows = [
        row("1", "PRE", "X88U", rater, [2] * 7 + [last])
        for rater, last in zip("ABC", (2, 1, 2), strict=True)
    ]
    rows += [row("1", "POST", "U88X", rater, [2] * 8) for rater in "ABC"]
    rows += [
        row("2", "PRE", "A31H", rater, [mark] * 8)
        for rater, mark in zip("ABC", (2, 3, 4), strict=True)
    ]
    text(root / "OSATS.csv", [HEADER, *rows, ";" * 14])
