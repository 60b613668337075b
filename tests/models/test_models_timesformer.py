"""TimeSformer's two forms against formulas in float64, written down without the network."""

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from surgjax.errors import UserError
from surgjax.models.timesformer import TimeSformer
from surgjax.models.video_vit import Size
from surgjax.state import flatten, rebuild, split, unflatten

TINY, FRAMES, SIDE = Size(16, 2, 2, mlp_ratio=3.0), 4, 48  # 9 patches a frame


def build(**options):
    """(function of a clip that calls a method, parameters); fresh ones hide what starts at zero."""
    graphdef, params = split(TimeSformer(TINY, FRAMES, SIDE, **options, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    drawn = {
        path: (path.endswith("scale") + 0.3 * rng.standard_normal(leaf.shape)).astype(np.float32)
        for path, leaf in flatten(params).items()
    }

    def ask(video, rng=None, method="__call__"):
        call = lambda params, *args: getattr(rebuild(graphdef, params), method)(*args)  # noqa: E731
        return np.asarray(jax.jit(call)(unflatten(drawn), video, rng))

    return ask, drawn


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).standard_normal((2, FRAMES, SIDE, SIDE, 3)).astype(np.float32)


def norm(x, p, name, i=...):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * p[f"{name}/scale"][i] + p[f"{name}/bias"][i]


def linear(x, p, name, i=...):
    return x @ p[f"{name}/kernel"][i].astype(np.float64) + p[f"{name}/bias"][i]


def attend(x, p, name, i):
    """Self-attention of (b n d)."""
    qkv = linear(x, p, f"{name}/qkv", i).reshape(*x.shape[:2], 3, 2, -1)
    q, k, v = (qkv[:, :, j].transpose(0, 2, 1, 3) for j in range(3))
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]))
    weighted = scores / scores.sum(-1, keepdims=True) @ v
    return linear(weighted.transpose(0, 2, 1, 3).reshape(x.shape), p, f"{name}/out", i)


def mlp(x, p, i):
    x = linear(x, p, "blocks/mlp/up", i)
    return linear(0.5 * x * (1 + erf(x / np.sqrt(2))), p, "blocks/mlp/down", i)


def embedded(video, p):
    """One class token a frame before the patches: (b, t, 1 + n, d), with positions in space."""
    b, t = video.shape[:2]
    cut = video.reshape(b, t, 3, 16, 3, 16, 3).transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, 9, -1)
    patches = linear(cut.astype(np.float64), p, "embed")
    first = np.broadcast_to(p["cls_token"][None], (b, t, 1, 16))
    return np.concatenate([first, patches], axis=2) + p["positions"][None]


def clean(video, p):
    """The published block: one class token, whose changes are averaged over the frames."""
    b, t = video.shape[:2]
    x = embedded(video, p)
    cls, x = x[:, 0, 0], x[:, :, 1:] + p["time_positions"][:, :, None]
    for i in range(2):
        for place in range(9):  # attention in time, place by place
            times = x[:, :, place]
            change = attend(norm(times, p, "blocks/time_norm", i), p, "blocks/time_attention", i)
            x[:, :, place] = times + linear(change, p, "blocks/time_out", i)
        summed = 0
        after = x.copy()
        for frame in range(t):  # attention in space, frame by frame
            seen = np.concatenate([cls[:, None], x[:, frame]], axis=1)
            change = attend(norm(seen, p, "blocks/norm1", i), p, "blocks/attention", i)
            summed = summed + change[:, 0] / t
            after[:, frame] += change[:, 1:]
        cls, x = cls + summed, after
        cls = cls + mlp(norm(cls, p, "blocks/norm2", i), p, i)
        x = x + mlp(norm(x, p, "blocks/norm2", i), p, i)
    return norm(cls, p, "norm"), norm(x, p, "norm")


