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
}


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


def make(root: Path) -> None:
    train = [("CASE001/00000.jpg", 0, 0), ("CASE001/00002.jpg", 10, 20)]
    test = [("CASE041/000000000.jpg", 1, 1), ("CASE041/000000030.jpg", 1, 18)]
    annotations(root / "annotations" / "grasp_long-term_train.json", train)
    annotations(root / "annotations" / "grasp_long-term_fold1.json", train)
    annotations(root / "annotations" / "grasp_long-term_test.json", test)
    save_json(root / "annotations" / "grasp_short-term_train.json", {"images": []})
    images(root / "GraSP_1fps" / "frames" / "CASE001", [f"{i:05d}.jpg" for i in range(3)])
    numbers = [number for number in range(91) if number % 3 != 1]  # 30 files of 45 a second
    images(root / "GraSP_30fps" / "frames" / "CASE001", [f"{i:09d}.jpg" for i in numbers])
    images(root / "GraSP_30fps" / "frames" / "CASE041", [f"{i:09d}.jpg" for i in range(61)])
