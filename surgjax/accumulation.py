"""The gradient of a global batch from micro-batches, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from surgjax.state import Params


def accumulate(gradient: Callable, params: Params, batch: dict, parts: int):
    """Mean of loss, scalars and gradients over `parts` micro-batches with rows of every device."""

    def add(total, rows):
        return jax.tree.map(jnp.add, total, gradient(params, rows)), None

    pieces = _cut(batch, parts)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], pieces))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, pieces)
    (value, scalars), grads = jax.tree.map(lambda x: x / parts, total)
    return value, scalars, grads


def embed_in_parts(
    made: Callable[[Params], Any], params: Params, batch: dict, parts: int, rng: jax.Array
):
    """Loss, scalars and gradients of a contrastive objective as if the batch were embedded in one
    go (GradCache, arXiv 2101.06983): embed every part, compare all rows, embed every part again to
    pull its embeddings' gradients back."""
    pieces = _cut(batch, parts)
    found = jax.lax.map(lambda rows: made(params).embed(rows, rng=rng), pieces)
    # The inverse of _cut: part k holds rows k, k + parts, ...
    whole = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), found)
    compare = lambda params, embeddings: made(params).compare(embeddings, batch)  # noqa: E731
    compare = jax.value_and_grad(compare, argnums=(0, 1), has_aux=True)
    (value, scalars), (grads, pulled) = compare(params, whole)

    def add(total, piece):
        rows, pulled = piece
        _, pull = jax.vjp(lambda params: made(params).embed(rows, rng=rng), params)
        return jax.tree.map(jnp.add, total, pull(pulled)[0]), None

    grads, _ = jax.lax.scan(add, grads, (pieces, _cut(pulled, parts)))
    return value, scalars, grads


def _cut(batch, parts: int):
    """Rows as (parts, rows of a part): row r goes to part r % parts, so none changes device."""

    def cut(rows: jax.Array) -> jax.Array:
        return jnp.moveaxis(rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]), 1, 0)

    return jax.tree.map(cut, batch)
