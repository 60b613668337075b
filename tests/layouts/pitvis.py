"""PitVis: a row a second and one more, videos of 24 and 25 fps, one video without annotations."""

from pathlib import Path

from layouts import text, video

FPS = 2
LABELS = {
    ("video_01", "step", 0): "background",
    ("video_01", "step", 500): "background",
    ("video_01", "step", 1000): "nasal corridor creation",
    ("video_01", "step", 2500): "debris clearance",
    ("video_01", "instrument", 0): None,  # out of the patient
    ("video_01", "instrument", 1000): {"suction"},
    ("video_01", "instrument", 1500): None,  # between two observations
    ("video_01", "instrument", 2000): set(),  # none visible
    ("video_24", "step", 2000): "sellotomy",
    ("video_24", "step", 2520): "sellotomy",
    ("video_24", "instrument", 2000): {"bipolar forceps", "tissue glue"},
    ("video_19", "step", 0): None,
}
HEADER = "int_video,int_time,int_step,int_instrument1,int_instrument2"


def make(root: Path) -> None:
    video(root / "video_01.mp4", fps=24)
    video(root / "video_19.mp4", fps=24)
    video(root / "video_24.mp4", fps=25)
    rows = ["1,0,-1,-1,-2", "1,1,1,16,-2", "1,2,14,0,-2", "1,3,-1,-1,-2"]
    text(root / "annotations_01.csv", [HEADER, *rows])
    rows = ["24,0,5,1,16", "24,1,5,8,0", "24,2,5,1,18", "24,3,-1,-1,-2"]
    text(root / "annotations_24.csv", [HEADER, *rows])
    text(root / "map_steps.csv", ["int_step,str_step", "-1,operation_not_started", "1,nasal "])
    text(root / "README.txt", ["PitVis"])
