"""SimSurgSkill 2021: both rates, one rate alone, one case number in two parts, an empty frame."""

from pathlib import Path

from layouts import save_json, text, video

FPS = "native"
CASES_OF = {
    "train_v1": ("caseid_000001",),
    "train_v2": ("caseid_000002",),
    "test": ("caseid_000001",),
}
LABELS = {
    ("train_v1/caseid_000001", "tool", 0): {"needle driver", "needle"},
    ("train_v1/caseid_000001", "tool", 33): None,  # not the first of its second
    ("train_v1/caseid_000001", "tool", 1000): set(),
    ("train_v1/caseid_000001", "tool", 2000): None,  # no row
    ("train_v2/caseid_000002", "tool", 0): {"needle driver", "needle"},
    ("train_v2/caseid_000002", "tool", 1000): set(),
    ("test/caseid_000001", "tool", 0): {"needle driver", "needle"},
}


def box(frame: float, name: str | None, objects: bool = True) -> dict:
    place = '{"h":63,"w":55,"x":600,"y":345}' if objects else None
    words = {"label_type": "box", "coordinate": place, "orientation": "left"}
    return words | {
        "obj_class": name, "frame_id": frame, "objects": objects, "case_id": 1, "fps": 1,
    }  # fmt: skip


BOXES = [
    box(1.0, "needle driver"),
    box(1.0, "needle driver"),
    box(1.0, "needle"),
    box(2.0, None, objects=False),
]


def boxes(path: Path, rows: list[dict]) -> Path:
    return save_json(path, {str(i): row for i, row in enumerate(rows)})


def make(root: Path) -> None:
    for part, cases in CASES_OF.items():
        for case in cases:
            video(root / part / "videos" / "fps1" / f"{case}_fps1.mp4", seconds=3, fps=1)
            if part != "train_v2":
                video(root / part / "videos" / "fps30" / f"{case}.mp4", seconds=3, fps=30)
            boxes(root / part / "annotations" / "bounding_box_gt" / f"{case}_fps1.json", BOXES)
    text(
        root / "train_v1" / "annotations" / "skill_metric_gt.csv",
        ["case,needle_drop_counts,instrument_out_of_view_counts", "1,0,2"],
    )
