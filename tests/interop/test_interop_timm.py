"""Names of timm and of the original programs: the same networks as Hugging Face's classes.

The files are made of a public class's weights, renamed here by hand.
"""

import numpy as np
import pytest
from test_interop_image import save

from surgjax import interop
from surgjax.errors import UserError
from surgjax.export import reexport
from surgjax.interop import files, find_format, public

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

WIDTH = 64  # one head: what files without config.json are taken to have
TINY = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=1, patch_size=7)
DINOV3 = dict(TINY, intermediate_size=40, image_size=224)
OUTER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embeddings.": "patch_embed.proj.",
    "encoder.layer.": "blocks.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layernorm": "norm",
    ".attention.output.dense": ".attn.proj",
    ".attention.o_proj": ".attn.proj",
    ".intermediate.dense": ".mlp.fc1",
    ".output.dense": ".mlp.fc2",
    ".layer_scale1.lambda1": ".ls1.gamma",
    ".layer_scale2.lambda1": ".ls2.gamma",
    ".mlp.weights_in": ".mlp.w12",
    ".mlp.weights_out": ".mlp.w3",
    ".mlp.gate_proj": ".mlp.w1",
    ".attention.attention.query": ".attn.q",
    ".attention.attention.key": ".attn.k",
    ".attention.attention.value": ".attn.v",
    ".attention.q_proj": ".attn.q",
    ".attention.k_proj": ".attn.k",
    ".attention.v_proj": ".attn.v",
}


def renamed(folder, more=None, joined=True):
    """A folder's tensors in the original programs' names."""
    made = {}
    for name, tensor in files.read(folder).tensors.items():
        name = f"blocks.{name.removeprefix('layer.')}" if name.startswith("layer.") else name
        for theirs, original in {**OUTER, **(more or {})}.items():
            name = name.replace(theirs, original)
        made[name] = np.array(tensor)
    for name in [n for n in made if joined and n.endswith(".attn.q.weight")]:
        block = name.removesuffix("q.weight")
        for kind in ("weight", "bias"):
            shape = made[f"{block}q.{kind}"].shape if f"{block}q.{kind}" in made else None
            if shape:
                parts = [made.pop(f"{block}{c}.{kind}", np.zeros(shape, "f4")) for c in "qkv"]
                made[f"{block}qkv.{kind}"] = np.concatenate(parts)
    return made


def dinov2(folder):
    """A pretraining checkpoint's teacher."""
    save("Dinov2Model", dict(TINY, image_size=28, use_swiglu_ffn=True), folder)
    made = {f"backbone.{name}": tensor for name, tensor in renamed(folder).items()}
    return made | {"dino_head.mlp.0.weight": np.zeros(3, np.float32)}


def dinov2_with_registers_of_timm(folder):
    """timm folds the class token's position into the token, and has the patches' alone."""
    save("Dinov2WithRegistersModel", dict(TINY, image_size=28, num_register_tokens=2), folder)
    made = renamed(folder, {"register_tokens": "reg_token"})
    position, made["pos_embed"] = made["pos_embed"][:, :1], made["pos_embed"][:, 1:]
    made["cls_token"] = made["cls_token"] + position
    return made


