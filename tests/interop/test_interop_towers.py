"""Text and picture towers and TimeSformer: loaded, asked, written again, as the public classes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from surgjax import interop
from surgjax.errors import UserError
from surgjax.export import reexport
from surgjax.interop import files, public
from surgjax.models.video_vit import VideoViT
from surgjax.state import flatten

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

BERT = dict(
    vocab_size=60,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=16,
)
TEXT = BERT | dict(eos_token_id=59, pad_token_id=1, bos_token_id=58)
VISION = dict(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
    image_size=24,
    patch_size=8,
)
CLIP = dict(projection_dim=20)
TIME = VISION | dict(num_frames=3, num_labels=5)
LEGACY = TEXT | dict(eos_token_id=2, hidden_act="gelu")
# name -> (class, config class, its fields)
CLASSES = {
    "BertModel": ("BertModel", "BertConfig", BERT),
    "BertForMaskedLM": ("BertForMaskedLM", "BertConfig", BERT | dict(hidden_act="gelu_new")),
    "BertForPreTraining": ("BertForPreTraining", "BertConfig", BERT),
    "CLIPModel": ("CLIPModel", "CLIPConfig", dict(text_config=TEXT, vision_config=VISION, **CLIP)),
    "CLIPTextModel": ("CLIPTextModel", "CLIPTextConfig", LEGACY),
    "CLIPTextModelWithProjection": ("CLIPTextModelWithProjection", "CLIPTextConfig", TEXT | CLIP),
    "CLIPVisionModel": ("CLIPVisionModel", "CLIPVisionConfig", VISION),
    "CLIPVisionModelWithProjection": (
        *("CLIPVisionModelWithProjection", "CLIPVisionConfig"),
        VISION | CLIP,
    ),
    "SiglipModel": ("SiglipModel", "SiglipConfig", dict(text_config=TEXT, vision_config=VISION)),
    "SiglipTextModel": ("SiglipTextModel", "SiglipTextConfig", TEXT | dict(projection_size=20)),
    "SiglipVisionModel": ("SiglipVisionModel", "SiglipVisionConfig", VISION),
    "SiglipVisionModel without head": (
        *("SiglipVisionModel", "SiglipVisionConfig"),
        VISION | dict(vision_use_head=False),
    ),
    "TimesformerModel": ("TimesformerModel", "TimesformerConfig", TIME),
    "TimesformerForVideoClassification": (
        *("TimesformerForVideoClassification", "TimesformerConfig"),
        TIME,
    ),
}


def public_folder(folder, kind, config_kind, fields, deviation=0.1, **options):
    """A folder as the class saves it, with random weights no two of which are alike."""
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config_kind)(**fields), **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(float(is_norm), deviation)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=CLASSES)
def case(request, tmp_path_factory):
    """(folder of a public class, what was loaded from it)."""
    folder = public_folder(tmp_path_factory.mktemp("public") / "tiny", *CLASSES[request.param])
    return folder, interop.load(folder)


def examples(model):
    return interop.find_format(model.family).example(model.config, np.random.default_rng(0))


def agree(model, folder, inputs):
    found, expected = model.apply(**inputs), public.reference(folder, model.config, inputs)
    assert set(found) == set(expected) and found
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


def test_written_again_it_is_the_same_model(case, tmp_path):
    """Every output of the class on what was written is that of the model which was read."""
    folder, model = case
    module = interop.find_format(model.family)
    parity = reexport(folder, tmp_path / "out")["max_abs_difference"]
    assert set(parity) == set(public.reference(folder, model.config, examples(model)))
    assert max(parity.values()) < 1e-4
    before, after = (
        module.canonical(safetensors.numpy.load_file(f / "model.safetensors"))
        for f in (folder, tmp_path / "out")
    )
    assert set(after) == {name for name in before if not name.startswith("cls.predictions.decoder")}
    for name, tensor in after.items():
        assert tensor.shape == before[name].shape
        np.testing.assert_array_equal(tensor.view(np.uint32), before[name].view(np.uint32), name)
    kind = getattr(transformers, model.config["architectures"][0])
    _, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


READ_TEXT = [
    name for name in CLASSES if not name.startswith("Timesformer") and "Vision" not in name
]


@pytest.mark.parametrize("case", READ_TEXT, indirect=True)
def test_masks_and_positions_of_text(case):
    folder, model = case
    inputs = examples(model)
    rows, count = inputs["input_ids"].shape
    places = np.minimum(np.arange(count) + 2, 15)[None].repeat(rows, axis=0)
    mask = np.arange(count) < np.arange(2, 2 + rows)[:, None]
    agree(model, folder, inputs | {"attention_mask": mask.astype(int), "position_ids": places})


def test_the_layout_is_known_without_its_config(case):
    """Every format knows its own tensors, and the first one asked is the right one."""
    from surgjax.interop.sources import _format_by_names

    folder, model = case
    names = safetensors.numpy.load_file(folder / "model.safetensors")
    assert _format_by_names(names, folder).__name__.endswith(f".{model.family}")


def rewritten(folder, out, change, **config):
    """The folder with its tensors and settings changed."""
    out.mkdir()
    tensors = change(safetensors.numpy.load_file(folder / "model.safetensors"))
    files.write_safetensors(out / "model.safetensors", tensors, {})
    settings = json.loads((folder / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps(settings))
    return out


def equal_params(one, other):
    one, other = flatten(one), flatten(other)
    assert set(one) == set(other)
    for path, value in one.items():
        np.testing.assert_array_equal(value, other[path], path)


def test_other_spellings_of_the_same_file(case, tmp_path):
    """With and without prefix, with old names and buffers of old releases."""
    folder, model = case
    kind = model.config["architectures"][0]
    towers = {"Text": "text_model.", "Vision": "vision_model."}
    prefix = {"bert": "bert.", "timesformer": "timesformer."}.get(model.family)
    if kind in ("CLIPTextModel", "CLIPVisionModel", "SiglipTextModel", "SiglipVisionModel"):
        prefix = next(p for word, p in towers.items() if word in kind)

    def change(tensors):
        made = dict(tensors)
        if prefix and any(name.startswith(prefix) for name in made):
            made = {name.removeprefix(prefix): x for name, x in made.items()}
        elif prefix:
            made = {prefix + name: x for name, x in made.items()}
        if model.family == "bert":
            old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
            for new, name in old.items():
                made = {n.replace(new, name): x for n, x in made.items()}
        if "input_ids" in examples(model):
            start = next(n for n in made if "embeddings." in n).split("embeddings.")[0]
            made[f"{start}embeddings.position_ids"] = np.arange(16)[None]
        return made

    equal_params(interop.load(rewritten(folder, tmp_path / "old", change)).params, model.params)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return public_folder(tmp_path_factory.mktemp("bert") / "tiny", *CLASSES["BertModel"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return public_folder(tmp_path_factory.mktemp("clip") / "tiny", *CLASSES["CLIPModel"])


def test_bert_without_a_pooler(tmp_path):
    """config.json does not tell; a tower for sentence vectors is saved like this."""
    folder = public_folder(tmp_path / "bare", *CLASSES["BertModel"], add_pooling_layer=False)
    model = interop.load(folder)
    assert "text_pooler" not in model.params
    expected = public.reference(folder, model.config, examples(model))["last_hidden_state"]
    found = model.apply(**examples(model))
    assert set(found) == {"last_hidden_state"}
    np.testing.assert_allclose(found["last_hidden_state"], expected, atol=1e-4)
    with pytest.raises(UserError, match="holds both towers"):
        reexport(folder, tmp_path / "out", format="surgclip")


def test_bert_of_the_hub_starts_a_text_tower(tmp_path):
    """Its file holds the heads of pretraining too; a run that wants the tower leaves them out."""
    from surgjax.interop.sources import init_params

    kind, config_kind, fields = CLASSES["BertForPreTraining"]
    fields = fields | dict(hidden_size=64, num_attention_heads=1)
    folder = public_folder(tmp_path / "hub", kind, config_kind, fields)
    model = interop.load(folder)
    shapes = {path: x.shape for path, x in flatten(model.params["text_encoder"]).items()}
    loaded = init_params(folder, expected={"text_encoder": shapes})
    equal_params({"text_encoder": model.params["text_encoder"]}, loaded.params)
    for part in ("text_pooler", "word_head", "next_head"):
        assert f"left out: {part}" in loaded.report()


def test_wrong_missing_and_unused_tensors_are_told(clip, tmp_path):
    name = "text_model.encoder.layers.1.mlp.fc1.weight"
    without = rewritten(clip, tmp_path / "a", lambda t: {n: x for n, x in t.items() if n != name})
    with pytest.raises(UserError, match=f"lacks '{name}'"):
        interop.load(without)
    more = rewritten(clip, tmp_path / "b", lambda t: t | {"text_model.extra": np.zeros(3)})
    with pytest.raises(UserError, match="holds 1 tensors.*'text_model.extra'"):
        interop.load(more)
    other = rewritten(clip, tmp_path / "c", dict, text_config=TEXT | dict(vocab_size=61))
    with pytest.raises(UserError, match="another model size.*found .60, 24., expected .61, 24."):
        interop.load(other)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(hidden_act="relu"), "hidden_act='relu'; expected 'gelu'"),
        (dict(is_decoder=True), "is_decoder=True; expected False"),
        (dict(architectures=["BertForTokenClassification"]), "saved by BertForTokenClass.*BertMod"),
    ],
)
def test_settings_our_bert_does_not_have(bert, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        interop.load(rewritten(bert, tmp_path / "other", dict, **change))


def test_settings_our_towers_do_not_have(clip, tmp_path):
    rectangle = VISION | dict(image_size=[24, 16])
    with pytest.raises(UserError, match="image_size=.24, 16.; expected a square"):
        interop.load(rewritten(clip, tmp_path / "a", dict, vision_config=rectangle))
    grey = VISION | dict(num_channels=1)
    with pytest.raises(UserError, match="num_channels=1; expected 3"):
        interop.load(rewritten(clip, tmp_path / "b", dict, vision_config=grey))
    with pytest.raises(UserError, match="saved by CLIPForImageClassification; expected CLIPModel"):
        kind = ["CLIPForImageClassification"]
        interop.load(rewritten(clip, tmp_path / "c", dict, architectures=kind))
    folder = public_folder(tmp_path / "d", *CLASSES["TimesformerModel"])
    with pytest.raises(UserError, match="attention_type='joint_space_time'; expected 'divided"):
        interop.load(rewritten(folder, tmp_path / "e", dict, attention_type="joint_space_time"))
    with pytest.raises(UserError, match="patch_size=.8, 4.; expected a square"):
        interop.load(rewritten(folder, tmp_path / "f", dict, patch_size=[8, 4]))


def test_wrong_inputs_are_told(bert, clip, tmp_path):
    with pytest.raises(UserError, match="input_ids holds 60; expected 0 to 59; use the tokenizer"):
        interop.load(bert).apply(input_ids=np.array([[3, 60]]))
    with pytest.raises(UserError, match="sentences of 17 tokens.*positions for 16"):
        interop.load(bert).apply(input_ids=np.zeros((1, 17), int))
    with pytest.raises(UserError, match="needs 'pixel_values' too"):
        interop.load(clip).apply(input_ids=np.zeros((1, 4), int))
    folder = public_folder(tmp_path / "time", *CLASSES["TimesformerModel"])
    with pytest.raises(UserError, match="pixel_values hold 2 frames; expected 3"):
        interop.load(folder).apply(pixel_values=np.zeros((1, 2, 24, 24, 3), np.float32))


def test_a_run_of_ours_cannot_become_a_tower():
    video = nnx.eval_shape(lambda: VideoViT("T", 4, 32, rngs=nnx.Rngs(0)))
    run = SimpleNamespace(encoder=video)
    for name in ("bert", "clip", "siglip", "timesformer"):
        with pytest.raises(UserError, match="--format=videomae"):
            interop.find_format(name).json_files(run, {})


def test_old_configs_repeat_a_tower_s_fields(clip, tmp_path):
    """laion's folders: text_config_dict counts where both are given, as in the public class."""
    other = rewritten(clip, tmp_path / "old", dict, text_config={}, text_config_dict=TEXT)
    model = interop.load(other)
    agree(model, other, examples(model))


