"""LapGyn6-Events: events and the rest of four folders, a case in Train and Test, an odd name."""

from pathlib import Path

from layouts import text, video

FPS = 1
CLIPS = (
    "AbdominalAccess/Train/AbdominalAccess/case_102_AbdominalAccess_0",
    "AbdominalAccess/Train/Rest/case_147_Coagulation_0",
    "Bleeding/Train/Bleeding/case_116_Bleeding_4",
    "Bleeding/Test/Bleeding/case_116_Bleeding_9",
    "Coag-Transection/Train/Transection/case_522_Transection_16",
    "Coag-Transection/Test/Rest/case_100_clip100.mp4_0",
    "NeedlePassing/Train/Rest/case_504_irrelevant_106",
    "NeedlePassing/Test/NeedlePassing/case_645_NeedlePassing_16",
)
LABELS = {
    (CLIPS[0], "abdominal_access", 0): "abdominal_access",
    (CLIPS[1], "abdominal_access", 1000): "rest",
    (CLIPS[1], "coagulation_transection", 0): None,  # another task than its folder's
    (CLIPS[2], "bleeding", 1000): "bleeding",
    (CLIPS[4], "coagulation_transection", 0): "coagulation_transection",
    (CLIPS[5], "coagulation_transection", 0): "rest",
    (CLIPS[6], "needle_passing", 0): "rest",
    (CLIPS[7], "needle_passing", 0): "needle_passing",
}
CASES = {clip: "_".join(clip.split("/")[-1].split("_")[:2]) for clip in CLIPS}


def make(root: Path) -> None:
    for clip in CLIPS:
        video(root / f"{clip}.mp4", seconds=2, fps=30)
    video(root / "Bleeding/Train/Smoke/case_1_Smoke_1.mp4", seconds=1)  # no folder of the set
    text(root / "Readme.txt", ["LapGyn6-Events"])
