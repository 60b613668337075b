"""JIGSAWS: two cameras a trial, gestures with gaps, repeated tabs, trials that do not exist."""

from pathlib import Path

from layouts import text, video

FPS = "native"
TRIALS = {
    "Suturing_B001": ["11 40 G1 ", "41 60 G15"],
    "Suturing_C005": ["1 30 G2", "30 200 G8"],  # both name frame 30
    "Knot_Tying_I003": ["1 90 G13"],
}
LABELS = {
    ("Suturing_B001_capture1", "gesture", 300): None,  # frame 10
    ("Suturing_B001_capture1", "gesture", 333): "G1",  # frame 11
    ("Suturing_B001_capture2", "gesture", 1300): "G1",  # frame 40
    ("Suturing_B001_capture2", "gesture", 1333): "G15",
    ("Suturing_B001_capture1", "gesture", 1967): "G15",  # frame 60
    ("Suturing_B001_capture1", "gesture", 2000): None,
    ("Suturing_C005_capture1", "gesture", 933): "G2",  # frame 29
    ("Suturing_C005_capture1", "gesture", 967): "G8",
    ("Knot_Tying_I003_capture2", "gesture", 0): "G13",
    ("Suturing_B001_capture2", "skill", 0): "novice",
    ("Suturing_C005_capture1", "skill", 2000): "expert",
    ("Suturing_B001_capture1", "grs", 2000): (3, 2, 2, 2, 2, 3),
    ("Knot_Tying_I003_capture1", "grs", 0): (5, 5, 4, 5, 4, 5),
}
CASES = {f"{trial}_capture{camera}": trial for trial in TRIALS for camera in (1, 2)}


def make(root: Path) -> None:
    for trial, lines in TRIALS.items():
        task = root / trial[:-5]
        for camera in (1, 2):
            seconds = 6 if trial == "Suturing_C005" else 3
            video(task / "video" / f"{trial}_capture{camera}.avi", seconds, fps=30)
        text(task / "transcriptions" / f"{trial}.txt", lines)
    text(
        root / "Suturing" / "meta_file_Suturing.txt",
        [
            "Suturing_B001\tN\t14\t\t3\t2\t2\t2\t2\t3\t",
            "",
            "Suturing_C005\t\tE\t30\t5\t5\t5\t5\t5\t5",
            "Suturing_H002\tN\t6\t1\t1\t1\t1\t1\t1",  # was never published
        ],
    )
    text(
        root / "Knot_Tying" / "meta_file_Knot_Tying.txt",
        ["Knot_Tying_I003    N   28   5 5 4 5 4 5"],
    )
    text(root / "Suturing" / "kinematics" / "AllGestures" / "Suturing_B001.txt", ["0.1 " * 76])
    text(root / "Experimental_setup" / "Suturing" / "readme.txt", ["SuperTrialOut, UserOut"])
    text(root / "readme.txt", ["JIGSAWS"])
