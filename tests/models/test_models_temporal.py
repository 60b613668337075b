"""Temporal heads against PyTorch networks written from the papers, and what causal means."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax.errors import UserError
from surgjax.models.temporal import (
    Context,
    MultiStageTcn,
    WindowTransformer,
    resume,
    window_attention,
)
from surgjax.state import rebuild, split

CLASSES, CHANNELS = 5, 12
HEADS = {
    "tcn": partial(MultiStageTcn, stages=3, layers=3, maps=8),
    "transformer": partial(WindowTransformer, depth=2, width=16, heads=2, window=5),
}


def made(name, **changes):
    """(the head, its compiled call) with weights that are no special case."""
    head = HEADS[name](CHANNELS, CLASSES, rngs=nnx.Rngs(0), **changes)
    graphdef, params = split(head)
    draws = np.random.default_rng(1)
    params = jax.tree.map(lambda x: 0.3 * draws.normal(size=x.shape).astype(np.float32), params)
    return rebuild(graphdef, params), jax.jit(partial(_call, graphdef, params))


def _call(graphdef, params, features, seen=None, rng=None):
    return rebuild(graphdef, params)(features, seen, rng=rng)


def video(frames, seed=0, batch=2):
    draws = np.random.default_rng(seed)
    return draws.normal(size=(batch, frames, CHANNELS)).astype(np.float32)


@pytest.mark.parametrize("name", HEADS)
def test_a_causal_head_does_not_see_what_comes_and_sees_as_far_back_as_it_says(name):
    head, call = made(name)
    frames = head.reach + 4
    before, changed = video(frames), video(frames)
    at = head.reach + 2
    changed[:, at:] += 1
    one, two = call(before), call(changed)
    assert one.shape == (getattr(head, "stages", 1), 2, frames, CLASSES)
    np.testing.assert_array_equal(one[:, :, :at], two[:, :, :at])
    assert (np.abs(one - two)[:, :, at] > 1e-6).all()
    changed = video(frames)
    changed[:, 0] += 10  # the first frame, whose reach ends at frame `reach`
    away = np.abs(call(changed) - one)[-1].max((0, 2))
    assert away[head.reach] > 0 and (away[head.reach + 1 :] == 0).all()


@pytest.mark.parametrize("name", HEADS)
def test_an_offline_head_sees_what_comes(name):
    head, call = made(name, causal=False)
    frames = head.reach + 4
    changed = video(frames)
    changed[:, -1] += 10
    away = np.abs(call(changed) - call(video(frames)))[-1].max((0, 2))
    first = frames - 1 - head.reach
    assert away[first] > 0 and (away[:first] == 0).all()
    with pytest.raises(ValueError, match="only a causal head"):
        resume(head, Context.at_start(head, (2, CHANNELS)), video(3))


@pytest.mark.parametrize("name, causal", [("tcn", False), ("transformer", True)])
def test_frames_that_are_not_there_change_nothing(name, causal):
    _, call = made(name, causal=causal)
    whole, seen = video(13), np.zeros((2, 13), bool)
    seen[:, :9] = True
    found = call(whole, seen)[:, :, :9]
    whole[:, 9:] = np.nan
    np.testing.assert_array_equal(call(whole, seen)[:, :, :9], found)
    np.testing.assert_allclose(found, call(whole[:, :9]), atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_video_in_pieces_is_answered_as_the_whole(name):
    head, call = made(name)
    whole, context, found = video(40), Context.at_start(head, (2, CHANNELS)), []
    step = jax.jit(partial(resume, head))
    for first in range(0, 40, 4):
        scores, context = step(context, whole[:, first : first + 4])
        assert context.features.shape == (2, head.reach, CHANNELS)
        found.append(scores)
    np.testing.assert_allclose(np.concatenate(found, axis=2), call(whole), atol=2e-5)


def test_dropout_is_a_function_of_its_key():
    for name in HEADS:
        _, call = made(name)
        one, again, other = (call(video(6), rng=jax.random.key(i)) for i in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).max() > 0 and np.abs(one - call(video(6))).max() > 0


def test_window_attention_is_textbook_attention_under_a_mask():
    draws = np.random.default_rng(0)
    q, k, v = draws.normal(size=(3, 2, 11, 3, 4))
    seen = np.ones((2, 11), bool)
    seen[1, 7:] = False
    ago = np.arange(11)[:, None] - np.arange(11)
    for causal, near in ((True, (ago >= 0) & (ago < 4)), (False, np.abs(ago) < 4)):
        scores = np.einsum("bthd,bshd->bhts", q, k) / 2
        scores = np.where(near & seen[:, None, None], scores, -1e9)
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        expected = np.einsum("bhts,bshd->bthd", weight / weight.sum(-1, keepdims=True), v)
        inputs = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
        found = window_attention(*inputs, jnp.asarray(seen), window=4, causal=causal)
        found = np.asarray(found)
        np.testing.assert_allclose(found[seen], expected[seen], atol=1e-5)


def test_a_width_that_does_not_divide_is_named():
    with pytest.raises(UserError, match="a width of 18 is not a multiple of 2 x 4"):
        WindowTransformer(4, 2, width=18, rngs=nnx.Rngs(0))


@pytest.mark.torch
@pytest.mark.parametrize("causal, kind", [(True, "one_of_n"), (False, "multi_label")])
def test_the_tcn_is_the_papers(causal, kind):
    """MS-TCN section 3.1 and TeCNO section 2.2 with torch's convolutions."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    head, call = made("tcn", causal=causal, kind=kind)
    _, params = split(head)
    tensor = lambda x: torch.from_numpy(np.array(x))  # noqa: E731

    def pointwise(x, linear):
        return functional.conv1d(x, tensor(linear["kernel"]).T[:, :, None], tensor(linear["bias"]))

    def stage(x, weights):
        x = pointwise(x, weights["inputs"])
        for i in range(3):
            layer = jax.tree.map(lambda leaf: leaf[i], weights["layers"])  # noqa: B023
            dilation = 2**i
            padding = (2 * dilation, 0) if causal else (dilation, dilation)
            kernel = tensor(layer["convolution"]["kernel"]).reshape(3, 8, 8).permute(2, 1, 0)
            out = functional.conv1d(
                functional.pad(x, padding),
                kernel,
                tensor(layer["convolution"]["bias"]),
                dilation=dilation,
            )
            x = x + pointwise(functional.relu(out), layer["pointwise"])
        return pointwise(x, weights["outputs"])

    x = video(23)
    outputs = [stage(tensor(x).transpose(1, 2), params["first"])]
    squash = torch.sigmoid if kind == "multi_label" else partial(torch.softmax, dim=1)
    for i in range(2):
        weights = jax.tree.map(lambda leaf: leaf[i], params["later"])  # noqa: B023
        outputs.append(stage(squash(outputs[-1]), weights))
    expected = torch.stack(outputs).transpose(2, 3).numpy()
    np.testing.assert_allclose(call(x), expected, atol=2e-5)


