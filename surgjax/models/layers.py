"""The transformer's parts. Modules hold only `nnx.Param` (float32); they compute in `dtype`.

Initialisation follows VideoMAE (reference implementation, `modeling_pretrain.py`): Xavier uniform
for every linear map of a block, on the fused q|k|v kernel as one matrix; zero biases; unit scales.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer, ones, xavier_uniform, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from surgjax.errors import UserError, nearest
from surgjax.models.attention import attention

# What the backward pass recomputes: nothing; all of a block; all but the results of linear maps.
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names("linear"),
}

# Public weights belong to one of them each: exact for VideoMAE, V-JEPA, DINO and BERT, tanh for
# SigLIP, quick for OpenAI's CLIP, silu in gated networks.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}
Rotation = Callable[[jax.Array], jax.Array]  # (b n heads hd) -> the same, turned by position
QkvBias = Literal["all", "qv", "qkv", "none"]


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what torch leaves in layers nobody initialises."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nnx.Module):
    """x @ kernel + bias; the kernel is (in, out), `bias` None leaves it out."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: Initializer | None = None,
        bias: Initializer | None = zeros,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kernel = kernel or xavier_uniform()
        self.kernel = nnx.Param(kernel(rngs.params(), (inputs, outputs), jnp.float32))
        if bias is not None:
            self.bias = nnx.Param(bias(rngs.params(), (outputs,), jnp.float32))
        self.has_bias = bias is not None
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        y = _product(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        y = checkpoint_name(y, "linear")  # policies do not see into _product
        return y + self.bias[...].astype(self.dtype) if self.has_bias else y


@jax.custom_vjp
def _product(x, kernel):
    return _contract(x.reshape(-1, x.shape[-1]), kernel, 1, 0).reshape(*x.shape[:-1], -1)


def _product_forward(x, kernel):
    return _product(x, kernel), (x, kernel)


def _product_backward(saved, d_y):
    # Derived automatically, the kernel's gradient is a product with a transposed copy of d_y; in
    # this form no operand is copied.
    x, kernel = saved
    rows = d_y.reshape(-1, d_y.shape[-1])
    d_kernel = _contract(x.reshape(-1, x.shape[-1]), rows, 0, 0)
    return _contract(rows, kernel, 1, 1).reshape(x.shape), d_kernel


def _contract(a, b, axis_a, axis_b):
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))


_product.defvjp(_product_forward, _product_backward)


class LayerNorm(nnx.Module):
    """Normalises the last axis; statistics in float32, eps inside the root."""

    def __init__(self, width: int, *, eps: float, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.scale = nnx.Param(ones(rngs.params(), (width,), jnp.float32))
        self.bias = nnx.Param(zeros(rngs.params(), (width,), jnp.float32))
        self.eps = eps
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        x = x.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.eps)
        return (x * self.scale[...] + self.bias[...]).astype(self.dtype)


class Attention(nnx.Module):
    """Self-attention; one fused kernel with columns q | k | v.

    `qkv_bias` is "all" (image transformers: one vector beside the fused kernel), or the letters
    that have a vector of their own: "qv" (VideoMAE, DINOv3) or "qkv"; or "none".
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qkv_bias: QkvBias = "qv",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise UserError(f"a width of {width} does not divide into {heads} attention heads")
        bias = zeros if qkv_bias == "all" else None
        self.qkv = Linear(width, 3 * width, bias=bias, dtype=dtype, rngs=rngs)
        self.biased = "" if qkv_bias in ("all", "none") else qkv_bias
        for letter in self.biased:
            setattr(self, f"{letter}_bias", nnx.Param(jnp.zeros((width,), jnp.float32)))
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.dtype = jnp.dtype(dtype)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        rotate: Rotation | None = None,
        mask: Bool[Array, "#b #heads #n #n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """`rotate` acts on queries and keys (rotary positions); where `mask` is False, no query
        sees the key (axes of extent 1 stand for all)."""
        qkv = self.qkv(x)
        if self.biased:
            absent = jnp.zeros((x.shape[-1],), jnp.float32)
            parts = [getattr(self, f"{c}_bias")[...] if c in self.biased else absent for c in "qkv"]
            qkv += jnp.concatenate(parts).astype(self.dtype)
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, -1) for part in jnp.split(qkv, 3, axis=-1)
        )
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return self.out(attention(q, k, v, mask).reshape(x.shape))


class Mlp(nnx.Module):
    """Two linear maps with an activation between them, a name of `ACTIVATIONS`.

    Gated: down(activation(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202).
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "gelu",
        gated: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if gated:
            self.gate = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.up = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, dtype=dtype, rngs=rngs)
        self.activation, self.gated = ACTIVATIONS[activation], gated

    def __call__(self, x: Float[Array, "b *n d"]) -> Float[Array, "b *n d"]:
        if self.gated:
            return self.down(self.activation(self.gate(x)) * self.up(x))
        return self.down(self.activation(self.up(x)))


