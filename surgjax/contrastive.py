"""Contrastive losses over the global batch that never hold a (batch, batch) array.

Similarities are made for some rows at a time and made again in the backward pass, so a batch of
65,536 pairs costs its embeddings, their gradients and one slab. Rows of the video side and rows of
the text side are walked separately: each needs the other side whole, and no partial sum has to
travel between devices.

Which pairs belong together is decided by three things about every row, integers:

    caption (b,)    its text; rows with equal ones are positives of each other
    recording (b,)  its video
    span (b, 2)     from and to, milliseconds of that video

Of one video, a coarse caption spans the same minutes as mid and fine ones. `overlap` says what such
a pair is: "masked" (it counts neither way), "positive", or "negative".
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from surgjax.sharding import devices_at_hand, everywhere

Overlap = Literal["masked", "positive", "negative"]
OVERLAPS = ("masked", "positive", "negative")
Pairs = Mapping[str, Array]

SLAB = 2**23  # similarities held at once on a device


def info_nce(
    video: Float[Array, "b d"],
    text: Float[Array, "b d"],
    scale: Float[Array, ""],
    pairs: Pairs,
    *,
    overlap: Overlap = "masked",
    slab: int = SLAB,
) -> Float[Array, ""]:
    """Symmetric cross-entropy of video to text and text to video (CLIP, arXiv 2103.00020).

    Positives of a row share its probability equally (ALBEF's and VindLU's rule for duplicates).

    Args:
      video, text: embeddings of unit length, float32; row i of both is a pair.
      scale: factor on the similarities, one over the temperature.
      pairs: "caption", "recording" and "span" of the rows, see above.
      slab: similarities held at once on a device.
    """
    return _info_nce(video, text, scale, dict(pairs), overlap, slab)


def sigmoid(
    video: Float[Array, "b d"],
    text: Float[Array, "b d"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    pairs: Pairs,
    *,
    overlap: Overlap = "masked",
    slab: int = SLAB,
) -> Float[Array, ""]:
    """Every pair as a question of its own (SigLIP, arXiv 2303.15343, algorithm 1).

    -1/b times the sum over all pairs of log sigmoid(z (scale * similarity + bias)), z is 1 for
    positives and -1 for the others. Arguments as in `info_nce`.
    """
    return _sigmoid(video, text, scale, bias, dict(pairs), overlap, slab)


def relation(
    rows: Pairs, columns: Pairs, overlap: Overlap
) -> tuple[Bool[Array, "r c"], Bool[Array, "r c"]]:
    """(positive, counted) for every row and column; a positive pair is always counted."""

    def across(function, a, b):
        return function(a[:, None], b[None, :])

    positive = across(jnp.equal, rows["caption"], columns["caption"])
    if overlap == "negative":
        return positive, jnp.ones_like(positive)
    meet = across(jnp.equal, rows["recording"], columns["recording"])
    meet &= across(jnp.less, rows["span"][:, 0], columns["span"][:, 1])
    meet &= across(jnp.greater, rows["span"][:, 1], columns["span"][:, 0])
    if overlap == "positive":
        return positive | meet, jnp.ones_like(positive)
    return positive, positive | ~meet


def same_video_rate(recording: Integer[Array, "b"]) -> Float[Array, ""]:
    """Share of the pairs of different rows that come from one video."""
    order = jnp.sort(recording)
    ends = [jnp.searchsorted(order, order, side=side) for side in ("left", "right")]
    count = len(recording)
    # As floats: the number of pairs passes 2**31 at a batch of 65,536.
    others = (ends[1] - ends[0]).astype(jnp.float32) - 1
    return (others / max(count - 1, 1)).mean()


# --- info_nce


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _info_nce(video, text, scale, pairs, overlap, slab):
    return _info_nce_forward(video, text, scale, pairs, overlap, slab)[0]


def _info_nce_forward(video, text, scale, pairs, overlap, slab):
    """Loss, and what the gradient needs: of each row of each side the log of its sum of
    exponentials, and the number of its positives, which is the same seen from either side."""

    def side(rows, columns):
        columns, whole = everywhere(columns), everywhere(pairs)

        def slab_of(rows, of_rows):
            logits = scale * _similarity(rows, columns)
            positive, counted = relation(of_rows, whole, overlap)
            total = jax.nn.logsumexp(jnp.where(counted, logits, -jnp.inf), axis=1)
            number = positive.sum(axis=1).astype(jnp.float32)
            right = jnp.where(positive, logits, 0.0).sum(axis=1) / number
            return total, number, total - right

        return _by_slabs(slab_of, (rows, pairs), slab)

    of_video, number, video_loss = side(video, text)
    of_text, _, text_loss = side(text, video)
    loss = (video_loss.mean() + text_loss.mean()) / 2
    return loss, (video, text, scale, pairs, of_video, of_text, number)


def _info_nce_backward(overlap, slab, saved, d_loss):
    video, text, scale, pairs, of_video, of_text, number = saved
    share = d_loss / (2 * len(video))

    def side(rows, columns, of_rows, of_columns):
        columns, of_columns, whole, others = everywhere((columns, of_columns, pairs, number))

        def slab_of(rows, of_rows, number, pairs):
            logits = scale * _similarity(rows, columns)
            positive, counted = relation(pairs, whole, overlap)
            predicted = jnp.exp(logits - of_rows[:, None]) + jnp.exp(logits - of_columns)
            wanted = jnp.where(positive, 1 / number[:, None] + 1 / others, 0.0)
            d_logits = share * (jnp.where(counted, predicted, 0.0) - wanted)
            return _product(d_logits, columns)

        return _by_slabs(slab_of, (rows, of_rows, number, pairs), slab)

    d_video = side(video, text, of_video, of_text)
    d_text = side(text, video, of_text, of_video)
    return scale * d_video, scale * d_text, (video * d_video).sum(), None


_info_nce.defvjp(_info_nce_forward, _info_nce_backward)


# --- sigmoid


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _sigmoid(video, text, scale, bias, pairs, overlap, slab):
    return _sigmoid_forward(video, text, scale, bias, pairs, overlap, slab)[0]


def _sigmoid_forward(video, text, scale, bias, pairs, overlap, slab):
    columns, whole = everywhere((text, pairs))

    def slab_of(rows, pairs):
        logits = scale * _similarity(rows, columns) + bias
        positive, counted = relation(pairs, whole, overlap)
        losses = jax.nn.softplus(jnp.where(positive, -logits, logits))
        return jnp.where(counted, losses, 0.0).sum(axis=1)

    loss = _by_slabs(slab_of, (video, pairs), slab).mean()
    return loss, (video, text, scale, bias, pairs)


def _sigmoid_backward(overlap, slab, saved, d_loss):
    video, text, scale, bias, pairs = saved
    share = d_loss / len(video)

    def side(rows, columns):
        columns, whole = everywhere((columns, pairs))

        def slab_of(rows, pairs):
            logits = scale * _similarity(rows, columns) + bias
            positive, counted = relation(pairs, whole, overlap)
            wrong = jax.nn.sigmoid(jnp.where(positive, -logits, logits))
            d_logits = share * jnp.where(counted, jnp.where(positive, -wrong, wrong), 0.0)
            return _product(d_logits, columns), d_logits.sum(axis=1)

        return _by_slabs(slab_of, (rows, pairs), slab)

    d_video, d_bias = side(video, text)
    d_text, _ = side(text, video)
    d_scale = (video * d_video).sum()
    return scale * d_video, scale * d_text, d_scale, d_bias.sum(), None


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


# --- slabs


def _by_slabs(function: Callable, rows: tuple, slab: int):
    """`function` of some rows of every array of `rows` at a time; its results row by row.

    Row r goes to slab r % n, so that every slab has rows of every device and none changes place.
    """
    count = len(jax.tree.leaves(rows)[0])
    size = _slab_rows(count, slab * devices_at_hand() // count)

    def cut(x):
        return jnp.moveaxis(x.reshape(size, count // size, *x.shape[1:]), 1, 0)

    def paste(x):
        return jnp.moveaxis(x, 0, 1).reshape(count, *x.shape[2:])

    found = jax.lax.map(lambda some: function(*some), jax.tree.map(cut, rows))
    return jax.tree.map(paste, found)


def _slab_rows(count: int, most: int) -> int:
    """The largest divisor of `count` that is at most `most`, at least 1."""
    return next(size for size in range(max(1, min(most, count)), 0, -1) if count % size == 0)


def _similarity(rows: Float[Array, "r d"], columns: Float[Array, "c d"]) -> Float[Array, "r c"]:
    return jnp.einsum("rd,cd->rc", rows, columns, precision="highest")


def _product(weights: Float[Array, "r c"], columns: Float[Array, "c d"]) -> Float[Array, "r d"]:
    return jnp.einsum("rc,cd->rd", weights, columns, precision="highest")
