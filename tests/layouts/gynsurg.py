"""GynSurg: clips of three datasets, one case in two of them, colons written in two ways."""

from pathlib import Path

from layouts import images, video

FPS = 1
STEM = "case_458_Irigation_0:03:09.366667-0:03:12.86666730fps"
CLIPS = (
    f"GynSurg_action_dataset/SuctionIrrigation/{STEM}",
    "GynSurg_action_dataset/Rest/case_7_Rest_0_00_01.0-0_00_04.030fps",
    "GynSurg_bleeding_dataset/Non_bleeding/case_458_Non_0%3A01%3A01.5-0%3A01%3A04.530fps",
    "GynSurg_smoke_dataset/Smoke/case_12_Smoke_0:00:01-0:00:0430fps",
)
LABELS = {
    (CLIPS[0], "action", 0): "SuctionIrrigation",
    (CLIPS[0], "bleeding", 0): None,
    (CLIPS[1], "action", 2000): "Rest",
    (CLIPS[2], "bleeding", 1000): "Non_bleeding",
    (CLIPS[3], "smoke", 0): "Smoke",
}
CASES = {clip: "_".join(clip.split("/")[-1].split("_")[:2]) for clip in CLIPS}


def make(root: Path) -> None:
    for clip in CLIPS:
        video(root / f"{clip}.mp4", seconds=3, fps=30)
    images(root / "GynSurg_Anatomy_Dataset" / "case_1", ["1.png", "2.png"])