@pytest.mark.torch
@pytest.mark.parametrize("causal", [True, False])
def test_the_transformer_is_torchs_with_a_mask(causal):
    torch = pytest.importorskip("torch")
    head, call = made("transformer", causal=causal)
    _, params = split(head)
    tensor = lambda x: torch.from_numpy(np.array(x))  # noqa: E731
    x, frames = video(17), np.arange(17)
    angle = frames[:, None] / 10000 ** (np.arange(8) / 8)
    linear = lambda x, p: x @ tensor(p["kernel"]) + tensor(p["bias"])  # noqa: E731
    hidden = linear(tensor(x), params["inputs"])
    hidden = hidden + tensor(np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32))
    ago = frames[:, None] - frames
    hide = tensor(~((ago >= 0) & (ago < 5)) if causal else ~(np.abs(ago) < 5))
    for i in range(2):
        p = jax.tree.map(lambda leaf: leaf[i], params["blocks"])  # noqa: B023
        layer = torch.nn.TransformerEncoderLayer(
            16, 2, 64, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        ).eval()
        given = {
            "self_attn.in_proj": p["qkv"],
            "self_attn.out_proj": p["out"],
            "linear1": p["mlp"]["up"],
            "linear2": p["mlp"]["down"],
        }
        state = {}
        for name, values in given.items():
            joint = name.endswith("in_proj")
            state[f"{name}_weight" if joint else f"{name}.weight"] = tensor(values["kernel"]).T
            state[f"{name}_bias" if joint else f"{name}.bias"] = tensor(values["bias"])
        for n in (1, 2):
            state[f"norm{n}.weight"] = tensor(p[f"norm{n}"]["scale"])
            state[f"norm{n}.bias"] = tensor(p[f"norm{n}"]["bias"])
        layer.load_state_dict(state)
        with torch.no_grad():
            hidden = layer(hidden, src_mask=hide)
    norm = params["norm"]
    hidden = torch.nn.functional.layer_norm(
        hidden, (16,), tensor(norm["scale"]), tensor(norm["bias"]), 1e-6
    )
    expected = linear(hidden, params["outputs"]).numpy()
    np.testing.assert_allclose(call(x)[0], expected, atol=2e-5)
