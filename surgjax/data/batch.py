"""What a batch holds, in one place. Normalisation, masks and targets happen on the device."""

from collections.abc import Mapping

import numpy as np

# name -> (axes, dtype). video: RGB, 0 to 255. index: global sample index, the key of a sample's
# randomness on the device. labels: the classes of all tasks side by side, 1 yes, 0 no, UNKNOWN.
# tokens: ids of a caption's text, token_mask False for padding. caption: equal texts have one
# number. recording: number of the video, the same in every store. span: milliseconds in it, from
# and to.
BATCH = {
    "video": (("b", "t", "h", "w", "c"), np.uint8),
    "index": (("b",), np.int64),
    "labels": (("b", "k"), np.uint8),
    "tokens": (("b", "n"), np.int32),
    "token_mask": (("b", "n"), np.bool_),
    "caption": (("b",), np.int32),
    "recording": (("b",), np.int32),
    "span": (("b", "ends"), np.int32),
}
ALWAYS = {"video", "index"}
UNKNOWN = 255


def check(batch: Mapping[str, np.ndarray], **sizes: int) -> None:
    """Raise ValueError unless `batch` is as BATCH says; `sizes` fixes axes by name, as in b=8."""
    if not ALWAYS <= set(batch) <= set(BATCH):
        raise ValueError(f"batch has {sorted(batch)}, expected {sorted(ALWAYS)} and of the others")
    sizes = dict(sizes)
    for name, array in batch.items():
        axes, dtype = BATCH[name]
        if array.dtype != dtype or array.ndim != len(axes):
            raise ValueError(
                f"{name} is {array.dtype} with {array.ndim} axes, expected {np.dtype(dtype)} {axes}"
            )
        for axis, size in zip(axes, array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name} has {axis}={size}, expected {axis}={sizes[axis]}")
    if sizes["c"] != 3:
        raise ValueError(f"video has {sizes['c']} channels, expected 3 (RGB)")
