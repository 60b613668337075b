"""SurgVISTA's own layout, against its network written out in PyTorch from the names in its file."""

import jax
import numpy as np
import pytest
from runs import SIZES  # noqa: F401 - names the size "two blocks"

from surgjax import masking
from surgjax.errors import UserError
from surgjax.export import export
from surgjax.interop import files
from surgjax.interop.sources import init_params
from surgjax.objectives import mae
from surgjax.state import flatten, rebuild, split

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
functional = torch.nn.functional
HEADS = 3


@pytest.fixture(scope="module")
def changes():
    """Of the tests' configuration, for a run in which this layout has a place for everything."""
    return {
        "encoder": {"size": "two blocks", "positions": "sincos_time_space"},
        "objective": {
            "name": "vista",
            "mask_ratio": 0.75,
            "teacher": {"weights": "random", "size": [40, 1, 1]},
        },
    }


@pytest.fixture
def run(kit, changes, tmp_path):
    """(the objective without numbers, its parameters, the run's folder)"""
    config = kit.CONFIG | changes
    objective = kit.build(config)
    params = kit.random_params(objective)
    folder = kit.save_run(tmp_path / "run", params, kit.META | {"config": config})
    return objective, params, folder


def test_an_export_is_the_published_network_and_comes_back_bitwise(run, tmp_path):
    objective, params, folder = run
    assert export(folder, tmp_path / "out", format="surgvista") is None  # no class to ask
    file = tmp_path / "out" / "checkpoint.pth"
    tensors = {n: torch.from_numpy(np.array(x)) for n, x in files.read(file).tensors.items()}
    assert {name.split(".")[0] for name in tensors} == {
        *("patch_embed", "blocks", "norm", "pos_embed"),
        *(f"{part}_{kind}" for kind in ("img", "vid") for part in PARTS),
    }
    assert tensors["pos_embed"].shape == (1, 8, 96) and "blocks.1.attn.v_bias" in tensors

    rng = np.random.default_rng(1)
    clip = rng.integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    keep, hidden = masking.tube(jax.random.key(0), np.arange(2, dtype=np.uint32), (2, 2, 2), 0.75)
    module = rebuild(split(objective)[0], params)
    with jax.default_matmul_precision("highest"):
        tokens = module.encode_visible(module.encoder.tubelets(clip), keep)
        found = {
            "vid": module.decoder(tokens, keep, hidden),
            "img": module.feature_decoder(tokens, keep, hidden),
        }
    pixels = ((clip / 255 - mae.IMAGENET_MEAN) / mae.IMAGENET_STD).astype(np.float32)
    masked = torch.zeros(2, 8, dtype=torch.bool)
    masked.scatter_(1, torch.from_numpy(np.array(hidden)).long(), True)
    expected = student(tensors, torch.from_numpy(pixels).permute(0, 4, 1, 2, 3), masked)
    for kind in ("img", "vid"):
        np.testing.assert_allclose(found[kind], expected[kind].numpy(), atol=1e-4)

    shapes = jax.tree.map(lambda x: x.shape, params)
    wrapped = {f"module.{name}": x.numpy() for name, x in tensors.items()}
    files.write_safetensors(tmp_path / "again.safetensors", wrapped, {})
    loaded = init_params(tmp_path / "again.safetensors", expected=shapes)
    assert loaded.missing == [] and loaded.provenance["licence"] == "CC-BY-NC-ND-4.0"
    for name, value in flatten(params).items():
        again = flatten(loaded.params)[name]
        np.testing.assert_array_equal(again.view(np.uint32), value.view(np.uint32), name)
    config = {"encoder": {"positions": "sincos_1d"}}
    notes = init_params(tmp_path / "again.safetensors", expected=shapes, config=config).report()
    assert "these weights had 'sincos_time_space', this run has 'sincos_1d'" in notes


def test_learned_positions_are_refused(run, tmp_path):
    _, params, folder = run
    export(folder, tmp_path / "out", format="surgvista")
    tensors = dict(files.read(tmp_path / "out" / "checkpoint.pth").tensors)
    tensors["pos_embed"] = tensors["pos_embed"] + np.float32(0.01)
    files.write_safetensors(tmp_path / "x.safetensors", tensors, {})
    shapes = jax.tree.map(lambda x: x.shape, params)
    with pytest.raises(UserError, match=r"'pos_embed' of shape \(1, 8, 96\) is not the fixed"):
        init_params(tmp_path / "x.safetensors", expected=shapes)


def test_other_positions_cannot_be_exported(kit, tiny_run, tmp_path):
    with pytest.raises(UserError, match="its programs have 'sincos_time_space'; train with it"):
        export(tiny_run, tmp_path / "out", format="surgvista")


PARTS = ("mask_token", "down", "decoder", "pos_embed")


def student(tensors, pixels, masked):
    """Both decoders' predictions at the masked places, as SurgVISTA's programs compute them."""
    x = functional.conv3d(
        pixels, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], (2, 16, 16)
    )
    x = x.flatten(2).transpose(1, 2) + tensors["pos_embed"]
    x = x[~masked].reshape(len(x), -1, x.shape[-1])
    x = norm(blocks(x, tensors, ""), tensors, "norm")
    made = {}
    for kind in ("img", "vid"):
        y = linear(x, tensors, f"down_{kind}")
        table = tensors[f"pos_embed_{kind}"].expand(len(y), -1, -1)
        seen, unseen = (table[m].reshape(len(y), -1, y.shape[-1]) for m in (~masked, masked))
        y = torch.cat([y + seen, tensors[f"mask_token_{kind}"] + unseen], dim=1)
        y = blocks(y, tensors, f"decoder_{kind}.")[:, -unseen.shape[1] :]
        y = norm(y, tensors, f"decoder_{kind}.norm")
        made[kind] = linear(y, tensors, f"decoder_{kind}.head")
    return made


def blocks(x, tensors, prefix):
    depth = sum(n.startswith(f"{prefix}blocks.") and n.endswith(".norm1.bias") for n in tensors)
    for i in range(depth):
        name = f"{prefix}blocks.{i}"
        y, q = norm(x, tensors, f"{name}.norm1"), tensors[f"{name}.attn.q_bias"]
        bias = torch.cat([q, torch.zeros_like(q), tensors[f"{name}.attn.v_bias"]])
        qkv = functional.linear(y, tensors[f"{name}.attn.qkv.weight"], bias)
        q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + linear(y, tensors, f"{name}.attn.proj")
        y = linear(norm(x, tensors, f"{name}.norm2"), tensors, f"{name}.mlp.fc1")
        x = x + linear(functional.gelu(y), tensors, f"{name}.mlp.fc2")
    return x


def linear(x, tensors, name):
    return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def norm(x, tensors, name):
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)
