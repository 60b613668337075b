"""HeiChole: names that start alike, clips of operations that are there anyway, 25 and 50 fps."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {
    ("Hei-Chole1", "phase", 0): "Preparation",
    ("Hei-Chole1", "phase", 1000): "CalotTriangleDissection",  # frame 25
    ("Hei-Chole1", "phase", 2000): None,  # the label file ends before
    ("Hei-Chole10", "phase", 0): "GallbladderRetraction",
    ("Hei-Chole10", "phase", 2000): "CleaningCoagulation",  # frame 100 of a video of 50 fps
    ("Hei-Chole21", "phase", 1000): "ClippingCutting",
}


def make(root: Path) -> None:
    video(root / "Videos/Hei-Chole1.mp4")
    video(root / "Videos/Hei-Chole10.mp4", fps=50)
    video(root / "Hei-Chole21.mp4")
    for clip in ("Hei-Chole1_Calot", "Hei-Chole1_dissection", "Hei-Chole10_Dissection"):
        video(root / f"Videos/{clip}.mp4", seconds=1)
    _write(root, "Hei-Chole1", [int(frame >= 25) for frame in range(50)])
    _write(root, "Hei-Chole10", [6 - int(frame >= 100) for frame in range(150)])
    _write(root, "Hei-Chole21", [2] * 75)
    text(root / "Annotations/Instrument/Hei-Chole1_Annotation_Instrument.csv", ["0,1,0,0"])
    text(root / "Annotations/Skill/Hei-Chole1_Calot_Skill.csv", ["3,4,4,5,3"])


def _write(root: Path, name: str, phases: list[int]) -> None:
    lines = [f"{frame},{phase}" for frame, phase in enumerate(phases)]
    text(root / f"Annotations/Phase/{name}_Annotation_Phase.csv", lines)
