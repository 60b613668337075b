"""GraSP: a case at 1 and at 30 frames a second, a test case at 30, labels by file name."""

from pathlib import Path

from layouts import images, save_json

FPS = 1
LABELS = {
    ("CASE001", "phase", 0): "idle",
    ("CASE001", "phase", 1000): None,  # no annotation
    ("CASE001", "phase", 2000): "bladder_neck_reconstruction",
    ("CASE001", "step", 2000): "clip_pedicles",
    ("CASE041", "phase", 0): "left_pelvic_isolated_lymphadenectomy",
    ("CASE041", "step", 0): "identify_iliac_vein_artery",
    ("CASE041", "step", 1000): "cut",
    ("CASE041", "step", 2000): None,  # beyond the second of the last annotation
    ("CASE001", "instrument", 0): {"bipolar_forceps", "clip_applier"},
    ("CASE001", "instrument", 1000): None,
    ("CASE001", "instrument", 2000): set(),  # annotated: none is there
    ("CASE041", "instrument", 0): None,
    ("CASE041", "instrument", 1000): {"clip_applier"},
    ("CASE041", "instrument", 2000): None,
}
CATEGORIES = (
    "Bipolar Forceps,Prograsp Forceps,Large Needle Driver,Monopolar Curved Scissors,"
    "Suction Instrument,Clip Applier,Laparoscopic Grasper"
).split(",")


def annotations(path: Path, rows: list[tuple[str, int, int]]) -> Path:
    """A label file of (file name, phase, step); ids of images are not their positions."""
    images = [
        {"id": 7 * i + 3, "file_name": name, "video_name": name[:7], "frame_num": i}
        for i, (name, _, _) in enumerate(rows)
    ]
    labels = [
        {"id": i, "image_id": 7 * i + 3, "phases": phase, "steps": step}
        for i, (_, phase, step) in enumerate(rows)
    ]
    return save_json(path, {"images": images[::-1], "annotations": labels})


def short_term(path: Path, rows: dict[str, list[int]]) -> Path:
    """A label file of file name -> category ids of its instruments, one twice if it is named so."""
    images = [
        {"id": 5 * i + 1, "file_name": name, "video_name": name[:7], "frame_num": i}
        for i, name in enumerate(rows)
    ]
    labels = [
        {"image_id": image["id"], "category_id": number, "bbox": [0, 0, 9, 9], "actions": [1, 3]}
        for image in images
        for number in rows[image["file_name"]]
    ]
    labels = [{"id": i, **label} for i, label in enumerate(labels)]
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, 1)]
    return save_json(path, {"images": images, "annotations": labels, "categories": categories})


def make(root: Path) -> None:
    train = [("CASE001/00000.jpg", 0, 0), ("CASE001/00002.jpg", 10, 20)]
    test = [("CASE041/000000000.jpg", 1, 1), ("CASE041/000000030.jpg", 1, 18)]
    annotations(root / "annotations" / "grasp_long-term_train.json", train)
    annotations(root / "annotations" / "grasp_long-term_fold1.json", train)
    annotations(root / "annotations" / "grasp_long-term_test.json", test)
    train = {"CASE001/00000.jpg": [6, 1, 6], "CASE001/00002.jpg": []}
    short_term(root / "annotations" / "grasp_short-term_train.json", train)
    short_term(root / "annotations" / "grasp_short-term_fold1.json", train)
    test = {"CASE041/000000030.jpg": [6]}
    short_term(root / "annotations" / "grasp_short-term_test.json", test)
    images(root / "GraSP_1fps" / "frames" / "CASE001", [f"{i:05d}.jpg" for i in range(3)])
    numbers = [number for number in range(91) if number % 3 != 1]  # 30 files of 45 a second
    images(root / "GraSP_30fps" / "frames" / "CASE001", [f"{i:09d}.jpg" for i in numbers])
    images(root / "GraSP_30fps" / "frames" / "CASE041", [f"{i:09d}.jpg" for i in range(61)])
