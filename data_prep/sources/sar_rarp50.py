"""SAR-RARP50 as downloaded.

    train1|train2|test/video_NN/video_left.avi         60 frames a second; or, where it is missing,
    train1|train2|test/video_NN/rgb/000000006.png      10 frames a second by their number in it
    train1|train2|test/video_NN/action_discrete.txt    000000006,1: every 6th frame and its action

Both train folders may be one, `train`. Videos 11, 15, 17 and 29 are in two parts (video_11_1,
video_11_2) of one operation. A row stands for its six frames; rows near a change of action may be
out of order. Segmentations are not read.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FPS = 60
STEP = 6  # video frames from one row, or one picture, to the next
LABELS = "action_discrete.txt"
PLACES = ("*/video_*/video_left.avi", "*/video_*/rgb/")
NAME = r"(train[12]?|test)/(?P<id>video_\d\d(_\d)?)/(video_left|rgb)"

ABOUT = About(
    dataset="sar_rarp50",
    domain="robotic",
    procedure="radical prostatectomy",
    anatomy="prostate",
    licence="CC-BY-NC-SA-4.0",
    access="open, UCL figshare",
    layout="verified",
    evidence="the organisers' evaluation programs",
    tasks={
        "action": {
            "kind": "one_of_n",
            "classes": [
                "other",
                "picking_up_the_needle",
                "positioning_the_needle_tip",
                "pushing_the_needle_through_the_tissue",
                "pulling_the_needle_out_of_the_tissue",
                "tying_a_knot",
                "cutting_the_suture",
                "returning_dropping_the_needle",
            ],
        }
    },
)
ACTIONS = tuple(ABOUT.tasks["action"]["classes"])


def recognises(root: Path) -> bool:
    found = recordings.search(root, PLACES, NAME)
    return any(path.with_name(LABELS).exists() for path in found.paths.values())


def find(root: Path, **overrides: str) -> Found:
    """Videos, or folders of frames, of all parts. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="train1/video_01/video_left.avi or train1/video_01/rgb/*.png",
        case=lambda video_id: "_".join(video_id.split("_")[:2]),
        frames_fps=FPS / STEP,
        label_files={"action": lambda video_id: found.paths[video_id].with_name(LABELS)},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Action of every stored frame that a row stands for."""
    path = video.path.with_name(LABELS)
    if not path.exists():
        return {}
    number = label_files.file_numbers(video, times)
    return {"action": label_files.of_frames(_rows(path), times, number, held=True)}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path, ratio = video.path.with_name(LABELS), STEP if video.frames_fps else 1
    if not path.exists():
        return []
    return label_files.check_length(path, root, _rows(path), frames, FPS, ratio)


@cached_by_file
def _rows(path: Path) -> label_files.Rows:
    actions: dict[int, int] = {}
    for line, row in enumerate(label_files.read_table(path, header=False), 1):
        at = label_files.where(path, line)
        if len(row) != 2 or not label_files.is_whole(row[0]) or int(row[0]) % STEP:
            raise UserError(f"{at}: {row}; expected every {STEP}th frame number and one action")
        frame = int(row[0])
        action = label_files.class_number(row[1], ACTIONS, at, 0, "action")
        if actions.setdefault(frame, action) != action:
            raise UserError(f"{at}: frame {frame} has another action above; remove one of the two")
    frames = sorted(actions)
    label = np.array([actions[frame] for frame in frames], np.int32)
    return label_files.Rows(np.array(frames, np.int64), label, step=STEP)
