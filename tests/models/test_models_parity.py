"""Equal numbers from Hugging Face's VideoMAE classes, on random weights of ViT-B size."""

import jax
import numpy as np
import pytest
from flax import nnx

from surgjax import masking, objectives
from surgjax.objectives.mae import IMAGENET_MEAN, IMAGENET_STD

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def peer():
    config = transformers.VideoMAEConfig(layer_norm_eps=1e-6, use_mean_pooling=False)
    torch.manual_seed(0)
    model = transformers.VideoMAEForPreTraining(config)
    with torch.no_grad():  # its own start leaves biases and the mask token at zero
        for name, parameter in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.1 if norm else 0.03)
    return model


def to_ours(tensors):
    """Our parameter tree from a VideoMAEForPreTraining state dict (or one of its gradients)."""
    turned = lambda name: tensors[name].T  # noqa: E731

    def blocks(prefix, depth):
        def stacked(read):
            return np.stack([read(f"{prefix}.{i}.") for i in range(depth)])

        def linear(name):
            return {
                "kernel": stacked(lambda p: turned(f"{p}{name}.weight")),
                "bias": stacked(lambda p: tensors[f"{p}{name}.bias"]),
            }

        def norm(name):
            return {
                "scale": stacked(lambda p: tensors[f"{p}{name}.weight"]),
                "bias": stacked(lambda p: tensors[f"{p}{name}.bias"]),
            }

        inner = "attention.attention."
        fused = stacked(
            lambda p: np.concatenate(
                [turned(f"{p}{inner}{part}.weight") for part in ("query", "key", "value")], axis=1
            )
        )
        return {
            "norm1": norm("layernorm_before"),
            "attention": {
                "qkv": {"kernel": fused},
                "q_bias": stacked(lambda p: tensors[f"{p}{inner}query.bias"]),
                "v_bias": stacked(lambda p: tensors[f"{p}{inner}value.bias"]),
                "out": linear("attention.output.dense"),
            },
            "norm2": norm("layernorm_after"),
            "mlp": {"up": linear("intermediate.dense"), "down": linear("output.dense")},
        }

    def norm(name):
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    cubes = "videomae.embeddings.patch_embeddings.projection"
    return {
        "encoder": {
            "embed": {
                "kernel": tensors[f"{cubes}.weight"].transpose(2, 3, 4, 1, 0).reshape(1536, -1),
                "bias": tensors[f"{cubes}.bias"],
            },
            "blocks": blocks("videomae.encoder.layer", 12),
            "norm": norm("videomae.layernorm"),
        },
        "decoder": {
            "embed": {"kernel": turned("encoder_to_decoder.weight")},
            "mask_token": tensors["mask_token"],
            "blocks": blocks("decoder.decoder_layers", 4),
            "norm": norm("decoder.norm"),
            "head": {
                "kernel": turned("decoder.head.weight"),
                "bias": tensors["decoder.head.bias"],
            },
        },
    }


@pytest.fixture(scope="module")
def ours(peer):
    abstract = nnx.eval_shape(
        lambda: objectives.build(
            "mae", frames=16, size=224, encoder=dict(size="B"), mask_ratio=0.9, rngs=nnx.Rngs(0)
        )
    )
    graphdef, state = nnx.split(abstract, nnx.Param)
    params = to_ours({k: v.numpy() for k, v in peer.state_dict().items()})
    shapes = lambda tree: jax.tree.map(np.shape, tree)  # noqa: E731
    assert shapes(params) == shapes(nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, params)
    return graphdef, state


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(0).integers(0, 256, (1, 16, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pixels(clip):
    normalised = (clip / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(normalised.astype(np.float32).transpose(0, 1, 4, 2, 3))


def test_encoder_features_agree(peer, ours, clip, pixels):
    with torch.no_grad():
        expected = peer.videomae(pixels).last_hidden_state.numpy()
    found = jax.jit(lambda state, clip: nnx.merge(ours[0], state).encode(clip))(ours[1], clip)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pretraining_logits_loss_and_gradients_agree(peer, ours, clip, pixels):
    graphdef, state = ours
    batch = {"video": clip, "index": np.array([5], np.uint32)}
    rng = jax.random.key(0)

    @jax.jit
    def step(state, batch):
        def loss(state):
            objective = nnx.merge(graphdef, state)
            picture = objective.reconstruct(batch, rng)
            return objective.loss(batch, rng=rng)[0], (picture["masked"], picture["prediction"])

        return jax.value_and_grad(loss, has_aux=True)(state)

    (loss, (masked, logits)), grads = step(state, batch)
    hidden = torch.zeros(1, 1568, dtype=torch.bool)
    hidden[0, torch.from_numpy(np.array(masked[0])).long()] = True
    peer.zero_grad()
    expected = peer(pixels, bool_masked_pos=hidden)
    expected.loss.backward()
    np.testing.assert_allclose(logits, expected.logits.detach().numpy(), atol=1e-4)
    assert float(loss) == pytest.approx(expected.loss.item(), abs=1e-4)

    found = nnx.to_pure_dict(grads)
    wanted = to_ours({k: v.grad.numpy() for k, v in peer.named_parameters()})
    for path in (
        ("encoder", "embed", "kernel"),
        ("encoder", "blocks", "attention", "qkv", "kernel"),
        ("encoder", "blocks", "attention", "q_bias"),
        ("decoder", "mask_token"),
        ("decoder", "blocks", "mlp", "down", "kernel"),
    ):
        a, b = found, wanted
        for name in path:
            a, b = a[name], b[name]
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-4, err_msg="/".join(path))


def test_masks_of_ours_are_what_the_peer_accepts():
    keep, hidden = masking.tube(jax.random.key(0), np.arange(2, dtype=np.uint32), (8, 14, 14), 0.9)
    assert keep.shape[1] + hidden.shape[1] == 1568