def openai_names(theirs):
    """A saved CLIPModel under the names of OpenAI's program, written down without the table."""
    made = {"logit_scale": theirs["logit_scale"]}
    for tower, head, mine in (("text", "", ""), ("vision", "visual.", "visual.")):
        embeddings = f"{tower}_model.embeddings"
        positions = theirs[f"{embeddings}.position_embedding.weight"]
        made[f"{mine}positional_embedding"] = positions
        for i in range(2):
            old = f"{tower}_model.encoder.layers.{i}"
            new = f"{head}transformer.resblocks.{i}"
            for kind in ("weight", "bias"):
                parts = [theirs[f"{old}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                made[f"{new}.attn.in_proj_{kind}"] = np.concatenate(parts)
                made[f"{new}.attn.out_proj.{kind}"] = theirs[f"{old}.self_attn.out_proj.{kind}"]
                made[f"{new}.ln_1.{kind}"] = theirs[f"{old}.layer_norm1.{kind}"]
                made[f"{new}.ln_2.{kind}"] = theirs[f"{old}.layer_norm2.{kind}"]
                made[f"{new}.mlp.c_fc.{kind}"] = theirs[f"{old}.mlp.fc1.{kind}"]
                made[f"{new}.mlp.c_proj.{kind}"] = theirs[f"{old}.mlp.fc2.{kind}"]
    made["token_embedding.weight"] = theirs["text_model.embeddings.token_embedding.weight"]
    made["text_projection"] = theirs["text_projection.weight"].T
    made["visual.proj"] = theirs["visual_projection.weight"].T
    made["visual.conv1.weight"] = theirs["vision_model.embeddings.patch_embedding.weight"]
    made["visual.class_embedding"] = theirs["vision_model.embeddings.class_embedding"]
    for kind in ("weight", "bias"):
        made[f"ln_final.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
        made[f"visual.ln_pre.{kind}"] = theirs[f"vision_model.pre_layrnorm.{kind}"]
        made[f"visual.ln_post.{kind}"] = theirs[f"vision_model.post_layernorm.{kind}"]
    return {name: np.array(x, order="C") for name, x in made.items()}


def test_names_of_open_clip_and_openai(tmp_path):
    """A file of OpenAI's program needs nothing beside it; open_clip's does not tell its GELU."""
    text = TEXT | dict(hidden_size=64, num_attention_heads=1, intermediate_size=256)
    seen = VISION | dict(hidden_size=64, num_attention_heads=1, intermediate_size=256)
    fields = dict(text_config=text, vision_config=seen, **CLIP)
    folder = public_folder(tmp_path / "public", "CLIPModel", "CLIPConfig", fields)
    expected = interop.load(folder)
    named = openai_names(safetensors.numpy.load_file(folder / "model.safetensors"))

    sizes = {"input_resolution": 24, "context_length": 16, "vocab_size": 60}
    openai = named | {name: np.array(value) for name, value in sizes.items()}
    content = {name: torch.from_numpy(x) for name, x in openai.items()}
    torch.save(content, tmp_path / "ViT.pt")
    model = interop.load(tmp_path / "ViT.pt")
    assert model.family == "clip" and model.config["text_config"]["hidden_act"] == "quick_gelu"
    equal_params(model.params, expected.params)
    inputs = examples(expected)
    for name, value in expected.apply(**inputs).items():
        np.testing.assert_allclose(model.apply(**inputs)[name], value, atol=1e-6)
    assert max(reexport(tmp_path / "ViT.pt", tmp_path / "hf")["max_abs_difference"].values()) < 1e-4

    pictures = {name: x for name, x in content.items() if name != "token_embedding.weight"}
    torch.save(pictures, tmp_path / "part.pt")
    with pytest.raises(UserError, match="lacks 'text_model.embeddings.token_embedding.weight'"):
        interop.load(tmp_path / "part.pt")

    wrapped = {"state_dict": {f"module.{n}": torch.from_numpy(x) for n, x in named.items()}}
    torch.save(wrapped, tmp_path / "epoch_9.pt")
    with pytest.raises(UserError, match="which GELU.*expected config.json beside it"):
        interop.load(tmp_path / "epoch_9.pt")
    beside = tmp_path / "beside"
    beside.mkdir()
    (tmp_path / "epoch_9.pt").rename(beside / "pytorch_model.bin")
    (beside / "config.json").write_text((folder / "config.json").read_text())
    equal_params(interop.load(beside).params, expected.params)


SIZED = {  # without fields: the sizes of the public base models
    "BertModel": ("BertConfig", []),
    "CLIPModel": ("CLIPConfig", ["text_config", "vision_config"]),
    "SiglipModel": ("SiglipConfig", ["text_config", "vision_config"]),
    "TimesformerModel": ("TimesformerConfig", []),
}


@pytest.mark.parametrize("depth", [2, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SIZED)
def test_base_models(kind, depth, tmp_path):
    """BERT-base, CLIP B/16, SigLIP B/16 and TimeSformer-B, on random weights; slow: all layers."""
    config_kind, towers = SIZED[kind]
    fields = {"num_hidden_layers": depth}
    fields = {name: dict(fields) for name in towers} or fields
    if kind == "CLIPModel":
        fields["vision_config"]["patch_size"] = 16
    folder = public_folder(tmp_path / "base", kind, config_kind, fields, deviation=0.03)
    model = interop.load(folder)
    agree(model, folder, {name: x[:1] for name, x in examples(model).items()})
