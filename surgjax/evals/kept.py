"""Features that outlive a stopped evaluation: one small file for every video and encoder.

The name of a file is a digest of all that its content depends on: the store, the clips, the crop,
the batch, the encoder. So another model or other clips never meet it, and the same question, of
another evaluation too, reads it in place of encoding again. Videos of few clips share a file, so
that batches are full.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from jaxtyping import Float

from surgjax.data.plan import ClipShape
from surgjax.data.store import Store
from surgjax.data.transforms import CENTRE, Augmentation
from surgjax.errors import UserError
from surgjax.evals.features import Encoder, LabelledClips, features
from surgjax.evals.progress import Progress
from surgjax.files import sha256, whole

FULL = 4  # batches that a file holds at least, where the clips allow


def kept_features(
    store: Store,
    clips: LabelledClips,
    clip: ClipShape,
    encoders: Mapping[str, Encoder],
    identities: Mapping[str, str],
    folder: Path | None,
    *,
    batch_size: int = 16,
    augment: Augmentation = CENTRE,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """`features` of the clips, which are sorted by video; with what `folder` has of them.

    Args:
      identities: of each encoder; of "" nothing is kept.
      folder: made where it is missing; None keeps nothing.

    Raises:
      UserError: a batch size below one.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; expected at least 1")
    parts: dict[str, list] = {name: [] for name in encoders}
    of_store = sha256(store.path / "store.json")
    setting = [of_store, str(clip), str(augment), batch_size]
    progress = Progress(len(clips))
    for rows in _groups(clips.rows["video"], FULL * batch_size):
        some = clips.where(rows)
        about = [*setting, some.video_id.tolist(), some.rows["start"].tolist()]
        files = {
            name: folder / f"{digest([own, *about])}.npy"
            for name, own in identities.items()
            if folder is not None and own
        }
        found = {n: np.load(files[n]) for n in encoders if n in files and files[n].is_file()}
        missing = {name: encode for name, encode in encoders.items() if name not in found}
        made = {}
        if missing:
            progress.begin(len(some))
            last = [*missing][-1]  # of the encoders, which take turns at each batch
            missing[last] = _counted(missing[last], progress)
            made = features(store, some, clip, missing, batch_size=batch_size, augment=augment)
        else:
            progress.skip(len(some))
        for name, values in made.items():
            if name in files:
                with whole(files[name]) as part, part.open("wb") as stream:
                    np.save(stream, values)
        for name, values in (found | made).items():
            parts[name].append(values)
    return {name: np.concatenate(part) for name, part in parts.items()}


def digest(content: list) -> str:
    """A name for what follows from `content`, JSON values, and from this version of the program."""
    return hashlib.sha256(json.dumps([_version(), *content]).encode()).hexdigest()


def _groups(video: np.ndarray, least: int) -> list[np.ndarray]:
    """Row numbers of whole videos, side by side until there are `least`."""
    ends = [*np.flatnonzero(video[1:] != video[:-1]) + 1, len(video)]
    groups, first = [], 0
    for end in ends:
        if end - first >= least or end == len(video):
            groups.append(np.arange(first, end))
            first = end
    return groups


def _counted(encode: Encoder, progress: Progress) -> Encoder:
    def encode_and_count(video: np.ndarray) -> np.ndarray:
        made = encode(video)
        progress.add(len(video))
        return made

    return encode_and_count


def _version() -> str:
    """Of this program: features that an older one made are not taken for its own."""
    try:
        return version("surgjax")
    except PackageNotFoundError:
        return ""
