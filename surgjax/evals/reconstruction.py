"""Pictures of what a masked autoencoder fills in, of the same clips every time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from surgjax.data.clip import decode_clip
from surgjax.data.leakage import usable_videos
from surgjax.data.plan import ROW, ClipShape
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError
from surgjax.evals.model import Model

PATCH = (2, 16, 16)


@dataclass(frozen=True)
class Evaluator:
    """Reconstruction grid, and the error of the filled-in pixels.

    Attributes:
      store: folder of a store; held-out videos are shown where it has any.
      clips: number of clips, spread over the videos.
      shown_frames: frames of a clip in the picture, at most.
    """

    store: str
    clips: int = 4
    shown_frames: int = 4

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes step_<step>.png into `out`; returns {"pixel_error", "mean_fill_error"}.

        Both are mean absolute errors of hidden pixels in 0..255: of the reconstruction, and of
        filling every hidden cube with its own mean colour, which the un-normalised picture
        knows anyway.

        Raises:
          UserError: the model reconstructs nothing, or no video is long enough.
        """
        from surgjax.benchmark import pictures  # matplotlib, which a start of a run does not need

        if model.reconstruct is None:
            raise UserError("this model reconstructs nothing; leave evals.reconstruction out")
        store = open_store(self.store)
        rows = fixed_clips(store, model.clip, self.clips)
        video = np.stack([decode_clip(store, row, model.clip) for row in rows])
        found = model.reconstruct({"video": video, "index": rows["index"].astype(np.int32)})
        found = {name: np.asarray(value) for name, value in found.items()}
        masked, filled = fill(
            video, found["masked"], found["prediction"], found["mean"], found["std"]
        )
        flat = np.zeros_like(found["prediction"])
        _, plain = fill(video, found["masked"], flat, found["mean"], found["std"])
        hidden = hidden_pixels(video.shape, found["masked"])
        shown = min(self.shown_frames, model.clip.frames)
        times = np.linspace(0, model.clip.frames - 1, shown).round().astype(int)
        titles = [store.video_id(int(row["video"])) for row in rows]
        figure = pictures.plot_reconstruction(
            video[:, times], masked[:, times], filled[:, times], titles=titles, step=step
        )
        pictures.save(figure, out / f"step_{step:08d}.png")
        return {
            "pixel_error": _error(filled, video, hidden),
            "mean_fill_error": _error(plain, video, hidden),
        }


def fixed_clips(store: Store, clip: ClipShape, count: int) -> np.ndarray:
    """Rows of `count` clips, a function of the store alone: held-out videos first, by position."""
    needed = 1 + (clip.frames - 1) * clip.strides(store)
    long_enough = np.flatnonzero(store.frames >= needed)
    if not len(long_enough):
        raise UserError(
            f"no video of {store.path} has the {int(needed.min())} frames of a clip; choose fewer "
            f"frames or a smaller stride"
        )
    try:
        seen = usable_videos([store])[0][0]
    except UserError:  # every video is held out
        seen = np.zeros(len(store), bool)
    held_out = long_enough[~seen[long_enough]]
    chosen = held_out if len(held_out) else long_enough
    rows = np.zeros(count, ROW)
    spread = np.linspace(0, len(chosen) - 1, count).round().astype(int)
    rows["index"], rows["video"] = np.arange(count), chosen[spread]
    free = store.frames[rows["video"]] - needed[rows["video"]]
    rows["start"] = (free * (np.arange(count) + 1)) // (count + 1)
    return rows


def fill(
    video: UInt8[np.ndarray, "b t h w c"],
    masked: Int[np.ndarray, "b m"],
    prediction: Float[np.ndarray, "b m values"],
    mean: Float[np.ndarray, "b m c"],
    std: Float[np.ndarray, "b m c"],
) -> tuple[UInt8[np.ndarray, "b t h w c"], UInt8[np.ndarray, "b t h w c"]]:
    """(input with hidden cubes grey, input with hidden cubes from the prediction).

    A prediction of normalised pixels is turned into colours with the mean and deviation of the
    true cube, as the VideoMAE pictures are; visible cubes are the input's.
    """
    cubes = _cubes(video)
    rows = np.arange(len(video))[:, None]
    values = prediction.reshape(*masked.shape, -1, video.shape[-1])
    values = values * std[:, :, None] + mean[:, :, None]
    pixels = np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
    grey, filled = cubes.copy(), cubes
    grey[rows, masked] = 128
    filled[rows, masked] = pixels.reshape(*masked.shape, -1)
    return _video(grey, video.shape), _video(filled, video.shape)


def hidden_pixels(shape: tuple, masked: Int[np.ndarray, "b m"]) -> np.ndarray:
    """Bool (b t h w c): pixels in hidden cubes."""
    t, h, w = (size // patch for size, patch in zip(shape[1:4], PATCH, strict=True))
    cubes = np.zeros((shape[0], t * h * w, int(np.prod(PATCH)) * shape[4]), bool)
    cubes[np.arange(shape[0])[:, None], masked] = True
    return _video(cubes, shape)


def _cubes(video: np.ndarray) -> np.ndarray:
    """(b t h w c) -> (b n values); cubes in (t h w) order, values in (p0 p1 p2 c) order."""
    b, t, h, w, c = video.shape
    p0, p1, p2 = PATCH
    video = video.reshape(b, t // p0, p0, h // p1, p1, w // p2, p2, c)
    return video.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, -1, p0 * p1 * p2 * c)


def _video(cubes: np.ndarray, shape: tuple) -> np.ndarray:
    b, t, h, w, c = shape
    p0, p1, p2 = PATCH
    cubes = cubes.reshape(b, t // p0, h // p1, w // p2, p0, p1, p2, c)
    return cubes.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def _error(picture: np.ndarray, video: np.ndarray, hidden: np.ndarray) -> float:
    return float(np.abs(picture.astype(np.float64) - video)[hidden].mean())
