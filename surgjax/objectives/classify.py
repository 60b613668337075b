"""Supervised classification of clips: fine-tuning, linear probes, attentive probes.

A transformer and a head on labelled clips; several tasks share one linear map, whose columns are
their classes side by side. Freeze the encoder with `optim.frozen = "encoder/"` to probe it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from surgjax import masking
from surgjax.data.batch import UNKNOWN
from surgjax.data.labelled import task_labels
from surgjax.data.store import Store
from surgjax.errors import UserError, nearest
from surgjax.models.heads import AttentivePool, MeanPool
from surgjax.models.image_vit import ImageViT
from surgjax.models.video_vit import VideoViT, token_grid, tubelets
from surgjax.objectives.mae import block_flops, standardise

HEADS = ("mean_pool", "attentive", "linear")
ERASED = (0.02, 1 / 3, 0.3, 1 / 0.3)  # area from, to; aspect from, to (arXiv 1708.04896)


class Objective(nnx.Module):
    """A classifier of clips.

    Args:
      frames, size: of the clips (square, pixels).
      encoder: arguments of `VideoViT`; `drop_path` is for fine-tuning.
      network: "video", or "image" for an image transformer on the patches of all frames together,
        which also takes single frames (data.frames=1).
      image: arguments of `ImageViT` where they are not its defaults (patch, registers, ...).
      task: comma-separated tasks of the stores, as "phase" or "instrument,verb,target,triplet".
      labels: task -> {"kind", "classes"}; filled from the stores when a run starts.
      head: "mean_pool" (VideoMAE's fc_norm and linear map, on tokens without the final norm),
        "attentive" (V-JEPA 2's probe), "linear" (a linear map on the mean of the final tokens).
      head_depth: self-attention blocks of the attentive head.
      head_dropout: share of channels dropped before the linear map, of "mean_pool".
      init_scale: factor on the fresh linear map.
      label_smoothing: share of the target given to all classes alike, of one-of-n tasks.
      mixup, cutmix: parameters of their Beta distributions (arXiv 1710.09412, 1905.04899), 0 for
        off; one draw a batch, pairs are the batch and its reverse; with both, one of them by lot.
      random_erasing: chance that a box of a clip is replaced by noise, the same box in all frames.
      multi_label_loss: "bce", or "asymmetric" (arXiv 2009.14119, gamma 4 and 1, margin 0.05).
      dtype: of the computation; parameters and loss are float32.

    Raises:
      UserError: a value that does not fit, naming the field.
    """

    samples = "labelled"
    ema_of = None
    make_teacher = None
    # A pretrained encoder's final norm has no place before a mean: the head has its own.
    init_allow = ("encoder/norm/*", "image_encoder/norm/*")

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        encoder: Mapping[str, Any],
        network: str = "video",
        image: Mapping[str, Any] | None = None,
        task: str = "phase",
        labels: Mapping[str, Any] | None = None,
        head: str = "mean_pool",
        head_depth: int = 3,
        head_dropout: float = 0.0,
        init_scale: float = 1e-3,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        random_erasing: float = 0.0,
        multi_label_loss: str = "bce",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if head not in HEADS:
            raise UserError(
                f"objective.head is {head!r}{nearest(head, HEADS)}; choose one of "
                f"{', '.join(HEADS)}"
            )
        if multi_label_loss not in ("bce", "asymmetric"):
            raise UserError(
                f"objective.multi_label_loss is {multi_label_loss!r}; choose bce or asymmetric"
            )
        chances = dict(
            label_smoothing=label_smoothing,
            random_erasing=random_erasing,
            head_dropout=head_dropout,
        )
        for name, value in chances.items():
            if not 0 <= value < 1 + (name == "random_erasing"):
                raise UserError(f"objective.{name} is {value}; expected from 0 to below 1")
        if not labels:
            raise UserError(
                f"objective.labels is empty; it is filled from the stores' task {task!r} when a "
                f"run starts"
            )
        self.tasks = _columns(labels)
        self.classes = tuple(tuple(about["classes"]) for about in labels.values())
        columns = self.tasks[-1][3]
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix
        self.random_erasing, self.multi_label_loss = random_erasing, multi_label_loss
        options = dict(final_norm=head != "mean_pool", dtype=dtype, rngs=rngs)
        if network == "video":
            self.encoder = VideoViT(frames=frames, image_size=size, **encoder, **options)
            self.patch, self.grid = self.encoder.patch, self.encoder.grid
        elif network == "image":
            known = ("size", "remat", "unroll", "drop_path")
            arguments = {name: encoder[name] for name in known if name in encoder}
            arguments |= {"image_size": size} | dict(image or {})
            self.image_encoder = ImageViT(**arguments, **options)
            self.patch = (1, self.image_encoder.patch, self.image_encoder.patch)
            self.grid = token_grid(frames, size, self.patch)
        else:
            raise UserError(f"objective.network is {network!r}; choose video or image")
        body = self.body
        width = body.width
        if head == "attentive":
            self.head: nnx.Module = AttentivePool(
                width,
                columns,
                heads=body.blocks.attention.heads,
                depth=head_depth,
                unroll=body.unroll,
                dtype=dtype,
                rngs=rngs,
            )
        else:
            self.head = MeanPool(
                width,
                columns,
                norm=head == "mean_pool",
                dropout=head_dropout,
                init_scale=init_scale,
                dtype=dtype,
                rngs=rngs,
            )
        self.batch_extras = {"labels": ((columns,), np.uint8)}

    @property
    def body(self) -> VideoViT | ImageViT:
        """The network below the head."""
        return self.encoder if hasattr(self, "encoder") else self.image_encoder

    @property
    def labels(self) -> dict[str, dict[str, Any]]:
        """Task -> {"kind", "classes"}, in the order of the columns."""
        return {
            name: {"kind": kind, "classes": list(classes)}
            for (name, kind, _, _), classes in zip(self.tasks, self.classes, strict=True)
        }

    @staticmethod
    def from_stores(arguments: Mapping[str, Any], stores: Sequence[Store]) -> dict[str, Any]:
        """The classes of the task, as the stores have them."""
        return {"labels": task_labels(stores, arguments.get("task", "phase"))}

    def loss(
        self, batch: Mapping[str, Array | np.ndarray], *, rng: jax.Array, teacher: Any = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean over the tasks of their losses on known labels, and scalars to log.

        Args:
          batch: "video" uint8 (b t h w c), "index" (b,), "labels" uint8 (b k) as in batch.py.
          rng: the step's key.
        """
        mix_rng, erase_rng, sample_rng = jax.random.split(rng, 3)
        cubes = standardise(self.cut(batch["video"]))
        if self.random_erasing:
            keys = masking.sample_keys(erase_rng, batch["index"])
            cubes = self._erase(keys, cubes, batch["video"].shape)
        labels = jnp.asarray(batch["labels"])
        known, targets = labels != UNKNOWN, (labels == 1).astype(jnp.float32)
        targets = self._smooth(targets)
        if self.mixup or self.cutmix:
            cubes, share = self._mix(mix_rng, cubes, batch["video"].shape)
            targets = share * targets + (1 - share) * targets[::-1]
            known = known & known[::-1]
        keys = masking.sample_keys(sample_rng, batch["index"])
        tokens = self.encode_cubes(cubes, keys)
        logits = self.head(tokens, keys)
        losses = self.task_losses(logits, targets, known, batch.get("known"))
        total = sum(losses.values()) / len(losses)
        return total, {"loss": total} | (losses if len(losses) > 1 else {})

    def told_of_all(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """The whole batch with "known" (b tasks), float32, for losses of its micro-batches that
        have the loss of the whole as their mean: how many labels of a task a row has on average.

        Mixed clips are paired within a micro-batch, where their labels are counted.
        """
        if self.mixup or self.cutmix:
            return dict(batch)
        known = batch["labels"] != UNKNOWN
        counts = [
            known[:, first:end].all(axis=1).sum()
            if kind == "one_of_n"
            else known[:, first:end].sum()
            for _, kind, first, end in self.tasks
        ]
        shares = jnp.stack(counts).astype(jnp.float32) / len(known)
        return dict(batch) | {"known": jnp.broadcast_to(shares, (len(known), len(counts)))}

    def task_losses(
        self,
        logits: Float[Array, "b k"],
        targets: Float[Array, "b k"],
        known: Bool[Array, "b k"],
        known_of_all: Float[Array, "b tasks"] | None = None,
    ) -> dict[str, Float[Array, ""]]:
        """<task>_loss: cross-entropy of clips or binary losses of classes, mean over known ones.

        Args:
          known_of_all: "known" of `told_of_all`, when these rows are some of a larger batch.
        """
        losses = {}
        for number, (name, kind, first, end) in enumerate(self.tasks):
            scores, wanted = logits[:, first:end], targets[:, first:end]
            counted = known[:, first:end]
            if kind == "one_of_n":
                each = -(wanted * jax.nn.log_softmax(scores)).sum(axis=1)
                counted = counted.all(axis=1)
            elif self.multi_label_loss == "bce":
                each = jnp.logaddexp(0.0, scores) - wanted * scores
            else:
                each = asymmetric(scores, wanted)
            count = counted.sum()
            if known_of_all is not None:
                count = len(logits) * known_of_all[0, number]
            total = jnp.where(counted, each, 0).sum()
            losses[f"{name}_loss"] = total / jnp.where(count > 0, count, 1)
        return losses

    def logits(self, video: UInt8[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b k"]:
        """Scores of all tasks' classes side by side, float32."""
        return self.head(self.encode_tokens(video))

    def predict(self, video: UInt8[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b k"]:
        """Probabilities of all tasks' classes side by side, float32."""
        logits, parts = self.logits(video), []
        for _, kind, first, end in self.tasks:
            scores = logits[:, first:end]
            parts.append(jax.nn.softmax(scores) if kind == "one_of_n" else jax.nn.sigmoid(scores))
        return jnp.concatenate(parts, axis=1)

    def encode(self, video: UInt8[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b n d"]:
        """Final tokens of whole clips, float32."""
        return self.encode_tokens(video).astype(jnp.float32)

    def encode_tokens(self, video: UInt8[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b n d"]:
        """`encode` in the computation's dtype."""
        return self.encode_cubes(standardise(self.cut(video)))

    def encode_cubes(
        self, cubes: Float[Array, "b n values"], rng: jax.Array | None = None
    ) -> Float[Array, "b n d"]:
        """Tokens of cut and normalised clips; without class token and registers."""
        if isinstance(self.body, VideoViT):
            return self.encoder.encode_tubelets(cubes, rng=rng)
        frames, rows, columns = self.grid
        net = self.image_encoder
        tokens = net.encode(net.embed(cubes), (rows, columns), frames=frames, rng=rng)
        return tokens[:, net.prefix :]

    def cut(self, video: Shaped[Array | np.ndarray, "b t h w c"]) -> Shaped[Array, "b n values"]:
        """The clip's cubes, or its frames' patches, in raster order."""
        return jnp.asarray(tubelets(video, self.patch))

    def flops_per_clip(self) -> float:
        """Three times the forward pass of the encoder and the attentive head's blocks."""
        values, width = self.body.embed.kernel.shape
        tokens = int(np.prod(self.grid))
        forward = 2 * tokens * values * width + block_flops(self.body, tokens)
        if isinstance(self.head, AttentivePool):
            blocks = block_flops(self.head, tokens) if self.head.depth else 0
            forward += blocks + 4 * tokens * width**2
        return 3.0 * forward

    def _smooth(self, targets: Float[Array, "b k"]) -> Float[Array, "b k"]:
        """1 becomes 1 - s + s / classes and 0 becomes s / classes, in one-of-n tasks."""
        share = np.zeros(targets.shape[1], np.float32)
        for _, kind, first, end in self.tasks:
            if kind == "one_of_n":
                share[first:end] = self.label_smoothing / (end - first)
        keep = np.where(share > 0, 1 - self.label_smoothing, 1).astype(np.float32)
        return targets * keep + share

    def _mix(
        self, rng: jax.Array, cubes: Float[Array, "b n values"], shape: tuple[int, ...]
    ) -> tuple[Float[Array, "b n values"], Float[Array, ""]]:
        """(clips mixed with the batch in reverse, the share that stayed)."""
        which, share_rng, box_rng = jax.random.split(rng, 3)
        cut_chance = (self.cutmix > 0) / ((self.cutmix > 0) + (self.mixup > 0))
        cuts = jax.random.uniform(which) < cut_chance
        alpha = jnp.where(cuts, self.cutmix or 1.0, self.mixup or 1.0)
        share = jax.random.beta(share_rng, alpha, alpha)
        height, width = shape[2:4]
        side = jnp.sqrt(1 - share)
        middle = jax.random.uniform(box_rng, (2,)) * np.array([height, width], np.float32)
        half = side * np.array([height, width], np.float32) / 2
        low, high = jnp.floor(middle - half), jnp.floor(middle + half)
        box = inside(low[None], high[None], shape)
        kept = jnp.where(cuts, 1 - box[0, 0, :, :, 0].mean(), share)
        weight = jnp.where(cuts, 1.0 - self.cut(box), share)
        return weight * cubes + (1 - weight) * cubes[::-1], kept

    def _erase(
        self, keys: jax.Array, cubes: Float[Array, "b n values"], shape: tuple[int, ...]
    ) -> Float[Array, "b n values"]:
        height, width = shape[2:4]

        def one(key):
            lot, area_rng, aspect_rng, place_rng, noise_rng = jax.random.split(key, 5)
            area = jax.random.uniform(area_rng, (), minval=ERASED[0], maxval=ERASED[1])
            logs = np.log(ERASED[2:])
            aspect = jnp.exp(jax.random.uniform(aspect_rng, (), minval=logs[0], maxval=logs[1]))
            pixels = area * height * width
            extent = jnp.stack([jnp.sqrt(pixels * aspect), jnp.sqrt(pixels / aspect)])
            extent = jnp.minimum(jnp.round(extent), np.array([height, width], np.float32) - 1)
            free = np.array([height, width], np.float32) - extent
            low = jnp.floor(jax.random.uniform(place_rng, (2,)) * (free + 1))
            chosen = jax.random.uniform(lot) < self.random_erasing
            noise = jax.random.normal(noise_rng, cubes.shape[1:])
            return low, jnp.where(chosen, low + extent, low), noise

        low, high, noise = jax.vmap(one)(keys)
        box = self.cut(inside(low, high, (len(keys), *shape[1:])))
        return jnp.where(box > 0, noise, cubes)


def asymmetric(
    scores: Float[Array, "b k"],
    targets: Float[Array, "b k"],
    gamma_no: float = 4.0,
    gamma_yes: float = 1.0,
    margin: float = 0.05,
) -> Float[Array, "b k"]:
    """Asymmetric loss (Ridnik et al., arXiv 2009.14119, equations 2 to 7) of each class."""
    p = jax.nn.sigmoid(scores)
    shifted = jnp.maximum(p - margin, 0)
    yes = targets * (1 - p) ** gamma_yes * -jax.nn.log_sigmoid(scores)
    no = (1 - targets) * shifted**gamma_no * -jnp.log(jnp.maximum(1 - shifted, 1e-8))
    return yes + no


def inside(
    low: Float[Array, "m 2"], high: Float[Array, "m 2"], shape: tuple[int, ...]
) -> Float[Array, "m t h w c"]:
    """1 in the box low <= (row, column) < high of every frame, else 0."""
    _, frames, height, width, channels = shape
    rows, columns = jnp.arange(height), jnp.arange(width)
    of_rows = (rows >= low[:, :1]) & (rows < high[:, :1])
    of_columns = (columns >= low[:, 1:]) & (columns < high[:, 1:])
    box = (of_rows[:, :, None] & of_columns[:, None, :]).astype(jnp.float32)
    full = (len(low), frames, height, width, channels)
    return jnp.broadcast_to(box[:, None, :, :, None], full)


def _columns(labels: Mapping[str, Any]) -> tuple[tuple[str, str, int, int], ...]:
    """(task, kind, first column, end) of every task."""
    found, end = [], 0
    for name, about in labels.items():
        first, end = end, end + len(about["classes"])
        found.append((name, about["kind"], first, end))
    return tuple(found)
