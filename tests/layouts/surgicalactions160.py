"""SurgicalActions160: clips of an odd width in folders of their action, and one in a wrong one."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {
    ("01_03", "action", 0): "abdominal access",
    ("01_03", "action", 1000): "abdominal access",
    ("05_02", "action", 1000): "dissection (thermal)",
    ("14_02", "action", 0): "sling-in",
    ("16_10", "action", 1000): "endobag-out",
}


def make(root: Path) -> None:
    for name in (
        "01_abdominal_access/01_03",
        "05_dissection_thermal/05_02",
        "14_sling-in/14_02",
        "16_endobag-out/16_10",
        "16_endobag-out/15_01",  # never stored: its action is not certain
    ):
        video(root / f"{name}.mp4", seconds=2.04, width=85)
    text(root / "README.txt", ["SurgicalActions160 v1.0 data set"])
