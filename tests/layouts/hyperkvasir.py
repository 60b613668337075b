"""HyperKvasir: polyps in both tracts, clips of one video, an mpg, and pictures."""

from pathlib import Path

from small_videos import write_video

from layouts import images, text, video

FPS = 1
POLYP, ULCER, WORM = (f"{i}e3731a7-51f6-4415-9038-41322f6e4746" for i in range(3))
LABELS = {
    (f"{POLYP}_0", "finding", 0): "lower-polyps",
    (f"{POLYP}_12", "finding", 1000): "lower-polyps",
    ("polypp 5", "finding", 0): "upper-polyps",
    (ULCER, "finding", 1000): "upper-ulcer",
    (WORM, "finding", 0): "lower-parasites",
}
CASES = {f"{POLYP}_0": POLYP, f"{POLYP}_12": POLYP}


def make(root: Path) -> None:
    lower, upper = (root / "labeled-videos" / f"{tract}-gi-tract" for tract in ("lower", "upper"))
    found = "pathological-findings"
    for path, rate in (
        (lower / found / "polyps" / f"{POLYP}_0.avi", 25),
        (lower / found / "polyps" / f"{POLYP}_12.avi", 25),
        (upper / found / "polyps" / "polypp 5.avi", 20),
        (upper / found / "ulcer" / f"{ULCER}.avi", 30),
    ):
        video(path, seconds=2, fps=rate)
    worm = lower / found / "parasites" / f"{WORM}.mpg"
    write_video(worm, 60, width=64, height=48, codec="mpeg1video")
    rows = [f'{name},Lower GI,"worms, moving"' for name in (POLYP, ULCER, WORM)]
    text(root / "labeled-videos" / "video-labels.csv", ["Video file,Organ,Finding 1", *rows])
    images(root / "labeled-images/lower-gi-tract" / found / "polyps", ["a.jpg", "b.jpg"])
