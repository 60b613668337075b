"""Colonoscopic: two lights on a lesion, folders in other spellings, copies with other names."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {
    ("adenoma_NBI_01", "lesion", 0): "adenoma",
    ("adenoma_WL_01", "lesion", 1000): "adenoma",
    ("adenoma_WL_40", "lesion", 0): "adenoma",  # Adenoma/WL(75).mp4
    ("hyperplasic_NBI_21", "lesion", 0): "hyperplasic",
    ("hyperplasic_NBI_01", "lesion", 1000): "hyperplasic",  # Hyperplasic/NBI.mp4
    ("serrated_NBI_02", "lesion", 0): "serrated",
}
CASES = {
    "adenoma_NBI_01": "adenoma_01",
    "adenoma_WL_01": "adenoma_01",
    "adenoma_WL_40": "adenoma_40",
    "hyperplasic_NBI_21": "hyperplasic_21",
    "hyperplasic_NBI_01": "hyperplasic_01",
    "serrated_NBI_02": "serrated_02",
}


def make(root: Path) -> None:
    for name in (
        "Adenoma/adenoma_01/videos/NBI",
        "Adenoma/adenoma_01/videos/WL",
        "Adenoma/WL(75)",
        "Hyperplasic/hyperplastic_21/NBI",
        "Hyperplasic/NBI",
        "Serrated/NBI (22)",
    ):
        video(root / f"{name}.mp4", seconds=2)
    video(root / "Adenoma/adenoma_01/calibration/NBI.mp4", seconds=1)  # never stored
    text(root / "Adenoma/adenoma_01/ground_truth.txt", ["adenoma"])
