"""MultiBypass140: milliseconds, frames out of the body, folds of Strasbourg in pickles."""

from pathlib import Path

from layouts import save_json, save_pickle, video

FPS = 2
LABELS = {
    ("BBP01", "phase", 0): None,  # nothing has begun
    ("BBP01", "phase", 1000): "preparation",
    ("BBP01", "phase", 1520): None,  # out of the body
    ("BBP01", "step", 1520): None,
    ("BBP01", "overlay", 1520): {"out_of_body"},
    ("BBP01", "overlay", 1000): None,
    ("BBP01", "phase", 2520): "gastric_pouch_creation",
    ("BBP01", "step", 2520): "specimen_retrieval",
    ("SBP09", "phase", 1000): "other_intervention",
    ("SBP09", "overlay", 1000): {"severe_index"},
    ("SBP01", "phase", 0): "disassembling",
    ("BBP02", "phase", 0): None,  # has no label file
}
FOLD = "labels/strasbourg/labels_by70_splits/labels/test/1fps_{}.pickle"
# Twenty videos of Strasbourg that validate in no fold. Made up: the lists are in pickles.
TESTED = [1, 2, 3, 6, 7, 10, 11, 13, 14, 16, 18, 19, 21, 22, 23, 24, 26, 27, 28, 29]


def make(root: Path) -> None:
    for name in ("BBP01", "BBP02"):
        video(root / f"BernBypass70/videos/{name}.mp4")
    for name in ("SBP01", "SBP09"):
        video(root / f"StrasBypass70/videos/{name}.mp4")
    phases = [span(2000, 3000, 1, "gastric_pouch_creation"), span(500, 2000, 0, "preparation")]
    overlay = span(1500, 2000, 12, "out_of_body")
    save(root, "bern", "BBP01", [*phases, overlay], [span(500, 3000, 45, "specimen retrieval")])
    phases = [span(0, 3000, 11, "other_intervention"), span(1000, 2000, 13, "severe_index")]
    save(root, "strasbourg", "SBP09", phases, [])
    save(root, "strasbourg", "SBP01", [span(0, 3000, 10, "disassembling")], [])
    tested = {f"SBP{number:02d}": [{"Phase_gt": 10, "Step_gt": 0}] for number in TESTED}
    save_pickle(root / FOLD.format(0), tested)


def span(start: int, end: int, number: int, name: str) -> dict:
    return {"start": start, "end": end, "label_name": name, "label_id": number}


def save(root: Path, centre: str, name: str, phases: list, steps: list) -> None:
    path = root / "labels" / centre / "labels_by70" / f"{name}.mp4.json"
    save_json(path, {"phases": phases, "steps": steps})
