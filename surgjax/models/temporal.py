"""Temporal heads: classes of every frame of a video from the features of its frames.

`MultiStageTcn` is a temporal convolutional network in stages, each of which refines the answer of
the one before (MS-TCN, arXiv 1903.01945), causal as in TeCNO (arXiv 2003.10751).
`WindowTransformer` is a transformer whose frames see a window of frames. A causal head answers for
a frame from this frame and earlier ones alone; `resume` lets it read a video piece by piece, at
constant memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from surgjax.errors import UserError
from surgjax.models.attention import attention
from surgjax.models.layers import LayerNorm, Linear, Mlp, stack, uniform_fan_in

TAPS = 3  # frames that a dilated convolution sees
SQUASH = {"one_of_n": jax.nn.softmax, "multi_label": jax.nn.sigmoid}
EPS = 1e-6


class MultiStageTcn(nnx.Module):
    """MS-TCN: dilations 1, 2, 4, ... in the layers of a stage; a stage after the first one sees the
    class probabilities of the one before.

    Args:
      inputs: channels of the features.
      kind: of the task, one_of_n (softmax between stages) or multi_label (sigmoid).
      stages, layers, maps: TeCNO's comparison by SurgVISTA has 2 stages of 8 or 9 layers with 32 or
        64 maps.
      causal: else a frame sees as far ahead as back.
      dropout: share of channels dropped in every layer while training.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        kind: str = "one_of_n",
        stages: int = 2,
        layers: int = 9,
        maps: int = 64,
        causal: bool = True,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        def make(inputs):
            return lambda rngs: Stage(inputs, classes, layers, maps, causal, dropout, rngs=rngs)

        self.first = make(inputs)(rngs)
        if stages > 1:
            self.later = stack(make(classes), stages - 1, rngs)
        self.kind, self.stages, self.layers, self.causal = kind, stages, layers, causal

    @property
    def reach(self) -> int:
        """Frames before a frame, and without `causal` after it, that its answer depends on."""
        return self.stages * (TAPS - 1 if self.causal else 1) * (2**self.layers - 1)

    def __call__(
        self,
        features: Float[Array, "b t d"],
        seen: Bool[Array, "b t"] | None = None,
        *,
        first: int | Array = 0,
        rng: jax.Array | None = None,
    ) -> Float[Array, "stages b t classes"]:
        """Scores of every stage, the last one's are the answer.

        Args:
          seen: False for frames that are not there (padding); the others are answered as if the
            video had no such frames.
          first: number of the first frame in its video; changes nothing here.
          rng: key for dropout, None in evaluation.
        """
        there = jnp.ones(features.shape[:2], bool) if seen is None else seen
        keys = None if rng is None else jax.random.split(rng, self.stages)
        scores = self.first(features, there, None if keys is None else keys[0])
        if self.stages == 1:
            return scores[None]
        graphdef, params = nnx.split(self.later)

        def refine(scores, stage):
            params, key = stage
            scores = nnx.merge(graphdef, params)(SQUASH[self.kind](scores), there, key)
            return scores, scores

        later = None if keys is None else keys[1:]
        return jnp.concatenate([scores[None], jax.lax.scan(refine, scores, (params, later))[1]])


