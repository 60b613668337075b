"""Endoscapes: flat folders of many videos, numbers that start others, a missing picture, copies."""

from pathlib import Path

from layouts import images, save_json, text

FPS = 1
LABELS = {
    ("12", "cvs", 0): {"C1_two_structures", "C3_cystic_plate"},
    ("12", "cvs", 1000): None,  # not rated
    ("12", "cvs", 3000): {"C2_hepatocystic_triangle"},  # 12_29425.jpg is missing
    ("112", "cvs", 0): set(),
    ("2", "cvs", 0): {"C1_two_structures", "C2_hepatocystic_triangle", "C3_cystic_plate"},
    ("121", "cvs", 0): None,  # no key frame
    ("121", "cvs", 1000): {"C3_cystic_plate"},
    ("162", "cvs", 2000): {"C1_two_structures", "C2_hepatocystic_triangle"},
    ("12", "total", 0): "2",
    ("12", "total", 1000): None,
    ("112", "total", 0): "0",
    ("2", "total", 0): "3",
    ("162", "total", 2000): "2",
}
THIRD = 1 / 3
RATED = {
    "train": {
        "12_29375": [2 * THIRD, THIRD, 1.0],
        "12_29450": [0.0, 0.667, 0.333],
        "112_50": [0.0, THIRD, 0.0],
        "2_0": [1, 1, 1],
    },
    "val": {"121_14875": [0.333, 0.0, 0.667]},
    "test": {"162_5900": [0.667, 1.0, THIRD]},
}
PICTURES = {
    "train": {"12": [29375, 29400, 29450], "112": [50, 75, 100], "2": [0, 25, 50]},
    "val": {"121": [14850, 14875, 14900]},
    "test": {"162": [5850, 5875, 5900]},
}


def make(root: Path) -> None:
    for part, videos in PICTURES.items():
        names = [f"{video}_{frame}.jpg" for video, frames in videos.items() for frame in frames]
        images(root / part, names)
        write(root / part, RATED[part])
        save_json(root / part / "annotation_coco.json", {"images": [], "annotations": []})
        text(root / f"{part}_vids.txt", [f"{int(video):.18e}" for video in videos])
    for copy in ("train_seg", "all", "12_5/train_0", "25/train_1"):
        images(root / copy, ["12_29375.jpg"])
        write(root / copy, {"12_29375": [0, 0, 0]})
    text(root / "all_metadata.csv", ["vid,frame,avg_cvs", "12,29375,[0 0 0]"])


def write(folder: Path, rated: dict[str, list[float]]) -> Path:
    """A label file with the ratings, and a frame between them that carries the last."""
    rows = [
        {"file_name": f"{name}.jpg", "is_ds_keyframe": True, "ds": rated[name]} for name in rated
    ]
    if folder.name == "train":
        rows.append({"file_name": "12_29400.jpg", "is_ds_keyframe": False, "ds": [1.0, 0.0, 1.0]})
    elif folder.name == "val":
        rows[0]["video_id"] = 121
    data = {"images": [{"id": i, **row} for i, row in enumerate(rows)], "annotations": []}
    return save_json(folder / "annotation_ds_coco.json", data)
