"""AVOS: videos of two kinds and rates, two tables, one with a nameless first column."""

from pathlib import Path

from small_videos import write_video

from layouts import text, video

FPS = "native"
HEADER = "video_id,start_seconds,end_seconds,start_frame,end_frame,label"
LABELS = {
    ("-3gFrKiC99I", "action", 0): "background",
    ("-3gFrKiC99I", "action", 1000): "cutting",
    ("-3gFrKiC99I", "action", 1480): "cutting",
    ("-3gFrKiC99I", "action", 1520): None,  # no span
    ("-3gFrKiC99I", "action", 2000): "tying",
    ("7s_rjrDB2Ko", "action", 967): "suturing",
    ("7s_rjrDB2Ko", "action", 1000): None,
}


def make(root: Path) -> None:
    video(root / "videos" / "-3gFrKiC99I.mp4")
    write_video(root / "videos" / "7s_rjrDB2Ko.webm", 60, width=64, height=48, codec="vp8", rate=30)
    video(root / "videos" / "rzKGRcXNXm4.mp4", seconds=1)  # without labels
    rows = ["-3gFrKiC99I,0,1,0,30,background", "-3gFrKiC99I,1,1.5,30,45,Cutting"]
    text(root / "train.csv", [HEADER, *rows, "-3gFrKiC99I,2.0,3.0,60,90,tying"])
    text(
        root / "annotations" / "test.csv",
        ["," + HEADER, "0,7s_rjrDB2Ko,0,1.0,0,30,suturing", "1,goneFromWeb,0,1,0,30,tying"],
    )
    text(
        root / "boxes.csv",
        ["image_name,x1,y1,x2,y2,class", "-3gFrKiC99I-000002399.jpg,1,2,3,4,hand"],
    )
