"""PeskaVLP: two transcripts of one video, texts over several lines, tables without their video."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {}


def make(root: Path) -> None:
    for name in ("lap 1", "lap 10", "lap 11"):
        video(root / f"videos/{name}.mp4")
    whisper, aws = "whisper_narration_texts", "aws_narration_texts"
    text(
        root / f"{whisper}/lap 1.csv",
        [
            "start,end,text",
            '0.0,1.24,"we grasp, and lift"',
            "1.24,1.24,uh",
            "1.3,2.5,",
            "2.5,9.75,goodbye",
        ],
    )
    text(root / f"{aws}/lap 1.csv", ["start,end,text", "0.1,1.2,We grass and lift."])
    text(root / f"{aws}/lap 10.csv", ["start,end,text", "0,2,Here is the duct."])
    text(root / f"{whisper}/lap 2.csv", ["start,end,text", "0,2,of no video"])
    text(
        root / "keystep_texts/lap 1.csv",
        ["start,end,step,text", "0,1.5,1,Exposure of the hilum", "1.5,3,2,Clipping"],
    )
    text(
        root / "abstract_texts/lap 1.csv",
        [",start,end,text", '0,0,3,"A cholecystectomy,', "told from start", 'to end."'],
    )
