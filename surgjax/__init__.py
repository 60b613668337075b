"""Surgical video foundation models in JAX. Nothing is loaded before it is asked for.

model, preprocess, tokenizer = surgjax.load("RUN or folder")
clip = surgjax.VideoPreprocessor(num_frames=16, mode="centered")("video.mp4")
"""

_WHERE = {
    "load": "surgjax.api",
    "available_models": "surgjax.api",
    "VideoPreprocessor": "surgjax.preprocess",
    "get_preprocess": "surgjax.preprocess",
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'surgjax' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
