"""Cataract-1K: phases in seconds, frames of another rate, all videos beside, a case in two sets."""

from pathlib import Path

from layouts import text, video

FPS = "native"
HEADER = "caseId,comment,frame,endFrame,sec,endSec"
PHASES = {
    "case_4687": ["Incision,30,60,0.5,1.0", "Capsule Pulishing,90,90,1.5,1.5"],
    "case_4863": ["Irrigation/Aspiration,0,30,0.0,0.5", "Anterior_Chamber Flushing,30,60,0.5,1.0"],
    "case_5011": ["Viscoelastic_Suction,0,60,0.0,1.0"],
}
LABELS = {
    ("case_4687", "phase", 467): None,  # frame 14
    ("case_4687", "phase", 500): "incision",  # frame 15, which the table calls 30
    ("case_4687", "phase", 967): "incision",
    ("case_4687", "phase", 1000): None,
    ("case_4687", "phase", 1500): None,  # a row without length
    ("case_4863", "phase", 467): "irrigation-aspiration",
    ("case_4863", "phase", 500): "anterior_chamber_flushing",
    ("case_5011", "phase", 0): "viscoelastic_suction",
    ("case_709", "phase", 0): None,  # one of all videos
}


def make(root: Path) -> None:
    phases, everything = root / "Phase_recognition_dataset", root / "Cataract-1K"
    for name, rows in PHASES.items():
        video(phases / "videos" / f"{name}.mp4", seconds=2, fps=30)
        folder = phases / "annotations" / name
        lines = [f"{name.removeprefix('case_')},{row}" for row in rows]
        text(folder / f"{name}_annotations_phases.csv", [HEADER, *lines])
        rate = 240 if name == "case_4863" else 59.94
        text(folder / f"{name}_video.csv", ["a,b,c,d,fps", f"1,2,3,4,{rate}"])
    for name in ("case_4687", "case_709"):
        video(everything / f"{name}.mp4", seconds=1)
    text(phases / "annotations" / "SYNAPSE_METADATA_MANIFEST.tsv", ["path\tparent"])
