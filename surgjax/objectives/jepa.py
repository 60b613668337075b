"""Predict the features of hidden tokens (V-JEPA 2, arXiv 2506.09985; V-JEPA, arXiv 2404.08471).

A context encoder sees the visible tokens alone; a predictor tells from them what an average of the
encoder, which sees the whole clip, makes of the hidden ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from surgjax import masking, multiblock
from surgjax.errors import UserError
from surgjax.models.token_decoder import TokenDecoder
from surgjax.models.video_vit import VideoViT
from surgjax.objectives import mae
from surgjax.state import flatten, unflatten

# The published masks, and what the published rule leaves of them on average in groups of 24 rows.
BLOCKS = {
    "short": {"blocks": 8, "scale": 0.15, "keep": 0.23, "predict": 0.48},
    "long": {"blocks": 2, "scale": 0.7, "keep": 0.0625, "predict": 0.7},
}
FEATURES = 64  # tokens of a batch whose rank is told; more take time in every step


class Objective(nnx.Module):
    """Context encoder, predictor, and an average of the encoder as teacher.

    Args:
      frames, size: of the clips (square, pixels).
      encoder: arguments of `VideoViT`: size, positions, remat, drop_path, ... V-JEPA 2 has the
        positions "rope_3d", V-JEPA "sincos_3d", both the qkv_bias "all".
      masks: "sample", or "reference(batch=24)"; see multiblock.py.
      blocks: name -> fields of `multiblock.Kind`; the context is encoded once for each kind.
      aspect: smallest and largest height / width of a block.
      predictor_width, predictor_depth, predictor_heads: of the predictor.
      ema_start, ema_end: momentum of the average, linear over the schedule. V-JEPA 2 has 0.99925
        throughout, V-JEPA 0.998 to 1.
      dtype: of the computation; parameters, targets and loss are float32.

    Raises:
      UserError: a value that does not fit, naming the field.
    """

    samples = "clips"
    ema_of = "encoder"
    make_teacher = None
    from_stores = None
    init_allow = ()
    batch_extras: Mapping[str, Any] = {}

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        encoder: Mapping[str, Any],
        masks: str = "sample",
        blocks: Mapping[str, Mapping[str, Any]] = BLOCKS,
        aspect: Sequence[float] = (0.75, 1.5),
        predictor_width: int = 384,
        predictor_depth: int = 12,
        predictor_heads: int = 12,
        ema_start: float = 0.99925,
        ema_end: float = 0.99925,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if not 0 <= ema_start <= ema_end <= 1:
            raise UserError(
                f"objective.ema_start is {ema_start} and ema_end {ema_end}; expected momenta "
                f"between 0 and 1, the first no larger than the last"
            )
        self.momenta = (ema_start, ema_end)
        self.encoder = VideoViT(frames=frames, image_size=size, dtype=dtype, rngs=rngs, **encoder)
        plan = multiblock.plan(self.encoder.grid, masks, blocks, aspect)
        self.masks = tuple(plan.items())
        names = ("positions", "qkv_bias", "layer_norm_eps", "remat", "unroll", "drop_path")
        self.predictor = TokenDecoder(
            self.encoder.width,
            self.encoder.width,
            width=predictor_width,
            depth=predictor_depth,
            heads=predictor_heads,
            grid=self.encoder.grid,
            norm_eps=encoder.get("layer_norm_eps", 1e-6),
            embed_bias=True,
            dtype=dtype,
            rngs=rngs,
            **{name: encoder[name] for name in names if name in encoder},
        )
        for network in (self.encoder, self.predictor):
            start_as_published(network, rngs)

    def loss(
        self, batch: Mapping[str, Array | np.ndarray], *, rng: jax.Array, teacher: VideoViT
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean over the kinds of masks of the mean L1 distance to the targets; scalars to log.

        Args:
          batch: "video" uint8 (b t h w c), "index" (b,) global sample indices.
          rng: the step's key; with "sample" masks, a sample's mask depends on it and on the
            sample's index alone.
          teacher: the averaged encoder.

        Returns:
          The loss; with it each kind's share, and two alarms of collapse: `target_std`, and
          `feature_rank` of `FEATURES` targets.
        """
        mask_rng, drop_rng = jax.random.split(rng)
        cubes = self.encoder.tubelets(batch["video"])
        target = normalised(teacher.encode_tubelets(mae.standardise(cubes)))
        drop = masking.sample_keys(drop_rng, batch["index"])
        losses = {}
        for number, (name, kind) in enumerate(self.masks):
            mask = kind.draw(jax.random.fold_in(mask_rng, number), batch["index"])
            prediction = self.predict(cubes, mask, drop)
            error = jnp.abs(prediction - masking.gather(target, mask.hidden)).mean(axis=-1)
            asked = jnp.ones_like(error) if mask.asked is None else mask.asked
            # A row's mean first: rows of unequal counts count alike, as batches of devices do.
            losses[f"{name}_loss"] = ((error * asked).sum(axis=1) / asked.sum(axis=1)).mean()
        loss = sum(losses.values()) / len(losses)
        features = some_tokens(target, FEATURES)
        alarms = {"target_std": spread(target), "feature_rank": effective_rank(features)}
        return loss, {"loss": loss} | (losses if len(losses) > 1 else {}) | alarms

    def predict(
        self,
        cubes: UInt8[Array | np.ndarray, "b n values"],
        mask: multiblock.Mask,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b m d"]:
        """The predictor's output for the hidden tokens of `mask`, float32.

        `rng` is one key per sample for drop path, or None in evaluation.
        """
        visible = mae.standardise(masking.gather(cubes, mask.keep))
        tokens = self.encoder.encode_tubelets(visible, mask.keep, rng, mask.seen)
        seen = None
        if mask.seen is not None:
            seen = jnp.concatenate([mask.seen, mask.asked], axis=1)
        return self.predictor(tokens, mask.keep, mask.hidden, rng, seen).astype(jnp.float32)

    def predict_everything(self, video: UInt8[Array | np.ndarray, "b t h w c"]):
        """The predictor's output for all tokens, given all of the encoder's: (b n d), float32.

        What the public class computes when it is given no masks.
        """
        tokens = self.encode(video)
        every = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape[:2])
        return self.predictor(tokens, every, every).astype(jnp.float32)

    def encode(self, video: UInt8[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b n d"]:
        """Final tokens of whole clips, float32."""
        cubes = mae.standardise(self.encoder.tubelets(video))
        return self.encoder.encode_tubelets(cubes).astype(jnp.float32)

    def ema_momentum(self, step: jax.Array, schedule_steps: int) -> jax.Array:
        """Share of the old average that stays at this step."""
        start, end = self.momenta
        return start + (end - start) * jnp.minimum(step / schedule_steps, 1.0)

    def flops_per_clip(self) -> float:
        """Useful floating-point operations of training on one clip.

        The targets run forward only, contexts and predictions count three times. Rows of the mode
        "reference" count as the fixed counts of "sample", which are its averages.
        """
        encoder, tokens = self.encoder, int(np.prod(self.encoder.grid))
        values, width = encoder.embed.kernel.shape
        embed = 2 * tokens * values * width
        trained = 0
        for _, kind in self.masks:
            kept, hidden = (int(s * tokens) for s in (kind.kind.keep, kind.kind.predict))
            trained += embed + mae.block_flops(encoder, kept)
            trained += mae.decoder_flops(self.predictor, kept, hidden)
        return 3.0 * trained + embed + mae.block_flops(encoder, tokens)


def start_as_published(network: nnx.Module, rngs: nnx.Rngs) -> None:
    """Fresh numbers as V-JEPA 2 draws them (`vision_transformer.py`, `predictor.py`).

    Kernels are normal with deviation 0.02, those that end a branch of block l, counted from 1,
    divided by sqrt(2 l); biases and mask tokens are zero, scales one.
    """
    flat = flatten(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    draw = normal(0.02)  # cut at 2 there, which are 100 deviations
    for path, leaf in flat.items():
        name = path.rsplit("/", 1)[-1]
        if name == "kernel":
            flat[path] = draw(rngs.params(), leaf.shape, jnp.float32)
        elif name != "scale":
            flat[path] = jnp.zeros_like(leaf)
        if path.startswith("blocks/") and path.endswith(("attention/out/kernel", "down/kernel")):
            depth = 2.0 * np.arange(1, len(leaf) + 1)[:, None, None]
            flat[path] /= np.sqrt(depth).astype(np.float32)
    state = nnx.state(network, nnx.Param)
    nnx.replace_by_pure_dict(state, unflatten(flat))
    nnx.update(network, state)


def normalised(tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Layer norm without parameters, eps 1e-5 (the published targets); float32."""
    x = tokens.astype(jnp.float32)
    x -= x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-5)


def spread(target: Float[Array, "b n d"]) -> Float[Array, ""]:
    """Deviation of a channel over all tokens of the batch, mean over channels: 0 when all tokens
    are alike, at most 1 for normalised tokens."""
    return target.std(axis=(0, 1)).mean()


def some_tokens(target: Float[Array, "b n d"], count: int) -> Float[Array, "m d"]:
    """At most `count` tokens, spread over samples and places.

    They are taken within samples first, which lie on different devices.
    """
    rows, tokens, width = target.shape
    each = min(tokens, -(-count // rows))
    places = np.linspace(0, tokens, each, endpoint=False).astype(np.int32)
    # Another offset for each sample, so that few tokens of many samples are not of one place.
    places = (places + np.arange(rows, dtype=np.int32)[:, None] * (tokens // 3 + 1)) % tokens
    taken = jnp.take_along_axis(target, places[:, :, None], axis=1).reshape(-1, width)
    return taken[:: max(1, len(taken) // count)][:count]


def effective_rank(features: Float[Array, "m d"]) -> Float[Array, ""]:
    """exp of the entropy of the normalised singular values: RankMe (arXiv 2210.02885, eq. 2).

    1 for one direction, at most the smaller extent.
    """
    # Singular values by the eigenvalues of the small Gram matrix. Those that rounding makes count
    # as none.
    gram = jnp.matmul(features, features.T, precision="highest")
    eigenvalues = jnp.linalg.eigvalsh(gram)
    values = jnp.sqrt(jnp.where(eigenvalues > 1e-6 * eigenvalues[-1], eigenvalues, 0.0))
    share = values / (values.sum() + 1e-7) + 1e-7
    return jnp.exp(-(share * jnp.log(share)).sum())
