"""Hugging Face's classes of DINOv2 with registers (arXiv 2309.16588): `Dinov2WithRegistersModel`
and `Dinov2WithRegistersForImageClassification`.

Everything is as in `dinov2`, besides the registers and antialiased resampling of positions.
"""

from collections.abc import Iterable

from surgjax.interop.dinov2 import (  # noqa: F401
    LICENCE,
    TABLE,
    WEIGHTS,
    canonical,
    check_config,
    encoder_arguments,
    example,
    heads,
    json_files,
    network,
    outside_names,
    prepare,
)

MODEL_TYPE = "dinov2_with_registers"


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, whatever class saved them."""
    names = {name.removeprefix("dinov2_with_registers.") for name in names}
    return {"embeddings.register_tokens", "encoder.layer.0.layer_scale1.lambda1"} <= names
