"""Equal numbers from Hugging Face's VideoMAE classes, on random weights of ViT-B's width.

The weights come to us as a user's do, through a folder that the public class saved. Slow: all
of its layers.
"""

from functools import partial

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from surgjax import masking, objectives
from surgjax.interop import find_format
from surgjax.interop.keys import from_ours, to_ours
from surgjax.interop.sources import init_params
from surgjax.models.video_vit import Size
from surgjax.objectives.mae import IMAGENET_MEAN, IMAGENET_STD
from surgjax.state import flatten, rebuild, split

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch
VIDEOMAE = find_format("videomae")
OPTIMISED = {"xla_backend_optimization_level": 2}  # running a ViT-B takes longer than compiling it


@pytest.fixture(scope="module", params=[2, pytest.param(12, marks=pytest.mark.slow)])
def peer(request):
    config = transformers.VideoMAEConfig(
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
        num_hidden_layers=request.param,
        decoder_num_hidden_layers=request.param // 3 or 1,
    )
    torch.manual_seed(0)
    model = transformers.VideoMAEForPreTraining(config)
    with torch.no_grad():  # its own start leaves biases and the mask token at zero
        for name, parameter in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.1 if norm else 0.03)
    return model


@pytest.fixture(scope="module")
def folder(peer, tmp_path_factory):
    transformers.utils.logging.disable_progress_bar()
    path = tmp_path_factory.mktemp("public") / "base"
    peer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(peer, folder):
    """(graphdef, parameters)"""
    depth, decoder_depth = peer.config.num_hidden_layers, peer.config.decoder_num_hidden_layers
    objective = nnx.eval_shape(
        lambda: objectives.build(
            "mae",
            frames=16,
            size=224,
            encoder=dict(size=Size(768, depth, 12, 384, decoder_depth, 6)),
            decoder_depth=decoder_depth,
            mask_ratio=0.9,
            rngs=nnx.Rngs(0),
        )
    )
    graphdef, shapes = split(objective)
    loaded = init_params(folder, expected=jax.tree.map(lambda x: x.shape, shapes))
    assert loaded.missing == []
    return graphdef, loaded.params


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(0).integers(0, 256, (1, 16, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pixels(clip):
    normalised = (clip / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(normalised.astype(np.float32).transpose(0, 1, 4, 2, 3))


def test_every_tensor_goes_back_bitwise(folder, ours):
    back = from_ours(VIDEOMAE.TABLE, flatten(ours[1]))
    saved = safetensors.numpy.load_file(folder / "model.safetensors")
    assert set(saved) <= set(back)
    for name, tensor in saved.items():
        np.testing.assert_array_equal(back[name].view(np.uint32), tensor.view(np.uint32), name)


def test_encoder_features_agree(peer, ours, clip, pixels):
    with torch.no_grad():
        expected = peer.videomae(pixels).last_hidden_state.numpy()

    def encode(params, clip):
        return rebuild(ours[0], params).encode(clip)

    found = jax.jit(encode, compiler_options=OPTIMISED)(ours[1], clip)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pretraining_logits_loss_and_gradients_agree(peer, ours, clip, pixels):
    graphdef, params = ours
    batch = {"video": clip, "index": np.array([5], np.uint32)}
    rng = jax.random.key(0)

    @partial(jax.jit, compiler_options=OPTIMISED)
    def step(params, batch):
        def loss(params):
            objective = rebuild(graphdef, params)
            picture = objective.reconstruct(batch, rng)
            return objective.loss(batch, rng=rng)[0], (picture["masked"], picture["prediction"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, (masked, logits)), grads = step(params, batch)
    hidden = torch.zeros(1, 1568, dtype=torch.bool)
    hidden[0, torch.from_numpy(np.array(masked[0])).long()] = True
    peer.zero_grad()
    expected = peer(pixels, bool_masked_pos=hidden)
    expected.loss.backward()
    np.testing.assert_allclose(logits, expected.logits.detach().numpy(), atol=1e-4)
    assert float(loss) == pytest.approx(expected.loss.item(), abs=1e-4)

    found = flatten(grads)
    theirs = {name: p.grad.numpy() for name, p in peer.named_parameters()}
    wanted = flatten(to_ours(VIDEOMAE.TABLE, VIDEOMAE.canonical(theirs)).params)
    for path in (
        "encoder/embed/kernel",
        "encoder/blocks/attention/qkv/kernel",
        "encoder/blocks/attention/q_bias",
        "decoder/mask_token",
        "decoder/blocks/mlp/down/kernel",
    ):
        scale = np.abs(wanted[path]).max()
        np.testing.assert_allclose(
            found[path] / scale, wanted[path] / scale, atol=1e-4, err_msg=path
        )


def test_masks_of_ours_are_what_the_peer_accepts():
    keep, hidden = masking.tube(jax.random.key(0), np.arange(2, dtype=np.uint32), (8, 14, 14), 0.9)
    assert keep.shape[1] + hidden.shape[1] == 1568