def surgclip(video, p):
    """The package: one flat sequence, (place, time) with the class tokens' t entries in front."""
    b, t = video.shape[:2]
    x = embedded(video, p)
    if t > 1:
        x[:, :, 1:] += p["time_positions"][:, :t, None]
    x = x.transpose(0, 2, 1, 3).reshape(b, 10 * t, 16)
    for i in range(2):
        old = x[:, t:].reshape(b, 9, t, 16)
        times = old.reshape(b * 9, t, 16)
        change = attend(norm(times, p, "blocks/time_norm", i), p, "blocks/time_attention", i)
        moved = old + linear(change, p, "blocks/time_out", i).reshape(old.shape)
        stream, space = np.zeros((b, t, 16)), np.zeros_like(moved)
        for frame in range(t):
            seen = np.concatenate([old[:, :1, frame], moved[:, :, frame]], axis=1)
            change = attend(norm(seen, p, "blocks/norm1", i), p, "blocks/attention", i)
            stream[:, frame], space[:, :, frame] = change[:, 0], change[:, 1:]
        x = np.concatenate([2 * stream, (moved + space).reshape(b, 9 * t, 16)], axis=1)
        x = x + mlp(norm(x, p, "blocks/norm2", i), p, i)
    return norm(x, p, "norm").reshape(b, t, 10, 16)


def plain(video, p):
    """An image transformer on every frame."""
    x = embedded(video, p).reshape(-1, 10, 16)
    for i in range(2):
        x = x + attend(norm(x, p, "blocks/norm1", i), p, "blocks/attention", i)
        x = x + mlp(norm(x, p, "blocks/norm2", i), p, i)
    return norm(x, p, "norm").reshape(*video.shape[:2], 10, 16)


def test_clean_form(video):
    ask, p = build()
    cls, patches = clean(video, p)
    tokens = ask(video)
    np.testing.assert_allclose(tokens[:, 0], cls, atol=1e-4)
    in_order = patches.transpose(0, 2, 1, 3).reshape(2, 9 * FRAMES, 16)
    np.testing.assert_allclose(tokens[:, 1:], in_order, atol=1e-4)
    expected = norm(patches.mean(axis=2), p, "pool_norm")
    np.testing.assert_allclose(ask(video, method="encode"), expected, atol=1e-4)


@pytest.mark.parametrize("frames", [FRAMES, 1])
def test_surgclip_form(video, frames):
    ask, p = build(compat="surgclip")
    expected = surgclip(video[:, :frames], p)
    np.testing.assert_allclose(ask(video[:, :frames], method="steps"), expected, atol=1e-4)
    pooled = norm(expected[:, :, 1:].mean(axis=2), p, "pool_norm")
    np.testing.assert_allclose(ask(video[:, :frames], method="encode"), pooled, atol=1e-4)


@pytest.mark.parametrize("compat", ["", "surgclip"])
def test_without_time_every_frame_is_a_plain_picture(video, compat):
    ask, p = build(compat=compat, has_time=False)
    pooled = norm(plain(video, p)[:, :, 1:].mean(axis=2), p, "pool_norm")
    np.testing.assert_allclose(ask(video, method="encode"), pooled, atol=1e-4)


def test_clips_of_another_length_read_the_nearest_times(video):
    ask, p = build()
    half = dict(p, time_positions=p["time_positions"][:, [0, 2]])
    cls, _ = clean(video[:, :2], half)
    np.testing.assert_allclose(ask(video[:, :2])[:, 0], cls, atol=1e-4)


def test_options_of_training(video):
    expected = build()[0](video)
    ask = build(remat="full", unroll=True, drop_path=0.9)[0]
    np.testing.assert_allclose(ask(video), expected, atol=1e-4)
    keys, order = jax.random.split(jax.random.key(0), 2), np.array([1, 0])
    dropped = ask(video, keys)
    np.testing.assert_allclose(ask(video[order], keys[order]), dropped[order], atol=1e-4)
    assert np.abs(dropped - expected).max() > 1e-2


def test_only_the_first_fresh_block_attends_in_time():
    network = TimeSformer(TINY, FRAMES, SIDE, rngs=nnx.Rngs(0))
    kernel = np.asarray(network.blocks.time_out.kernel[...])
    assert kernel[0].any() and not kernel[1:].any()


def test_mistakes_are_one_line(video):
    with pytest.raises(UserError, match="encoder.compat is 'surgclp' .did you mean 'surgclip'"):
        TimeSformer(TINY, FRAMES, SIDE, compat="surgclp", rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="data.size is 50"):
        TimeSformer(TINY, FRAMES, 50, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="pictures of 32 x 48 pixels.*positions for 48 x 48"):
        build()[0](video[:, :, :32])
    with pytest.raises(UserError, match="no token sequence"):
        build(compat="surgclip")[0](video)
