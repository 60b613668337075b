"""From rows of the plan to pixels: every stored frame a window needs is read and decoded once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int, UInt8

from surgjax.data import transforms
from surgjax.data.decode import UNREADABLE, pictures
from surgjax.data.plan import ROW, ClipShape, Plan
from surgjax.data.store import Store, Whole
from surgjax.data.transforms import Augmentation
from surgjax.errors import UserError

ATTEMPTS = 32


class Unreadable(Exception):
    """A record that cannot be read or decoded.

    Attributes:
      frame: stored frame of the video.
    """

    def __init__(self, frame: int, reason: str):
        super().__init__(reason)
        self.frame = frame


def decode_clip(
    store: Store,
    row: np.void | np.ndarray,
    clip: ClipShape,
    augment: Augmentation = transforms.CENTRE,
) -> UInt8[np.ndarray, "t h w c"]:
    """Pixels of one sample, RGB.

    Args:
      row: a scalar with the fields video, start and, for what is random, crop_seed of plan.ROW. A
        clip that reaches over an end of the video repeats the frame there.
      augment: crop and colours.

    Raises:
      Unreadable: a record of it is damaged.
    """
    out = np.empty((1, clip.frames, clip.size, clip.size, 3), np.uint8)
    decode_window(store, np.asarray(row)[None], clip, augment, out)
    return out[0]


def decode_frames(
    store: Store,
    video: Whole,
    frames: Int[np.ndarray, "t"],
    clip: ClipShape,
    augment: Augmentation = transforms.CENTRE,
) -> UInt8[np.ndarray, "t h w c"]:
    """Pixels of chosen stored frames of one video, as `decode_clip`, which chooses by stride."""
    rows = np.zeros(1, ROW)
    rows["video"] = video
    out = np.empty((1, clip.frames, clip.size, clip.size, 3), np.uint8)
    decode_window(store, rows, clip, augment, out, frames[None])
    return out[0]


def decode_window(
    store: Store,
    rows: np.ndarray,
    clip: ClipShape,
    augment: Augmentation,
    out: UInt8[np.ndarray, "k t h w c"],
    frames: Int[np.ndarray, "k t"] | None = None,
) -> int:
    """Write the k clips of a window (rows (k,) of one video) into `out`.

    Args:
      frames: stored frames they show; by default those at the clip's stride from each start.

    Returns:
      The number of frames decoded, each once however many clips show it.

    Raises:
      Unreadable: a record is damaged.
    """
    video = int(rows["video"][0])
    if frames is None:
        frames = rows["start"][:, None] + np.arange(clip.frames) * clip.stride_in(store, video)
    wanted = np.clip(frames, 0, store.frames[video] - 1)
    uses: dict[int, list[tuple[int, int]]] = {}
    for (j, t), frame in np.ndenumerate(wanted):
        uses.setdefault(int(frame), []).append((j, t))
    decoded, drawn = pictures(store, video, list(uses)), []
    for frame, places in uses.items():
        try:
            picture = next(decoded)
        except UNREADABLE as error:
            raise Unreadable(frame, str(error)) from error
        if not drawn:
            size = (*picture.shape[:2], clip.size)
            drawn = [transforms.draw(augment, *size, seed) for seed in rows["crop_seed"]]
        for j, t in places:
            drawn[j].write(picture, out[j, t])
    return len(uses)


def decode_rows(
    stores: list[Store],
    plan: Plan,
    rows: np.ndarray,
    augment: Augmentation,
    out: UInt8[np.ndarray, "k t h w c"],
    on_bad: Callable[[int, int, int, str], None],
) -> tuple[np.ndarray, int]:
    """`decode_window` with deterministic substitution of windows that cannot be read.

    Args:
      on_bad: called with (store, video, frame, reason) for each damaged record met.

    Returns:
      The rows delivered (k,) and the number of frames decoded.

    Raises:
      UserError: ATTEMPTS stand-ins in a row are unreadable too.
    """
    number = int(rows["store"][0])
    delivered = rows
    for attempt in range(1, ATTEMPTS + 1):
        try:
            frames = plan.frames(delivered)
            count = decode_window(stores[number], delivered, plan.clip, augment, out, frames)
            return delivered, count
        except Unreadable as error:
            on_bad(number, int(delivered["video"][0]), error.frame, str(error))
            delivered = plan.substitute(rows, attempt)
    raise UserError(
        f"{ATTEMPTS} samples of {stores[number].path} in a row cannot be read; run "
        f"`python -m data_prep verify {stores[number].path}`"
    )
