"""Hugging Face's `ViTMAEModel`: the encoder of image MAE (arXiv 2111.06377).

Folders of `ViTMAEForPreTraining` are read too; their decoder is left out, so that class itself is
not offered.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from surgjax.errors import UserError
from surgjax.interop import public, vit
from surgjax.interop.keys import Flat, Table
from surgjax.interop.vit import WEIGHTS, encoder_arguments, heads, json_files  # noqa: F401
from surgjax.models.image_model import ImageModel

MODEL_TYPE = "vit_mae"
LICENCE = "unknown"  # of a folder that states none
TABLE = Table(
    rows=tuple(row for row in vit.TABLE.rows if row.part == "image_encoder"),
    ignored={"decoder.*": "the decoder of MAE's pretraining"},
)


def recognises(names: Iterable[str]) -> bool:
    """True for a pretraining file; an encoder alone looks like `vit`, and is read the same."""
    return {
        "decoder.decoder_embed.weight",
        "vit.encoder.layer.0.attention.attention.query.weight",
    } <= set(names)


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table: a pretraining file says `vit.` before the encoder's."""
    return vit.canonical(tensors)


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Nothing to note. Raises UserError for a field that our networks do not have."""
    vit.refuse_unknown(config, source, "ViTMAEModel or ViTMAEForPreTraining")
    return []


class Network(ImageModel):
    """`ViTMAEModel`, which sees a part of the patches in the order that `noise` gives them.

    Raises UserError for another class.
    """

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        if public.architecture(config) != "ViTMAEModel":
            raise UserError(
                f"{public.architecture(config)} has a decoder that surgjax does not read; expected "
                f"ViTMAEModel; as a teacher or with its encoder alone the folder can be used"
            )
        super().__init__(encoder_arguments(config), rngs=rngs)
        patches = self.image_encoder.side**2
        self.kept = int(patches * (1 - config.get("mask_ratio", 0.75)))

    def __call__(
        self, pixel_values: Float[Array, "b h w c"], noise: Float[Array, "b n"]
    ) -> dict[str, Array]:
        order = jnp.argsort(noise, axis=1)
        restore = jnp.argsort(order, axis=1)
        tokens = self.tokens(pixel_values, keep=order[:, : self.kept])
        mask = (restore >= self.kept).astype(jnp.float32)
        return {**self.outputs(tokens), "mask": mask, "ids_restore": restore}


network = Network


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs. Raises UserError for pictures of another size, which the class refuses too."""
    return vit.prepare(config, inputs)


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random pictures, and an order of their patches."""
    inputs = vit.example(config, rng)
    sides = (vit.one(config.get(n, vit.DEFAULTS[n])) for n in ("image_size", "patch_size"))
    side, patch = sides
    noise = rng.random((2, (side // patch) ** 2)).astype(np.float32)
    return {**inputs, "noise": noise}