def dinov3(folder):
    """Official: a fused bias whose keys' part is masked, and periods of the rotation."""
    gated = dict(use_gated_mlp=True, hidden_act="silu", num_register_tokens=2)
    save("DINOv3ViTModel", DINOV3 | gated, folder)
    names = {".mlp.up_proj": ".mlp.w2", ".mlp.down_proj": ".mlp.w3"}
    made = renamed(folder, names | {"register_tokens": "storage_tokens"})
    for i in range(2):
        bias = made[f"blocks.{i}.attn.qkv.bias"]
        bias[WIDTH : 2 * WIDTH] = 7.0  # masked, so it counts for nothing
        mask = np.repeat(np.array([1, 0, 1], np.float32), WIDTH)
        made[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    made["mask_token"] = made["mask_token"][0]
    periods = 100.0 ** (np.arange(WIDTH // 4) / (WIDTH // 4))
    return made | {"rope_embed.periods": periods.astype(np.float32)}


def surgenet_dinov3(folder):
    save("DINOv3ViTModel", DINOV3 | dict(key_bias=True, layer_norm_eps=1e-6), folder)
    names = {".mlp.up_proj": ".mlp.fc1", ".mlp.down_proj": ".mlp.fc2"}
    names |= {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2"}
    made = renamed(folder, names)
    assert made.pop("register_tokens").size == 0
    return made


def dinov3_of_timm(folder):
    """Without any bias in the attention, as the released weights have zeros there."""
    config = DINOV3 | dict(query_bias=False, value_bias=False, num_register_tokens=4)
    save("DINOv3ViTModel", config, folder)
    names = {".mlp.up_proj": ".mlp.fc1", ".mlp.down_proj": ".mlp.fc2"}
    made = renamed(folder, names | {"register_tokens": "reg_token"})
    del made["mask_token"]
    return made


def endovit(folder):
    """MAE's file: the decoder beside the encoder."""
    config = dict(TINY, image_size=28, intermediate_size=40, layer_norm_eps=1e-6)
    save("ViTMAEForPreTraining", config | dict(decoder_num_hidden_layers=1), folder)
    save("ViTModel", config, folder, add_pooling_layer=False)
    made = renamed(folder)
    decoder = {"decoder_embed.weight": (3, 3), "decoder_pos_embed": (1, 5, 3)}
    decoder |= {"mask_token": (1, 1, 3)}
    return made | {name: np.zeros(shape, np.float32) for name, shape in decoder.items()}


def classifier(folder):
    config = dict(TINY, image_size=28, intermediate_size=40, layer_norm_eps=1e-6, num_labels=5)
    save("ViTForImageClassification", config, folder)
    made = renamed(folder, {"classifier": "head"})
    return {name.removeprefix("vit."): tensor for name, tensor in made.items()}


def endossl(folder):
    """As SurgVISTA's programs hold it: q, k and v apart, no position of the class token."""
    config = dict(TINY, image_size=28, intermediate_size=40, layer_norm_eps=1e-5)
    model = save("ViTModel", config, folder, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.position_embeddings[:, 0] = 0
    model.save_pretrained(folder)
    made = renamed(folder, joined=False)
    made["pos_embed"] = made["pos_embed"][:, 1:]
    return {f"model.{name}": tensor for name, tensor in made.items()}


MAKERS = {
    "dinov2": dinov2,
    "dinov2_with_registers": dinov2_with_registers_of_timm,
    "dinov3": dinov3,
    "dinov3, SurgeNetXL": surgenet_dinov3,
    "dinov3, timm": dinov3_of_timm,
    "vit, EndoViT": endovit,
    "vit, classifier": classifier,
    "vit, EndoSSL": endossl,
}


@pytest.mark.parametrize("case", MAKERS)
def test_files_are_the_public_class_and_become_its_folder(case, tmp_path):
    folder, file = tmp_path / "public", tmp_path / "weights.safetensors"
    files.write_safetensors(file, MAKERS[case](folder), {})
    model, peer = interop.load(file), interop.load(folder)
    assert model.family == "timm"
    inputs = find_format("timm").example(
        {**model.config, "image_size": 28}, np.random.default_rng(0)
    )
    expected = public.reference(folder, peer.config, inputs)
    found = model.apply(**inputs)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)

    format = case.split(",")[0]
    assert reexport(file, tmp_path / "folder", format=format)["max_abs_difference"]
    again = interop.load(tmp_path / "folder").apply(**inputs)
    for name in found:
        np.testing.assert_array_equal(again[name], found[name])

    reexport(folder, tmp_path / "timm", format="timm")
    again = interop.load(tmp_path / "timm" / "model.safetensors")
    eps = peer.config["layer_norm_eps"]
    if again.config["layer_norm_eps"] == eps:  # a file does not say it
        again = again.apply(**inputs)
        for name in found:
            np.testing.assert_allclose(again[name], expected[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("maker, key", [(endossl, "model_state"), (dinov2, "teacher")])
def test_programs_wrap_their_model(maker, key, tmp_path):
    tensors = {n: torch.from_numpy(np.array(x)) for n, x in maker(tmp_path / "public").items()}
    torch.save({key: tensors, "epoch": 3}, tmp_path / "weights.pth")
    model = interop.load(tmp_path / "weights.pth")
    assert model.config["hidden_size"] == WIDTH and model.licence == "unknown"
    if maker is dinov2:
        assert model.notes == ["ignored: dino_head.mlp.0.weight (a head of pretraining)"]


def test_what_a_file_cannot_be_is_told(tmp_path):
    made, file = dinov3(tmp_path / "public"), tmp_path / "weights.safetensors"
    periods = made["rope_embed.periods"] * 2
    files.write_safetensors(file, made | {"rope_embed.periods": periods}, {})
    with pytest.raises(UserError, match="periods are not those of DINOv3"):
        interop.load(file)
    odd = {"patch_embed.proj.weight": np.zeros((24, 3, 7, 7), np.float32)}
    files.write_safetensors(file, made | odd, {})
    with pytest.raises(UserError, match="width of 24, for which the number of attention heads"):
        interop.load(file)
    files.write_safetensors(file, made | {"blocks.0.attn.rel_pos": np.zeros(3, np.float32)}, {})
    with pytest.raises(UserError, match="no place for: 'blocks.0.attn.rel_pos'"):
        interop.load(file)
