"""SurgRec's lists: blanks in paths, val.csv like test.csv, one recording in train and in test."""

from pathlib import Path

from layouts import text, video

FPS = 1
STEM = "Kvasir-Capsule"
CLIPS = {  # path below the root -> class
    "train": {"Ileocecal valve/a1_0-80": 0, "pylorus/a1_80-160": 1, "pylorus/b2_0-40": 1},
    "val": {"pylorus/a1_160-240": 1, "Ileocecal valve/c3_7-9": 0},
    "test": {"pylorus/a1_160-240": 1, "Ileocecal valve/c3_7-9": 0},
}
LABELS = {
    (f"{STEM}/Ileocecal valve/a1_0-80", "label", 0): "Ileocecal valve",
    (f"{STEM}/Ileocecal valve/a1_0-80", "label", 1000): "Ileocecal valve",
    (f"{STEM}/Ileocecal valve/c3_7-9", "label", 0): "Ileocecal valve",
    (f"{STEM}/pylorus/a1_160-240", "label", 1000): "pylorus",
}
CASES = {
    f"{STEM}/{name}": name.partition("/")[2].partition("_")[0]
    for clips in CLIPS.values()
    for name in clips
}


def make(root: Path) -> None:
    for part, clips in CLIPS.items():
        paths = [f"__DATA_ROOT__/{STEM}/{name}.mp4" for name in clips]
        quoted = [f'"{path}"' if " " in path else path for path in paths]
        lines = [f"{path} {label}" for path, label in zip(quoted, clips.values(), strict=True)]
        text(root / f"{part}.csv", lines)
        for name in clips:
            video(root / STEM / f"{name}.mp4", seconds=2)
