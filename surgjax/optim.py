"""AdamW with rules by parameter path: which leaves decay, learn slower, or stay frozen.

Stacked blocks are one leaf (L, ...) on disk and in memory; rules act on the virtual paths
`encoder/blocks/<i>/...` and give a multiplier (L, 1, .., 1). They go by name, never by ndim.
"""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from surgjax.state import Params, flatten, unflatten

# Last name of the path: vectors and learned tokens.
NO_DECAY = ("bias", "scale", "q_bias", "v_bias", "layer_scale1", "layer_scale2")
NO_DECAY += ("mask_token", "cls_token", "registers", "positions", "time_positions", "query")
NO_DECAY += ("logit_scale", "logit_bias", "temperature")

# Below an encoder's first block.
EMBEDDING = ("embed", "cls_token", "registers", "positions", "time_positions")


def virtual_paths(path: str, shape: tuple[int, ...]) -> list[str]:
    """`encoder/blocks/norm1/scale` -> [`encoder/blocks/0/norm1/scale`, ...]; others: themselves."""
    head, stacked, tail = path.partition("blocks/")
    return [f"{head}blocks/{i}/{tail}" for i in range(shape[0])] if stacked else [path]


def multiplier(path: str, shape: tuple[int, ...], rule) -> np.ndarray:
    """`rule(virtual path) -> float` for one leaf: shape () or, when stacked, (L, 1, .., 1)."""
    values = np.array([rule(p) for p in virtual_paths(path, shape)], np.float32)
    return values.reshape(-1, *[1] * (len(shape) - 1)) if "blocks/" in path else values.reshape(())


def decays(path: str) -> bool:
    """Weight decay applies to kernels, not to biases, norm scales and learned tokens."""
    return path.rsplit("/", 1)[-1] not in NO_DECAY


def layer_scale(path: str, decay: float, depth: int) -> float:
    """Layer-wise learning-rate decay of an encoder of `depth` blocks: decay ** (depth + 1 - id).

    id 0 is the embedding, block i has i + 1, all else depth + 1 (VideoMAE, optim_factory.py).
    """
    place = re.match(r"(?:image_)?encoder/(?:blocks/(\d+)/)?(\w+)", path)
    if place and place[1]:
        return decay ** (depth - int(place[1]))
    return decay ** (depth + 1) if place and place[2] in EMBEDDING else 1.0


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019) under the rules of this file.

    Attributes:
      peak_lr, warmup_steps, final_lr, total_steps: linear warm-up, then half a cosine; by the
        state's step, so skipped updates do not delay it. warmup_lr: where the warm-up starts.
      schedule_stretch: schedules are planned for so many times `total_steps` and stop early
        (V-JEPA, arXiv 2404.08471, section 3.3, has 1.25).
      weight_decay: decoupled decay, times the scheduled rate.
      final_weight_decay: the decay follows half a cosine to it, from the first step; 0: constant.
      layer_decay: learning-rate factor between neighbouring encoder layers; 1 is off.
      clip_norm: largest global gradient norm; 0 is off.
      frozen: regular expression searched in virtual paths; what matches does not learn.
      depth: number of encoder blocks, for `layer_decay`.
    """

    peak_lr: float
    total_steps: int
    depth: int
    warmup_steps: int = 0
    final_lr: float = 0.0
    warmup_lr: float = 0.0
    schedule_stretch: float = 1.0
    weight_decay: float = 0.05
    final_weight_decay: float = 0.0
    layer_decay: float = 1.0
    clip_norm: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    frozen: str = ""

    @property
    def schedule_steps(self) -> int:
        """The step at which schedules reach their last value."""
        return round(self.total_steps * self.schedule_stretch)

    def lr(self, step: jax.Array) -> jax.Array:
        return optax.warmup_cosine_decay_schedule(
            self.warmup_lr if self.warmup_steps else self.peak_lr,
            self.peak_lr,
            self.warmup_steps,
            max(self.schedule_steps, self.warmup_steps + 1),
            self.final_lr,
        )(step)

    def decay(self, step: jax.Array) -> jax.Array | float:
        if not self.final_weight_decay:
            return self.weight_decay
        share = jnp.minimum(step / self.schedule_steps, 1.0)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * share))
        return self.final_weight_decay + (self.weight_decay - self.final_weight_decay) * fall

    def is_frozen(self, path: str, shape: tuple[int, ...]) -> bool:
        """True when every layer of the leaf is frozen, so that it needs no gradient at all."""
        paths = virtual_paths(path, shape)
        return bool(self.frozen) and all(re.search(self.frozen, p) for p in paths)

    def init(self, params: Params) -> Params:
        """{adam, skipped, skipped_in_a_row}: moments like `params`, counters int32."""
        zero = jnp.zeros((), jnp.int32)
        adam = optax.scale_by_adam(self.b1, self.b2).init(params)
        return {"adam": adam, "skipped": zero, "skipped_in_a_row": zero + 0}

    def update(
        self, grads: Params, state: Params, params: Params, step: jax.Array, loss: jax.Array
    ) -> tuple[Params, Params, dict[str, jax.Array]]:
        """One update: (params, opt_state, scalars); if not finite, only the counters move."""
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        if self.clip_norm:
            grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, self.clip_norm / norm), grads)
        adam = optax.scale_by_adam(self.b1, self.b2)
        directions, moments = adam.update(grads, state["adam"], params)
        lr, weight_decay = self.lr(step), self.decay(step)
        flat, moved = flatten(params), {}
        for path, direction in flatten(directions).items():
            p = flat[path]
            decay = weight_decay if decays(path) else 0.0
            learns = multiplier(path, p.shape, self._learns)
            moved[path] = p - lr * learns * (direction + decay * p)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        skipped = (~finite).astype(jnp.int32)
        counters = {
            "skipped": state["skipped"] + skipped,
            "skipped_in_a_row": (state["skipped_in_a_row"] + 1) * skipped,
        }
        opt_state = {"adam": jax.tree.map(keep, moments, state["adam"]), **counters}
        params = jax.tree.map(keep, unflatten(moved), params)
        return params, opt_state, {"lr": lr, "grad_norm": norm, **counters}

    def _learns(self, path: str) -> float:
        if self.frozen and re.search(self.frozen, path):
            return 0.0
        return layer_scale(path, self.layer_decay, self.depth)
