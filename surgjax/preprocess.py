"""Video as the package `surgclip` 0.1.0 prepares it: a file, a frame and its siblings, or arrays.

Pictures are resized straight to a square (bicubic, antialiased; neither aspect kept nor cropped)
and normalised with 0.5 and 0.5. Results are float32 (frames, height, width, 3), channel last.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from surgjax.errors import UserError, nearest

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")  # a suffix can lie, and Pillow has other programs open some
MODES = ("centered", "online")
SAMPLE_TYPES = ("uniform", "first", "middle")


class VideoPreprocessor:
    """Calls turn a video into what a video tower takes.

    Args:
      num_frames: frames of a clip.
      image_res: side of a picture, pixels.
      sample_rate: every so many sibling pictures of a frame are looked at.
      mode: of a frame's siblings, "centered" takes the frames around it, as many before as after;
        at an end of the video the window is moved inside. "online" takes the frames up to it.
      sample_type: of a file or an array with more frames, cut into `num_frames` equal parts:
        "middle" or "first" frame of each, or "uniform", evenly from the first to the last frame.
      mean, std: taken out of pixels in [0, 1].
      crop: the largest centred square and a bilinear filter instead, as clips of a store are read.

    Raises:
      UserError: a value that is none of those.
    """

    def __init__(
        self,
        num_frames: int = 16,
        image_res: int = 224,
        sample_rate: int = 1,
        mode: str = "centered",
        sample_type: str = "uniform",
        *,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        crop: bool = False,
    ):
        for name, value in (("num_frames", num_frames), ("image_res", image_res)):
            if value < 1:
                raise UserError(f"{name} is {value}; expected at least 1")
        if sample_rate < 1:
            raise UserError(f"sample_rate is {sample_rate}; expected at least 1")
        for name, value, known in (
            ("mode", mode, MODES),
            ("sample_type", sample_type, SAMPLE_TYPES),
        ):
            if value not in known:
                raise UserError(
                    f"{name} is {value!r}{nearest(value, known)}; choose {' or '.join(known)}"
                )
        self.num_frames, self.image_res, self.sample_rate = num_frames, image_res, sample_rate
        self.mode, self.sample_type, self.crop = mode, sample_type, crop
        self.mean, self.std = np.float32(mean), np.float32(std)

    def __call__(self, video: Any) -> Float[np.ndarray, "t h w c"]:
        """
        Args:
          video: path of a video file; path of a frame, whose siblings are the pictures of its
            folder in order of their names; or a list of PIL pictures or uint8 arrays (h w 3), or
            one array (t h w 3).

        Raises:
          UserError: nothing there, no video, or a frame that `sample_rate` steps over.
        """
        if isinstance(video, str | Path):
            path = Path(video)
            is_frame = path.suffix.lower() in PICTURES
            pictures = self._around(path) if is_frame else self._of_file(path)
        else:
            pictures = self._of_arrays(video)
        pictures = list(pictures)
        # A short window ends in its last frame.
        pictures += pictures[-1:] * (self.num_frames - len(pictures))
        return (np.stack(pictures).astype(np.float32) / 255 - self.mean) / self.std

    def frame_window(self, count: int, anchor: int) -> range:
        """Of `count` frames, those of the clip that belongs to frame `anchor`; fewer than
        `num_frames` where there are not so many."""
        start = anchor + 1 - self.num_frames
        if self.mode == "centered":
            start = min(anchor - self.num_frames // 2, count - self.num_frames)
        start = max(start, 0)
        end = anchor + 1 if self.mode == "online" else start + self.num_frames
        return range(start, min(end, count))

    def sampled(self, count: int) -> np.ndarray:
        """Of `count` frames, those a clip of the whole video shows; at most `num_frames`."""
        if count <= self.num_frames:
            return np.arange(count)
        if self.sample_type == "uniform":
            return np.linspace(0, count - 1, self.num_frames).round().astype(int)
        ends = np.linspace(0, count, self.num_frames + 1).astype(int)
        if self.sample_type == "first":
            return ends[:-1]
        return (ends[:-1] + ends[1:] - 1) // 2

    def _around(self, path: Path) -> Iterator[np.ndarray]:
        from PIL import Image

        if not path.is_file():
            raise UserError(f"{path} is no file; expected a picture or a video")
        pictures = [p for p in sorted(path.parent.iterdir()) if p.suffix.lower() in PICTURES]
        kept = pictures[:: self.sample_rate]
        if path not in kept:
            at = pictures.index(path)
            raise UserError(
                f"{path} is picture {at} of its folder, which sample_rate={self.sample_rate} steps "
                f"over; give a picture whose place is a multiple of it, or sample_rate=1"
            )
        for i in self.frame_window(len(kept), kept.index(path)):
            try:
                with Image.open(kept[i], formats=FORMATS) as picture:
                    yield self._square(picture.convert("RGB"))
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(
                    f"{kept[i]} cannot be read as a picture ({type(error).__name__}); expected "
                    f"{', '.join(FORMATS)}; copy it again"
                ) from error

    def _of_file(self, path: Path) -> Iterator[np.ndarray]:
        from PIL import Image

        from data_prep import guarded, media

        if not path.is_file():
            raise UserError(f"{path} is no file; expected a video or a picture of a folder of them")
        found = guarded.results(_frames, path, self.num_frames, self.sample_type)
        try:
            with closing(found):
                for frame in found:
                    yield self._square(Image.fromarray(frame))
        except media.Unreadable as error:
            raise UserError(
                f"{path} cannot be read as a video ({error.reason}: {error.detail}); expected a "
                f"file that FFmpeg reads"
            ) from error

    def _of_arrays(self, video: Any) -> Iterator[np.ndarray]:
        from PIL import Image

        if not len(video):
            raise UserError("a video of no frames; expected at least one")
        for i in self.sampled(len(video)):
            picture = video[int(i)]
            if not isinstance(picture, Image.Image):
                array = np.asarray(picture)
                if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
                    raise UserError(
                        f"a frame is {array.dtype} {array.shape}; expected uint8 (height, width, 3)"
                    )
                picture = Image.fromarray(array)
            yield self._square(picture.convert("RGB"))

    def _square(self, picture) -> np.ndarray:
        from PIL import Image

        side = self.image_res
        if not self.crop:
            return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        from surgjax.data import transforms

        frame, out = np.asarray(picture), np.empty((side, side, 3), np.uint8)
        transforms.resize(frame, transforms.centre_crop(*frame.shape[:2]), out)
        return out


def get_preprocess(num_frames: int = 16, image_res: int = 224, **options: Any) -> Callable:
    """A `VideoPreprocessor`, by the name the package `surgclip` has for it."""
    return VideoPreprocessor(num_frames, image_res, **options)


def _frames(path: Path, num_frames: int, sample_type: str) -> Iterator[np.ndarray]:
    """RGB frames (h, w, 3) that a clip of the whole video shows, for a process of its own."""
    from data_prep import media

    with media.opened(path) as container:
        stream = media.video_stream(container)
        # Containers are wrong about their number of frames, so the pictures are counted.
        count = sum(len(packet.decode()) for packet in media.packets(container, stream))
    if not count:
        raise UserError(f"{path} holds no pictures; expected a video")
    wanted = VideoPreprocessor(num_frames, sample_type=sample_type).sampled(count).tolist()
    with media.opened(path) as container:
        packets = media.packets(container, media.video_stream(container))
        for i, frame in enumerate(frame for packet in packets for frame in packet.decode()):
            for _ in range(wanted.count(i)):
                yield frame.to_ndarray(format="rgb24")
            if i >= wanted[-1]:
                break
