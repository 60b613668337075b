"""SAR-RARP50: 60 frames a second with a row every six, an operation in two parts, a folder."""

from pathlib import Path

from layouts import images, text, video

FPS = "native"
LABELS = {
    ("video_01", "action", 0): "other",
    ("video_01", "action", 483): "other",  # frame 29, of the row 24
    ("video_01", "action", 500): "picking_up_the_needle",  # frame 30
    ("video_01", "action", 983): "picking_up_the_needle",  # frame 59, of the row 54
    ("video_11_2", "action", 400): "other",  # picture 4, video frame 24
    ("video_11_2", "action", 500): "picking_up_the_needle",
    ("video_41", "action", 300): None,  # frames 18 to 23, whose row is missing
    ("video_41", "action", 400): "other",
    ("video_41", "action", 500): "picking_up_the_needle",  # its row comes too early
}
CASES = {"video_11_1": "video_11", "video_11_2": "video_11"}


def make(root: Path) -> None:
    rows = [f"{6 * i:09d},{int(i >= 5)}" for i in range(10)]
    for folder in ("train1/video_01", "train2/video_11_1", "train2/video_11_2", "test/video_41"):
        text(root / folder / "action_discrete.txt", rows)
        if folder == "train2/video_11_2":
            images(root / folder / "rgb", [f"{6 * i:09d}.png" for i in range(10)])
        else:
            video(root / folder / "video_left.avi", 1, fps=60)
    unsorted = [*rows[:3], rows[5], rows[4], *rows[5:]]
    text(root / "test" / "video_41" / "action_discrete.txt", unsorted)
    text(root / "train1" / "video_01" / "action_continuous.txt", ["0,29,0"])
    images(root / "train1" / "video_01" / "segmentation", ["000000000.png"])