class Block(nnx.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    `layer_scale` is the first value of a learned factor on every channel of both branches (CaiT,
    arXiv 2103.17239), None for no such factor; `activation` and `gated_mlp` as in `Mlp`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        eps: float,
        qkv_bias: QkvBias = "qv",
        layer_scale: float | None = None,
        activation: str = "gelu",
        gated_mlp: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.attention = Attention(width, heads, qkv_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(
            width,
            round(width * mlp_ratio),
            activation=activation,
            gated=gated_mlp,
            dtype=dtype,
            rngs=rngs,
        )
        self.has_layer_scale = layer_scale is not None
        if layer_scale is not None:
            self.layer_scale1 = nnx.Param(jnp.full((width,), layer_scale, jnp.float32))
            self.layer_scale2 = nnx.Param(jnp.full((width,), layer_scale, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        keep: Float[Array, "2 b 1 1"] | None = None,
        *,
        rotate: Rotation | None = None,
        mask: Bool[Array, "#b #heads #n #n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """`keep` multiplies the two residual branches of each sample (stochastic depth); `rotate`
        and `mask` are for the attention."""
        branch = self.attention(self.norm1(x), rotate=rotate, mask=mask)
        if self.has_layer_scale:
            branch *= self.layer_scale1[...].astype(x.dtype)
        x = x + (branch if keep is None else branch * keep[0].astype(x.dtype))
        branch = self.mlp(self.norm2(x))
        if self.has_layer_scale:
            branch *= self.layer_scale2[...].astype(x.dtype)
        return x + (branch if keep is None else branch * keep[1].astype(x.dtype))


def stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """`depth` independently initialised modules as one, every leaf with a leading layer axis."""
    return nnx.vmap(make)(rngs.split(depth))


def run_stack(
    blocks: nnx.Module,
    x: Float[Array, "b *n d"],
    *,
    remat: str = "none",
    drop_path: float = 0.0,
    rng: jax.Array | None = None,
    unroll: int | bool = 1,
    rotate: Rotation | None = None,
    mask: Bool[Array, "#b #heads #n #n"] | None = None,
) -> Float[Array, "b *n d"]:
    """Apply stacked blocks in turn with `lax.scan`.

    Args:
      remat: a name of `REMAT`.
      drop_path: chance that the last block's residual branches are dropped for a sample; the chance
        grows linearly with depth from 0 (Huang et al., stochastic depth, arXiv 1603.09382).
      rng: one key per sample, shape (b,) (or (b, 2) raw); None means no drop path (evaluation).
      unroll: blocks laid out in a row per loop turn, True for all.
      rotate, mask: of every block's attention.
    """
    graphdef, params = nnx.split(blocks)
    depth = jax.tree.leaves(params)[0].shape[0]
    keep = None
    if drop_path and rng is not None:
        keep = _branch_multipliers(rng, np.linspace(0.0, drop_path, depth, dtype=np.float32))

    def body(x, layer):
        params, keep = layer
        return nnx.merge(graphdef, params)(x, keep, rotate=rotate, mask=mask), None

    if remat_policy(remat) is not None:
        body = jax.checkpoint(body, policy=remat_policy(remat), prevent_cse=False)
    return jax.lax.scan(body, x, (params, keep), unroll=unroll)[0]


def remat_policy(name: str) -> Callable | None:
    """The checkpoint policy called `name`.

    Raises:
      UserError: unknown name.
    """
    if name not in REMAT:
        raise UserError(
            f"remat is {name!r}{nearest(name, REMAT)}; choose one of {', '.join(REMAT)}"
        )
    return REMAT[name]


def _branch_multipliers(rng: jax.Array, rates: np.ndarray) -> Float[Array, "depth 2 b 1 1"]:
    """0 with a layer's chance, else 1 / (1 - chance), for each sample and branch."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, (len(rates), 2)), out_axes=-1)(rng)
    rates = rates[:, None, None]
    return jnp.where(noise >= rates, 1 / (1 - rates), 0.0)[..., None, None]
