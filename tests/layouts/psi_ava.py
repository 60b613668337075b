"""PSI-AVA: keyframes of every second, and TAPIR's boxes, in which a second has several rows."""

from pathlib import Path

from layouts import images, text

FPS = 1
LABELS = {
    ("CASE001", "phase", 0): None,
    ("CASE001", "phase", 1000): "left_pelvic_isolated_lymphadenectomy",
    ("CASE001", "phase", 2000): "bladder_neck_reconstruction",
    ("CASE001", "step", 1000): "identify_iliac_vein_artery",
    ("CASE001", "step", 2000): "clip_pedicles",
    ("CASE001", "instrument", 1000): {"bipolar_forceps", "laparoscopic_grasper"},
    ("CASE001", "instrument", 2000): None,  # no box
    ("CASE021", "phase", 0): "idle",
    ("CASE021", "instrument", 0): {"suction_instrument"},
}
BOX = "0.0,0.18,0.18,0.36,15,-1,-1"


def make(root: Path) -> None:
    folds = root / "outputs" / "data_annotations" / "psi-ava"
    train = [f"CASE001,1,1,{BOX},1,1,1", f"CASE001,1,2,{BOX},7,1,1", f"CASE001,2,1,{BOX},-1,10,20"]
    val = [f"CASE021,{second},1,{BOX},5,0,0" for second in range(3)]
    for fold, tables in (("fold1", (train, val)), ("fold2", (val, train))):
        for name, lines in zip(("train.csv", "val.csv"), tables, strict=True):
            text(folds / fold / "annotations" / name, lines)
        text(folds / fold / "annotations" / "boxes.csv", ["CASE001,1,0.0,0.18,0.18,0.36,,0.9"])
        text(folds / fold / "frame_lists" / "train.csv", ["CASE002 2 0 CASE002/00000.jpg"])
    for case in ("CASE001", "CASE021"):
        images(root / "keyframes" / case, [f"{second:05d}.jpg" for second in range(3)])