class Stage(nnx.Module):
    """A linear map, dilated residual layers, a linear map to the classes."""

    def __init__(
        self,
        inputs: int,
        classes: int,
        layers: int,
        maps: int,
        causal: bool,
        dropout: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.inputs = _linear(inputs, maps, rngs)
        self.layers = stack(lambda rngs: DilatedLayer(maps, causal, dropout, rngs), layers, rngs)
        self.outputs = _linear(maps, classes, rngs)
        self.dilations = tuple(2**layer for layer in range(layers))

    def __call__(
        self, x: Float[Array, "b t d"], seen: Bool[Array, "b t"], rng: jax.Array | None
    ) -> Float[Array, "b t classes"]:
        graphdef, params = nnx.split(self.layers)
        dilations = np.array(self.dilations)
        keys = None if rng is None else jax.random.split(rng, len(dilations))

        def body(x, layer):
            params, dilation, key = layer
            return nnx.merge(graphdef, params)(x, seen, dilation, int(dilations[-1]), key), None

        x = self.inputs(jnp.where(seen[..., None], x, 0)) * seen[..., None]
        return self.outputs(jax.lax.scan(body, x, (params, dilations, keys))[0])


class DilatedLayer(nnx.Module):
    """x + map(relu(convolution of three frames, `dilation` apart)); zeros stand for frames outside.

    A causal one sees frames t - 2 dilation, t - dilation, t; else t - dilation, t, t + dilation.
    """

    def __init__(self, maps: int, causal: bool, dropout: float, rngs: nnx.Rngs):
        self.convolution = _linear(TAPS * maps, maps, rngs)
        self.pointwise = _linear(maps, maps, rngs)
        self.offsets = (-2, -1, 0) if causal else (-1, 0, 1)
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "b t maps"],
        seen: Bool[Array, "b t"],
        dilation: Array,
        largest: int,
        rng: jax.Array | None,
    ) -> Float[Array, "b t maps"]:
        """`dilation` may be traced, `largest` bounds it."""
        before, after = -self.offsets[0] * largest, self.offsets[-1] * largest
        padded = jnp.pad(x, ((0, 0), (before, after), (0, 0)))
        taps = [
            jax.lax.dynamic_slice_in_dim(padded, before + offset * dilation, x.shape[1], axis=1)
            for offset in self.offsets
        ]
        branch = jax.nn.relu(self.convolution(jnp.concatenate(taps, axis=-1)))
        return (x + _drop(self.pointwise(branch), self.dropout, rng)) * seen[..., None]


class WindowTransformer(nnx.Module):
    """A pre-norm transformer over frames, with sinusoidal positions.

    Args:
      inputs, kind, causal, dropout: as in `MultiStageTcn`; dropout acts on both branches.
      depth, width, heads: of the blocks.
      window: frames that a frame sees in a block, itself among them; without `causal` it sees
        window - 1 frames to each side.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        depth: int = 2,
        width: int = 64,
        heads: int = 4,
        window: int = 256,
        causal: bool = True,
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        if width % (2 * heads):
            raise UserError(f"a width of {width} is not a multiple of 2 x {heads} attention heads")
        self.inputs = Linear(inputs, width, rngs=rngs)
        make = lambda rngs: WindowBlock(width, heads, window, causal, dropout, rngs=rngs)  # noqa: E731
        self.blocks = stack(make, depth, rngs)
        self.norm = LayerNorm(width, eps=EPS, rngs=rngs)
        self.outputs = Linear(width, classes, rngs=rngs)
        self.depth, self.window, self.causal = depth, window, causal

    @property
    def reach(self) -> int:
        """As in `MultiStageTcn`."""
        return self.depth * (self.window - 1)

    def __call__(
        self,
        features: Float[Array, "b t d"],
        seen: Bool[Array, "b t"] | None = None,
        *,
        first: int | Array = 0,
        rng: jax.Array | None = None,
    ) -> Float[Array, "1 b t classes"]:
        """As in `MultiStageTcn`; positions count from `first`."""
        there = jnp.ones(features.shape[:2], bool) if seen is None else seen
        x = self.inputs(jnp.where(there[..., None], features, 0))
        x = x + sinusoids(first + jnp.arange(x.shape[1]), x.shape[2])
        graphdef, params = nnx.split(self.blocks)
        keys = None if rng is None else jax.random.split(rng, self.depth)

        def body(x, layer):
            params, key = layer
            return nnx.merge(graphdef, params)(x, there, key), None

        x = jax.lax.scan(body, x, (params, keys))[0]
        return self.outputs(self.norm(x))[None]


class WindowBlock(nnx.Module):
    """x + attention(norm(x)) within windows, then x + mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        causal: bool,
        dropout: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, eps=EPS, rngs=rngs)
        self.qkv = Linear(width, 3 * width, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=EPS, rngs=rngs)
        self.mlp = Mlp(width, 4 * width, rngs=rngs)
        self.heads, self.window, self.causal, self.dropout = heads, window, causal, dropout

    def __call__(
        self, x: Float[Array, "b t d"], seen: Bool[Array, "b t"], rng: jax.Array | None
    ) -> Float[Array, "b t d"]:
        keys = (None, None) if rng is None else jax.random.split(rng)
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, -1)
            for part in jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)
        )
        branch = window_attention(q, k, v, seen, window=self.window, causal=self.causal)
        x = x + _drop(self.out(branch.reshape(x.shape)), self.dropout, keys[0])
        return x + _drop(self.mlp(self.norm2(x)), self.dropout, keys[1])


