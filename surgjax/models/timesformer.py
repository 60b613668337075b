"""TimeSformer with divided space-time attention (arXiv 2102.05095, section 3)."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.nn.initializers import truncated_normal, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from surgjax.errors import UserError, nearest
from surgjax.models.layers import (
    Attention,
    Block,
    LayerNorm,
    Linear,
    Rotation,
    remat_policy,
    run_stack,
    stack,
)
from surgjax.models.video_vit import Size, size_of, token_grid

COMPAT = ("", "surgclip")


class TimeSformer(nnx.Module):
    """A video transformer whose blocks attend in time, then in space.

    A clip's tokens are (b, t, 1 + s, d): in every frame the class token, which all frames share,
    and the s patches in raster order.

    `compat="surgclip"` computes what the package `surgclip` 0.1.0 does, for weights trained with
    it. It differs in three ways from the block that was meant:

    a) tokens lie space-major in one sequence, which the end cuts as if it were time-major: a step
       of the result holds about s/t places at all times, and no frame;
    b) space attention gets the first patch in place of the class token, and twice its result
       becomes the class token, which no later block reads;
    c) what is dropped before a step's mean is the first entry of that cut, a class token in few.

    With one frame b) alone remains; without attention in time, nothing.

    Args:
      size: a name of `video_vit.SIZES`, or a size of its own.
      frames, image_size: of the clips; pictures are square. patch: pixels a side.
      compat: "" or "surgclip".
      has_time: attention in time and positions in time; without, every frame is a picture.
      has_pool: a norm on the mean patch of every frame, for `encode`.
      activation: a name of `layers.ACTIVATIONS`. layer_norm_eps: of all norms.
      remat, unroll: see `layers.run_stack`. drop_path: of the last block, growing from 0; both
        attentions of a block are dropped together.
      dtype: of the computation; parameters are float32.

    Raises:
      UserError: unknown name, or pictures that the patch does not divide.
    """

    def __init__(
        self,
        size: str | Size,
        frames: int,
        image_size: int,
        *,
        patch: int = 16,
        compat: str = "",
        has_time: bool = True,
        has_pool: bool = True,
        activation: str = "gelu",
        layer_norm_eps: float = 1e-6,
        remat: str = "none",
        unroll: int | bool = 1,
        drop_path: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if compat not in COMPAT:
            raise UserError(
                f"encoder.compat is {compat!r}{nearest(compat, COMPAT)}; choose '' or 'surgclip'"
            )
        remat_policy(remat)  # an unknown name fails here
        self.width, depth, heads, *_, mlp_ratio = size_of(size)
        self.patch = (1, patch, patch)
        self.grid = token_grid(frames, image_size, self.patch)
        self.is_surgclip, self.has_time, self.has_pool = bool(compat), has_time, has_pool
        self.remat, self.unroll, self.drop_path = remat, unroll, drop_path
        self.dtype = jnp.dtype(dtype)
        draw = truncated_normal(0.02)
        learnt = lambda init, *shape: nnx.Param(init(rngs.params(), (1, *shape), jnp.float32))  # noqa: E731
        self.embed = Linear(3 * patch**2, self.width, kernel=draw, dtype=dtype, rngs=rngs)
        self.cls_token = learnt(draw, 1, self.width)
        self.positions = learnt(draw, 1 + self.grid[1] * self.grid[2], self.width)
        if has_time:
            self.time_positions = learnt(zeros, frames, self.width)

        def make(rngs):
            return DividedBlock(
                self.width,
                heads,
                compat=compat,
                has_time=has_time,
                mlp_ratio=mlp_ratio,
                eps=layer_norm_eps,
                activation=activation,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = stack(make, depth, rngs)
        if has_time:
            # Attention in time starts in the first block alone (reference code, vit.py).
            for param in (self.blocks.time_out.kernel, self.blocks.time_out.bias):
                param[...] = param[...].at[1:].set(0.0)
        self.norm = LayerNorm(self.width, eps=layer_norm_eps, dtype=dtype, rngs=rngs)
        if has_pool:
            self.pool_norm = LayerNorm(self.width, eps=layer_norm_eps, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        video: Shaped[Array | np.ndarray, "b t h w c"],
        rng: jax.Array | None = None,
    ) -> Float[Array, "b n d"]:
        """Tokens as the public classes order them: the class token, then every patch's times.

        Raises:
          UserError: with `compat` there is no such order; see `steps`.
        """
        if self.is_surgclip:
            raise UserError("the surgclip form has no token sequence; ask for steps or encode")
        x = self.steps(video, rng)
        patches = rearrange(x[:, :, 1:], "b t s d -> b (s t) d")
        return jnp.concatenate([x[:, 0, :1], patches], axis=1)

    def steps(
        self,
        video: Shaped[Array | np.ndarray, "b t h w c"],
        rng: jax.Array | None = None,
    ) -> Float[Array, "b t m d"]:
        """Tokens of every frame after the final norm, the class token first; with `compat`, the
        published cut of them.

        Args:
          video: normalised. Another number of frames than trained reads the positions in time
            that are nearest; with `compat`, a single frame has none.
          rng: one key per sample for drop path, or None in evaluation.
        """
        x = run_stack(
            self.blocks,
            self._embed(video),
            remat=self.remat,
            drop_path=self.drop_path,
            rng=rng,
            unroll=self.unroll,
        )
        if self.is_surgclip and self.has_time:
            sequence = rearrange(x, "b t m d -> b (m t) d")
            x = rearrange(sequence, "b (t m) d -> b t m d", t=video.shape[1])
        return self.norm(x)

    def encode(
        self,
        video: Shaped[Array | np.ndarray, "b t h w c"],
        rng: jax.Array | None = None,
    ) -> Float[Array, "b t d"]:
        """`pool` of `steps`."""
        return self.pool(self.steps(video, rng))

    def pool(self, steps: Float[Array, "b t m d"]) -> Float[Array, "b t d"]:
        """One vector a step, of what `steps` returned: the norm of its mean patch."""
        return self.pool_norm(steps[:, :, 1:].mean(axis=2))

    def _embed(self, video) -> Float[Array, "b t m d"]:
        count, (_, rows, columns), p = video.shape[1], self.grid, self.patch[1]
        if video.shape[2:4] != (rows * p, columns * p):
            raise UserError(
                f"pictures of {video.shape[2]} x {video.shape[3]} pixels; this network has "
                f"positions for {rows * p} x {columns * p}; resize them"
            )
        cut = rearrange(jnp.asarray(video), "b t (h p) (w q) c -> b t (h w) (p q c)", p=p, q=p)
        positions = self.positions[...].astype(self.dtype)
        patches = self.embed(cut) + positions[:, 1:]
        if self.has_time and not (self.is_surgclip and count == 1):
            trained = self.grid[0]
            near = np.arange(count) * trained // count
            patches += self.time_positions[...].astype(self.dtype)[:, near, None]
        first = self.cls_token[...].astype(self.dtype) + positions[:, :1]
        first = jnp.broadcast_to(first, (*patches.shape[:2], 1, self.width))
        return jnp.concatenate([first, patches], axis=2)


class DividedBlock(Block):
    """Attention over the times of a place, then over the places of a time, then the MLP."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        compat: str,
        has_time: bool,
        mlp_ratio: float,
        eps: float,
        activation: str,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            width,
            heads,
            mlp_ratio=mlp_ratio,
            eps=eps,
            qkv_bias="all",
            activation=activation,
            dtype=dtype,
            rngs=rngs,
        )
        self.is_surgclip, self.has_time = bool(compat), has_time
        if has_time:
            self.time_norm = LayerNorm(width, eps=eps, dtype=dtype, rngs=rngs)
            self.time_attention = Attention(width, heads, qkv_bias="all", dtype=dtype, rngs=rngs)
            self.time_out = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b t m d"],
        keep: Float[Array, "2 b 1 1"] | None = None,
        *,
        rotate: Rotation | None = None,
        mask: None = None,
    ) -> Float[Array, "b t m d"]:
        """`keep` as in `Block`; neither rotation nor mask."""
        keep = jnp.ones((2, 1, 1, 1)) if keep is None else keep
        keep = keep[..., None].astype(x.dtype)
        batch, count = x.shape[:2]
        first, patches = x[:, :, :1], x[:, :, 1:]
        moved = patches
        if self.has_time:
            times = rearrange(patches, "b t s d -> (b s) t d")
            times = self.time_out(self.time_attention(self.time_norm(times)))
            moved = patches + keep[0] * rearrange(times, "(b s) t d -> b t s d", b=batch)
        is_quirky = self.is_surgclip and self.has_time
        seen = jnp.concatenate([patches[:, :, :1] if is_quirky else first, moved], axis=2)
        frames = seen.reshape(batch * count, *seen.shape[2:])
        change = keep[0] * self.attention(self.norm1(frames)).reshape(seen.shape)
        if is_quirky:
            first = 2 * change[:, :, :1]
        elif self.has_time:
            first = first + change[:, :, :1].mean(axis=1, keepdims=True)
        else:
            first = first + change[:, :, :1]
        x = jnp.concatenate([first, moved + change[:, :, 1:]], axis=2)
        return x + keep[1] * self.mlp(self.norm2(x))
