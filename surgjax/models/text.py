"""Text transformers of CLIP (arXiv 2103.00020), SigLIP (2303.15343) and BERT (1810.04805)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from surgjax.errors import UserError, nearest
from surgjax.models.layers import Block, LayerNorm, Rotation, remat_policy, run_stack, stack


class Family(NamedTuple):
    """The public base model of a family."""

    vocab_size: int
    length: int
    width: int
    depth: int
    heads: int
    activation: str
    layer_norm_eps: float


FAMILIES = {
    "bert": Family(30522, 512, 768, 12, 12, "gelu", 1e-12),
    "clip": Family(49408, 77, 512, 12, 8, "quick_gelu", 1e-5),
    "siglip": Family(32000, 64, 768, 12, 12, "gelu_tanh", 1e-6),
}
LEGACY_EOS = 2  # in settings of OpenAI's weights: a sentence ends where its highest id stands


def family_of(name: str) -> Family:
    """The row of `FAMILIES` called `name`.

    Raises:
      UserError: unknown name.
    """
    if name not in FAMILIES:
        raise UserError(
            f"text family {name!r} is not known{nearest(name, FAMILIES)}; "
            f"choose one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


class TextTransformer(nnx.Module):
    """Token ids in, tokens out; what stands for the sentence depends on the family.

    | family | blocks    | a token sees             | the sentence is              |
    |--------|-----------|--------------------------|------------------------------|
    | clip   | pre-norm  | itself and those before  | the first token with id eos  |
    | siglip | pre-norm  | all, padding too         | the last token, mostly padding |
    | bert   | post-norm | all that are no padding  | the first token ([CLS])      |

    A map to the space shared with pictures (CLIP's text projection, SigLIP's head) and BERT's
    pooler are networks of their own. Fresh embeddings are normal with deviation 0.02.

    Args:
      family: a name of `FAMILIES`; what is None below is that of its public base model.
      vocab_size, length: token ids, and positions of the longest sentence.
      width, depth, heads, mlp_ratio: of the blocks.
      activation: a name of `layers.ACTIVATIONS`. layer_norm_eps: of all norms.
      eos: id of CLIP's end-of-text token; 2 means the highest id of the sentence, as in settings
        of OpenAI's weights.
      token_types: BERT's kinds of sentences.
      remat, unroll, drop_path: see `layers.run_stack`.
      dtype: of the computation; parameters are float32.

    Raises:
      UserError: unknown name.
    """

    def __init__(
        self,
        family: str,
        *,
        vocab_size: int | None = None,
        length: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        activation: str | None = None,
        layer_norm_eps: float | None = None,
        eos: int = 49407,
        token_types: int = 2,
        remat: str = "none",
        unroll: int | bool = 1,
        drop_path: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        base = family_of(family)
        remat_policy(remat)  # an unknown name fails here
        self.family, self.eos = family, eos
        self.vocab_size = vocab_size or base.vocab_size
        self.length = length or base.length
        self.width = width or base.width
        self.remat, self.unroll, self.drop_path = remat, unroll, drop_path
        self.dtype = jnp.dtype(dtype)
        eps = base.layer_norm_eps if layer_norm_eps is None else layer_norm_eps

        def embedding(rows: int) -> nnx.Param:
            return nnx.Param(normal(0.02)(rngs.params(), (rows, self.width), jnp.float32))

        self.token_embedding = embedding(self.vocab_size)
        self.positions = embedding(self.length)
        if family == "bert":
            self.type_embedding = embedding(token_types)
        # BERT norms what goes into the blocks, the others what comes out.
        self.norm = LayerNorm(self.width, eps=eps, dtype=dtype, rngs=rngs)
        kind = PostNormBlock if family == "bert" else Block

        def make(rngs):
            return kind(
                self.width,
                heads or base.heads,
                mlp_ratio=mlp_ratio,
                eps=eps,
                qkv_bias="all",
                activation=activation or base.activation,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = stack(make, depth or base.depth, rngs)

    def __call__(
        self,
        ids: Int[Array, "b n"],
        mask: Bool[Array, "b n"] | None = None,
        *,
        token_types: Int[Array, "b n"] | None = None,
        positions: Int[Array, "#b n"] | None = None,
        context: Float[Array, "#b m d"] | None = None,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b n d"]:
        """Tokens of sentences, after the final norm where there is one.

        Args:
          mask: False for padding, which no token sees. SigLIP was trained without one.
          token_types: BERT's, by default all 0. positions: by default 0, 1, 2, ...
          context: vectors in place of the embeddings of m ids, those from `starts` on.
          rng: one key per sample for drop path, or None in evaluation.

        Raises:
          UserError: more tokens than positions.
        """
        count = ids.shape[1]
        if count > self.length:
            raise UserError(
                f"sentences of {count} tokens; this {self.family} network has positions for "
                f"{self.length}; tokenize to at most that length"
            )
        x = self.token_embedding[...][ids]
        if context is not None:
            x = x.at[:, self.starts : self.starts + context.shape[1]].set(context)
        table = self.positions[...]
        x += table[:count] if positions is None else table[positions]
        if self.family == "bert":
            types = self.type_embedding[...]
            x += types[0] if token_types is None else types[token_types]
        x = self.norm(x) if self.family == "bert" else x.astype(self.dtype)
        x = run_stack(
            self.blocks,
            x,
            remat=self.remat,
            drop_path=self.drop_path,
            rng=rng,
            unroll=self.unroll,
            mask=self._visible(count, mask),
        )
        return x if self.family == "bert" else self.norm(x)

    def pool(self, tokens: Float[Array, "b n d"], ids: Int[Array, "b n"]) -> Float[Array, "b d"]:
        """The token of each sentence that stands for it, of what `__call__` returned."""
        if self.family == "bert":
            return tokens[:, 0]
        if self.family == "siglip":
            return tokens[:, -1]
        end = ids.argmax(axis=1) if self.eos == LEGACY_EOS else (ids == self.eos).argmax(axis=1)
        return jnp.take_along_axis(tokens, end[:, None, None], axis=1)[:, 0]

    def encode(
        self,
        ids: Int[Array, "b n"],
        mask: Bool[Array, "b n"] | None = None,
        *,
        context: Float[Array, "#b m d"] | None = None,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b d"]:
        """One vector a sentence: `pool` of `__call__`."""
        return self.pool(self(ids, mask, context=context, rng=rng), ids)

    @property
    def starts(self) -> int:
        """Tokens before a sentence's first word."""
        return 0 if self.family == "siglip" else 1

    def _visible(
        self, count: int, mask: Bool[Array, "b n"] | None
    ) -> Bool[Array, "#b 1 #n n"] | None:
        """True where a query (third axis) sees a key (fourth)."""
        seen = None if mask is None else mask[:, None, None, :]
        if self.family != "clip":
            return seen
        before = jnp.tril(jnp.ones((1, 1, count, count), bool))
        return before if seen is None else before & seen


class PostNormBlock(Block):
    """BERT's block: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __call__(
        self,
        x: Float[Array, "b n d"],
        keep: Float[Array, "2 b 1 1"] | None = None,
        *,
        rotate: Rotation | None = None,
        mask: Bool[Array, "#b #heads #n #n"] | None = None,
    ) -> Float[Array, "b n d"]:
        branch = self.attention(x, rotate=rotate, mask=mask)
        x = self.norm1(x + (branch if keep is None else branch * keep[0].astype(x.dtype)))
        branch = self.mlp(x)
        return self.norm2(x + (branch if keep is None else branch * keep[1].astype(x.dtype)))
