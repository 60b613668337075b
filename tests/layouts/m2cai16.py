"""M2CAI16-workflow: Cholec80's label files beside the videos, and two files that are no labels."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {
    ("workflow_video_01", "phase", 0): "TrocarPlacement",
    ("workflow_video_01", "phase", 1000): "Preparation",  # frame 25
    ("test_workflow_video_03", "phase", 2000): "Preparation",
    ("workflow_video_12", "phase", 2000): None,  # the label file ends before
}


def make(root: Path) -> None:
    for name, rows in (
        ("train_dataset/workflow_video_01", 75),
        ("train_dataset/workflow_video_12", 50),  # shorter than its video
        ("test_dataset/test_workflow_video_03", 75),
    ):
        path = root / name
        video(path.with_suffix(".mp4"))
        phases = [("TrocarPlacement", "Preparation")[i >= 25] for i in range(rows)]
        lines = [f"{i}\t{phase}" for i, phase in enumerate(phases)]
        text(path.with_suffix(".txt"), ["Frame\tPhase", *lines])
        text(path.with_name(f"{path.name}_timestamp.txt"), ["0 00:00:00.00"])
        text(path.with_name(f"{path.name}_pred.txt"), ["Frame\tPhase", "0\tPreparation"])
