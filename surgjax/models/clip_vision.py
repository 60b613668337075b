"""The picture towers of CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal, xavier_uniform
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from surgjax.errors import UserError, nearest
from surgjax.models.attention import attention
from surgjax.models.layers import (
    Attention,
    Block,
    LayerNorm,
    Linear,
    Mlp,
    remat_policy,
    run_stack,
    stack,
)
from surgjax.models.video_vit import Size, size_of, tubelets

ACTIVATION = {"clip": "quick_gelu", "siglip": "gelu_tanh"}
EPS = {"clip": 1e-5, "siglip": 1e-6}


class ClipVision(nnx.Module):
    """Pictures in, tokens out; one vector a picture through `pool`.

    CLIP: no bias in the patch embedding, a class token, a norm before the blocks; the picture is
    the class token after another norm. SigLIP: patches alone; the picture is what a learnt query
    finds in them.

    Args:
      family: "clip" or "siglip".
      image_size: of the pictures, which are square. patch: pixels a side.
      size: a name of `video_vit.SIZES`, or a size of its own.
      activation, layer_norm_eps: by default the family's.
      has_pool: SigLIP's query, which some files lack.
      remat, unroll, drop_path: see `layers.run_stack`.
      dtype: of the computation; parameters are float32.

    Raises:
      UserError: unknown name, or pictures that the patch does not divide.
    """

    def __init__(
        self,
        family: str,
        image_size: int,
        *,
        size: str | Size = "B",
        patch: int = 16,
        activation: str | None = None,
        layer_norm_eps: float | None = None,
        has_pool: bool = True,
        remat: str = "none",
        unroll: int | bool = 1,
        drop_path: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if family not in EPS:
            raise UserError(
                f"picture family {family!r} is not known{nearest(family, EPS)}; "
                f"choose one of {', '.join(EPS)}"
            )
        if image_size < patch or image_size % patch:
            raise UserError(f"pictures of {image_size} pixels do not divide into {patch}-patches")
        self.width, depth, heads, *_, mlp_ratio = size_of(size)
        self.is_clip = family == "clip"
        self.patch, self.side = patch, image_size // patch
        self.remat, self.unroll, self.drop_path = remat, unroll, drop_path
        self.dtype = jnp.dtype(dtype)
        remat_policy(remat)  # an unknown name fails here
        eps = EPS[family] if layer_norm_eps is None else layer_norm_eps
        activation = activation or ACTIVATION[family]
        bias = {"bias": None} if self.is_clip else {}
        self.embed = Linear(3 * patch**2, self.width, **bias, dtype=dtype, rngs=rngs)
        draw = normal(self.width**-0.5)
        shape = (self.side**2 + self.is_clip, self.width)
        self.positions = nnx.Param(draw(rngs.params(), shape, jnp.float32))
        if self.is_clip:
            self.cls_token = nnx.Param(draw(rngs.params(), (self.width,), jnp.float32))
            self.pre_norm = LayerNorm(self.width, eps=eps, dtype=dtype, rngs=rngs)
        shared = dict(mlp_ratio=mlp_ratio, activation=activation, eps=eps, dtype=dtype)

        def make(rngs):
            return Block(self.width, heads, qkv_bias="all", **shared, rngs=rngs)

        self.blocks = stack(make, depth, rngs)
        self.norm = LayerNorm(self.width, eps=eps, dtype=dtype, rngs=rngs)
        if not self.is_clip and has_pool:
            self.head = QueryPool(self.width, heads, **shared, rngs=rngs)

    def __call__(
        self, pictures: Float[Array, "b h w c"], rng: jax.Array | None = None
    ) -> Float[Array, "b n d"]:
        """Tokens of normalised pictures in raster order; CLIP's after its class token, not normed.

        `rng` is one key per sample for drop path, or None in evaluation.

        Raises:
          UserError: pictures of another size.
        """
        side = self.side * self.patch
        if pictures.shape[1:3] != (side, side):
            raise UserError(
                f"pictures of {pictures.shape[1]} x {pictures.shape[2]} pixels; this network has "
                f"positions for {side} x {side}; resize them"
            )
        x = self.embed(tubelets(pictures[:, None], (1, self.patch, self.patch)))
        if self.is_clip:
            first = jnp.broadcast_to(self.cls_token[...].astype(x.dtype), (len(x), 1, self.width))
            x = jnp.concatenate([first, x], axis=1)
        x += self.positions[...].astype(x.dtype)
        x = self.pre_norm(x) if self.is_clip else x
        x = run_stack(
            self.blocks,
            x,
            remat=self.remat,
            drop_path=self.drop_path,
            rng=rng,
            unroll=self.unroll,
        )
        return x if self.is_clip else self.norm(x)

    def pool(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """One vector a picture, of what `__call__` returned."""
        return self.norm(tokens[:, 0]) if self.is_clip else self.head(tokens)

    def encode(
        self, pictures: Float[Array, "b h w c"], rng: jax.Array | None = None
    ) -> Float[Array, "b d"]:
        """`pool` of `__call__`."""
        return self.pool(self(pictures, rng))


class QueryPool(nnx.Module):
    """SigLIP's head: a learnt query attends to the tokens, then x + mlp(norm(x)) (MAP, 2106.04560).

    The query's map and those of keys and values are one fused kernel, as in `layers.Attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        activation: str,
        eps: float,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.query = nnx.Param(xavier_uniform()(rngs.params(), (1, 1, width), jnp.float32))
        self.attention = Attention(width, heads, qkv_bias="all", dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, eps=eps, dtype=dtype, rngs=rngs)
        hidden = round(width * mlp_ratio)
        self.mlp = Mlp(width, hidden, activation=activation, dtype=dtype, rngs=rngs)
        self.heads = heads

    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        dtype, width = tokens.dtype, tokens.shape[-1]
        qkv = self.attention.qkv
        kernel, bias = qkv.kernel[...].astype(dtype), qkv.bias[...].astype(dtype)
        apart = lambda x: x.reshape(*x.shape[:2], self.heads, -1)  # noqa: E731
        query = jnp.broadcast_to(self.query[...].astype(dtype), (len(tokens), 1, width))
        q = query @ kernel[:, :width] + bias[:width]
        k, v = jnp.split(tokens @ kernel[:, width:] + bias[width:], 2, axis=-1)
        x = self.attention.out(attention(apart(q), apart(k), apart(v)).reshape(query.shape))
        return (x + self.mlp(self.norm(x)))[:, 0]