def window_attention(
    q: Float[Array, "b t heads hd"],
    k: Float[Array, "b t heads hd"],
    v: Float[Array, "b t heads hd"],
    seen: Bool[Array, "b t"],
    *,
    window: int,
    causal: bool,
) -> Float[Array, "b t heads hd"]:
    """Attention of every frame to the `window` frames that end with it; without `causal` also to
    the window - 1 after it. Keys that are not `seen` are left out.

    Queries are taken in blocks of a window, which see their own block and its neighbours: memory
    grows with t x window, not with t x t.
    """
    batch, length = q.shape[:2]
    blocks = -(-length // window)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, blocks * window - length)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(batch, blocks, window, *x.shape[2:])

    def with_neighbours(x):
        x = cut(x)
        outside = jnp.zeros_like(x[:, :1])
        parts = [jnp.concatenate([outside, x[:, :-1]], axis=1), x]
        if not causal:
            parts.append(jnp.concatenate([x[:, 1:], outside], axis=1))
        return jnp.concatenate(parts, axis=2)

    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    ago = np.arange(window)[:, None] - np.arange((2 if causal else 3) * window) + window
    near = (ago < window) & (ago >= 0 if causal else ago > -window)
    mask = flat(with_neighbours(seen))[:, None, None] & near
    out = attention(flat(cut(q)), flat(with_neighbours(k)), flat(with_neighbours(v)), mask)
    return out.reshape(batch, blocks * window, *out.shape[2:])[:, :length]


def sinusoids(position: Int[Array, "t"], width: int) -> Float[Array, "t d"]:
    """Sines, then cosines of position / 10000^(2 i / d) ("Attention is all you need", section 3.5,
    with the halves side by side), of positions that may be traced."""
    frequency = 10000.0 ** (-np.arange(width // 2, dtype=np.float32) / (width // 2))
    angle = position[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """What a causal head has to remember of a video: `reach` frames.

    Attributes:
      features: (b reach d), the last frames. seen: (b reach), False before the video's start.
      first: int32, number of the first of these frames in its video.
    """

    features: Float[Array, "b reach d"]
    seen: Bool[Array, "b reach"]
    first: Array

    @staticmethod
    def at_start(head: MultiStageTcn | WindowTransformer, shape: Sequence[int]) -> "Context":
        """Of `shape` = (videos, channels), before their first frames."""
        batch, channels = shape
        features = jnp.zeros((batch, head.reach, channels), jnp.float32)
        return Context(features, jnp.zeros(features.shape[:2], bool), jnp.int32(-head.reach))


def resume(
    head: MultiStageTcn | WindowTransformer,
    context: Context,
    features: Float[Array | np.ndarray, "b n d"],
) -> tuple[Float[Array, "stages b n classes"], Context]:
    """Scores of the next n frames, as of the whole video, and the context for those after them.

    Raises:
      ValueError: a head that is not causal.
    """
    if not head.causal:
        raise ValueError("only a causal head can answer before the video has ended")
    new = features.shape[1]
    frames = jnp.concatenate([context.features, features], axis=1)
    seen = jnp.concatenate([context.seen, jnp.ones(features.shape[:2], bool)], axis=1)
    scores = head(frames, seen, first=context.first)[:, :, head.reach :]
    return scores, Context(frames[:, new:], seen[:, new:], context.first + new)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
    """A map that starts as torch's convolutions do."""
    start = uniform_fan_in(inputs)
    return Linear(inputs, outputs, kernel=start, bias=start, rngs=rngs)


def _drop(x: Float[Array, "b t d"], share: float, rng: jax.Array | None) -> Float[Array, "b t d"]:
    if rng is None or not share:
        return x
    return jnp.where(jax.random.bernoulli(rng, 1 - share, x.shape), x / (1 - share), 0)
