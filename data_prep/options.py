"""Options that several verbs take: where the videos are, and what decides the bytes of a store."""

import argparse
import re
from pathlib import Path

from data_prep import sources
from data_prep.plan import Settings
from surgjax.data.record import CODECS, REFERENCE_STEP
from surgjax.errors import UserError, nearest

BLOCK = 128  # frames of an x264 record
WORDS = ("domain", "procedure", "anatomy", "licence")  # that a user may say about own videos


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    add_recording_arguments(parser)
    parser.add_argument(
        "--captions",
        type=Path,
        help="csv file with captions (default: captions.csv beside the videos, if it is there)",
    )


def add_recording_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos",
        "--root",
        dest="root",
        type=Path,
        required=True,
        help="folder with the videos, any depth",
    )
    parser.add_argument(
        "--dataset",
        help=f"a known layout ({', '.join(n for n in sources.known() if n != sources.FOLDER)}) "
        "or a name for your own videos",
    )


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--codec",
        choices=CODECS,
        default="jpeg",
        help="jpeg (default), or x264: a sixth of the bytes of frames that follow closely",
    )
    parser.add_argument("--quality", type=int, help="of jpeg, 1 to 100 (default 90)")
    parser.add_argument("--crf", type=int, help="of x264, 0 to 51; lower is better (default 23)")


def source_of(root: Path, args: argparse.Namespace) -> tuple[str, dict]:
    """(source name, the user's words about the videos) of a command line. Raises UserError."""
    if not root.is_dir():
        raise UserError(f"--root {root} is no folder; expected the folder that holds the videos")
    dataset = args.dataset
    if dataset is not None and not re.fullmatch(r"\w[\w.-]*", dataset):
        raise UserError(f"--dataset is {dataset!r}; expected a word, as my_videos")
    check_frames_fps(args)
    about = {word: getattr(args, word, None) for word in WORDS}
    about = {word: value for word, value in about.items() if value is not None}
    if dataset in sources.known() and dataset != sources.FOLDER:
        return dataset, about
    if getattr(args, "frames_fps", None) is not None:
        about["frames_fps"] = args.frames_fps
    detected = sources.detect(root)
    if detected != sources.FOLDER:
        print(
            f"note: this looks like {detected}; "
            f"--dataset {detected} would bring its labels and splits"
        )
    if dataset not in (None, sources.FOLDER) and (hint := nearest(dataset, sources.known(), 0.8)):
        print(f"note: {dataset!r} is no known layout{hint}; taken as the name of your own videos")
    return sources.FOLDER, (
        {"dataset": dataset} if dataset and dataset != sources.FOLDER else {}
    ) | about


def parse_fps(text: str) -> float | str:
    """A rate or "native"; whole rates as int. Raises UserError."""
    if text == "native":
        return text
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0 < fps <= 1000:
        raise UserError(f"--fps is {text!r}; expected native or a number such as 1 or 0.5")
    return int(fps) if fps == int(fps) else fps


def settings_of(args: argparse.Namespace) -> Settings:
    """What decides the bytes of a store, of a command line. Raises UserError."""
    fps, codec = parse_fps(args.fps), args.codec
    for name, low, high in (
        ("short_side", 16, 8192),
        ("quality", 1, 100),
        ("crf", 0, 51),
        ("frames_per_record", 1, 1024),
    ):
        check_range(args, name, low, high)
    frames = getattr(args, "frames_per_record", None)
    if codec == "jpeg":
        if args.crf is not None:
            raise UserError("--crf is for --codec x264; of jpeg it is --quality")
        return Settings(fps, args.short_side, args.quality or 90, frames or 1)
    if args.quality is not None:
        raise UserError("--quality is for --codec jpeg; of x264 it is --crf, where lower is better")
    if (frames or BLOCK) % REFERENCE_STEP:
        raise UserError(
            f"--frames-per-record is {frames}; with --codec x264 expected a multiple of "
            f"{REFERENCE_STEP}, such as {BLOCK}"
        )
    crf = 23 if args.crf is None else args.crf
    return Settings(fps, args.short_side, None, frames or BLOCK, codec, crf)


def check_frames_fps(args: argparse.Namespace) -> None:
    """Raise UserError for a rate of folders of frames that is none."""
    rate = getattr(args, "frames_fps", None)
    if rate is not None and not 0 < rate <= 1000:
        raise UserError(f"--frames-fps is {rate:g}; expected a number such as 1 or 25")


def make_folder(out: Path) -> None:
    """Make the folder of --out. Raises UserError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be made ({error.strerror}); give a folder you may write to"
        ) from error


def check_range(args: argparse.Namespace, name: str, low: int, high: int) -> None:
    """Raise UserError for an option outside low to high."""
    value = getattr(args, name, None)
    if value is not None and not low <= value <= high:
        raise UserError(f"--{name.replace('_', '-')} is {value}; expected {low} to {high}")
