"""HeiChole: names that start alike, clips of operations that are there anyway, 25 and 50 fps."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {
    ("Hei-Chole1", "phase", 0): "Preparation",
    ("Hei-Chole1", "phase", 1000): "CalotTriangleDissection",  # frame 25
    ("Hei-Chole1", "phase", 2000): None,  # the label files end before
    ("Hei-Chole1", "instrument", 0): {"grasper", "coagulation"},
    ("Hei-Chole1", "instrument", 1000): {"stapler"},  # beside a shaft that is not read
    ("Hei-Chole1", "instrument", 2000): None,
    ("Hei-Chole1", "action", 0): {"hold"},
    ("Hei-Chole1", "action", 1000): set(),
    ("Hei-Chole1", "skill", 0): (5, 5, 4, 3, 1),
    ("Hei-Chole1", "skill", 2000): (5, 5, 4, 3, 1),
    ("Hei-Chole10", "phase", 0): "GallbladderRetraction",
    ("Hei-Chole10", "phase", 2000): "CleaningCoagulation",  # frame 100 of a video of 50 fps
    ("Hei-Chole10", "instrument", 2000): {"stapler"},
    ("Hei-Chole21", "phase", 1000): "ClippingCutting",
    ("Hei-Chole21", "skill", 1000): (1, 2, 3, 4, 5),
}
FIRST, LATER = ("1,0,1,0,0,0,0", 0), ("0,0,0,0,0,0,1", 1)  # categories, undefined shaft


def make(root: Path) -> None:
    video(root / "Videos/Full/Hei-Chole1.mp4")
    video(root / "Videos/Hei-Chole10.mp4", fps=50)
    video(root / "Hei-Chole21.mp4")
    for clip in ("Hei-Chole1_Calot", "Hei-Chole1_dissection", "Hei-Chole10_Dissection"):
        video(root / f"Videos/Skill/{clip}.mp4", seconds=1)
    video(root / "Hei-Chole10_Calot.mp4", seconds=1)
    _write(root, "Hei-Chole1", [int(frame >= 25) for frame in range(50)], change=25)
    _write(root, "Hei-Chole10", [6 - int(frame >= 100) for frame in range(150)], change=100)
    _write(root, "Hei-Chole21", [2] * 75, change=75)
    skill(root, "Hei-Chole1_Skill", "5,5,4,3,1")
    skill(root, "Hei-Chole10_Skill", "4,4,4,4,2")
    skill(root, "hei-chole21_skill", "1,2,3,4,5")  # in small letters, as in some copies
    skill(root, "Hei-Chole1_Calot_Skill", "3,4,4,5,3")
    detailed = root / "Annotations/Instrument/Hei-Chole1_Annotation_Instrument_Detailed.csv"
    text(detailed, [",".join(["0", *["1"] * 31])])


def skill(root: Path, name: str, *lines: str) -> None:
    text(root / f"Annotations/Skill/{name}.csv", lines)


def rows(root: Path, kind: str, name: str, values: list) -> None:
    """A table with a row a video frame."""
    lines = [f"{frame},{value}" for frame, value in enumerate(values)]
    text(root / f"Annotations/{kind}/{name}_Annotation_{kind}.csv", lines)


def instruments(categories: str, shaft: int) -> str:
    """The 21 columns, 13 of which are without use."""
    return f"{categories},{'0,' * 13}{shaft}"


def _write(root: Path, name: str, phases: list[int], change: int) -> None:
    rows(root, "Phase", name, phases)
    shown = [instruments(*(FIRST if i < change else LATER)) for i in range(len(phases))]
    rows(root, "Instrument", name, shown)
    rows(root, "Action", name, ["0,1,0,0" if i < change else "0,0,0,0" for i in range(len(phases))])
