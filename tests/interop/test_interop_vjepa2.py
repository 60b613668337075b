"""V-JEPA 2: public folders asked and written again, the official layout, and runs of ours."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from surgjax import interop, objectives
from surgjax.errors import UserError
from surgjax.export import export, reexport
from surgjax.interop import files, find_format, public
from surgjax.interop.keys import from_ours, to_ours
from surgjax.interop.sources import init_params
from surgjax.state import flatten, rebuild, split

VJEPA2, OFFICIAL = find_format("vjepa2"), find_format("vjepa2_official")
TINY = dict(  # heads of 20 and 16 channels: some are left alone by the rotation
    crop_size=48,
    frames_per_clip=4,
    hidden_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_ratio=2.5,
    num_pooler_layers=2,
    pred_hidden_size=32,
    pred_num_attention_heads=2,
    pred_num_hidden_layers=2,
    pred_num_mask_tokens=3,
    pred_mlp_ratio=3.0,
)
CONFIG = {
    "data": {"frames": 4, "size": 48, "stride": "2"},
    "encoder": {"size": "T", "positions": "rope_3d", "qkv_bias": "all"},
    "objective": {
        "name": "jepa",
        "predictor_width": 36,
        "predictor_depth": 2,
        "predictor_heads": 3,
    },
}


def save_public(folder, kind, **config):
    """A folder as the public class saves it, of numbers no two of which are alike."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.VJEPA2Config(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.1 if norm else 0.05)
    model.save_pretrained(folder)
    return folder


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module", params=["VJEPA2Model", "VJEPA2ForVideoClassification"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("public") / request.param
    return save_public(path, request.param, **TINY, num_labels=3)


@pytest.mark.torch
def test_outputs_are_the_public_class_s(folder):
    model = interop.load(folder)
    rng = np.random.default_rng(0)
    inputs = VJEPA2.example(model.config, rng)
    assert_close(model.apply(**inputs), public.reference(folder, model.config, inputs))
    for frames in (6, 1):  # without masks; the number of frames is free, one is shown twice
        clip = {"pixel_values_videos": rng.standard_normal((1, frames, 48, 48, 3), np.float32)}
        assert_close(model.apply(**clip), public.reference(folder, model.config, clip))


@pytest.mark.torch
def test_written_again_it_is_the_same_file(folder, tmp_path):
    out = tmp_path / "out"
    parity = reexport(folder, out)
    assert max(parity["max_abs_difference"].values()) < 1e-4
    before, after = (safetensors.numpy.load_file(f / "model.safetensors") for f in (folder, out))
    assert set(before) == set(after)
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name].view(np.uint32), tensor.view(np.uint32), name)
    import transformers

    kind = json.loads((out / "config.json").read_text())["architectures"][0]
    _, info = getattr(transformers, kind).from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.torch
def test_masks_come_together_and_lie_in_the_clip(tmp_path):
    folder = save_public(tmp_path / "x", "VJEPA2Model", **TINY)
    model = interop.load(folder)
    clip = np.zeros((1, 4, 48, 48, 3), np.float32)
    some = [np.array([[0, 17]])]
    for masks, message in (
        (dict(context_mask=some), "give both or neither"),
        (dict(context_mask=some, target_mask=np.array([[1]])), "must be a list of one array"),
        (dict(context_mask=some, target_mask=[np.array([[18]])]), "outside the clip's 18 tokens"),
    ):
        with pytest.raises(UserError, match=message):
            model.apply(pixel_values_videos=clip, **masks)


@pytest.mark.torch
@pytest.mark.parametrize("depth", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_base_size_gives_the_public_class_s_numbers(tmp_path, depth):
    """ViT-B, its published predictor, 8 frames of 224 pixels, by a folder. Slow: all layers."""
    size = dict(hidden_size=768, num_hidden_layers=depth, num_attention_heads=12)
    size["pred_num_hidden_layers"] = depth
    folder = save_public(tmp_path, "VJEPA2Model", crop_size=224, frames_per_clip=8, **size)
    model = interop.load(folder)
    assert len(flatten(model.params)) == 35
    if depth == 12:
        assert sum(x.size for x in flatten(model.params).values()) == 108_125_568
    inputs = VJEPA2.example(model.config, np.random.default_rng(0))
    inputs = jax.tree.map(lambda x: x[:1], inputs)
    expected = public.reference(folder, model.config, inputs)
    # Running it takes longer than compiling it well, which tests otherwise leave out.
    options = {"xla_backend_optimization_level": 2}
    graphdef, _ = split(model._network)
    forward = jax.jit(lambda p, x: rebuild(graphdef, p)(**x), compiler_options=options)
    with jax.default_matmul_precision("highest"):
        assert_close(forward(model.params, VJEPA2.prepare(model.config, inputs)), expected)


@pytest.mark.parametrize(
    "field, value", [("patch_size", 14), ("hidden_act", "silu"), ("qkv_bias", False)]
)
def test_settings_our_networks_do_not_have(field, value):
    with pytest.raises(UserError, match=f"config.json has {field}=.*expected"):
        VJEPA2.check_config({field: value}, "folder")


def abstract():
    return nnx.eval_shape(
        lambda: objectives.build(
            **CONFIG["objective"],
            **{name: CONFIG["data"][name] for name in ("frames", "size")},
            encoder=CONFIG["encoder"],
            rngs=nnx.Rngs(0),
        )
    )


@pytest.fixture(scope="module")
def ours():
    """Parameters of a tiny objective, no two of which are alike."""
    rng = np.random.default_rng(1)
    return {
        path: path.endswith("scale") + 0.05 * rng.standard_normal(leaf.shape, np.float32)
        for path, leaf in flatten(split(abstract())[1]).items()
    }


@pytest.fixture(scope="module")
def shapes():
    return jax.tree.map(lambda x: x.shape, split(abstract())[1])


def assert_same(params, expected):
    params = flatten(params)
    assert set(params) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(params[path].view(np.uint32), value.view(np.uint32), path)


@pytest.mark.parametrize("module", [VJEPA2, OFFICIAL])
def test_round_trip_is_bitwise(ours, module):
    out = from_ours(module.TABLE, ours)
    assert module.recognises(out)
    assert_same(to_ours(module.TABLE, module.canonical(out)).params, ours)


def official_names(flat, mask_tokens=1):
    """The tiny objective under the official names, written down a second time without the table."""

    def block(ours, theirs):
        for i in range(flat[f"{ours}/norm1/scale"].shape[0]):
            at = lambda path: flat[f"{ours}/{path}"][i]  # noqa: B023, E731
            for mine, its in (
                ("attention/qkv", "attn.qkv"),
                ("attention/out", "attn.proj"),
                ("mlp/up", "mlp.fc1"),
                ("mlp/down", "mlp.fc2"),
            ):
                yield f"{theirs}.{i}.{its}.weight", at(f"{mine}/kernel").T
                yield f"{theirs}.{i}.{its}.bias", at(f"{mine}/bias")
            for norm in ("norm1", "norm2"):
                yield f"{theirs}.{i}.{norm}.weight", at(f"{norm}/scale")
                yield f"{theirs}.{i}.{norm}.bias", at(f"{norm}/bias")

    def plain(ours, theirs, kernel="kernel"):
        weight = flat[f"{ours}/{kernel}"]
        yield f"{theirs}.weight", weight.T if kernel == "kernel" else weight
        yield f"{theirs}.bias", flat[f"{ours}/bias"]

    conv = flat["encoder/embed/kernel"].reshape(2, 16, 16, 3, -1).transpose(4, 3, 0, 1, 2)
    encoder = {
        "patch_embed.proj.weight": conv,
        "patch_embed.proj.bias": flat["encoder/embed/bias"],
        **dict(block("encoder/blocks", "blocks")),
        **dict(plain("encoder/norm", "norm", "scale")),
        "pos_embed": np.zeros((1, 18, 192), np.float32),  # there, and not used
    }
    predictor = {
        **dict(plain("predictor/embed", "predictor_embed")),
        **dict(block("predictor/blocks", "predictor_blocks")),
        **dict(plain("predictor/norm", "predictor_norm", "scale")),
        **dict(plain("predictor/head", "predictor_proj")),
    }
    for number in range(mask_tokens):  # token 0 is the trained one
        predictor[f"mask_tokens.{number}"] = flat["predictor/mask_token"] * (number == 0)
    return encoder, predictor


def wrapped(state):
    return {f"module.backbone.{name}": value for name, value in state.items()}


@pytest.mark.torch
def test_official_file_gives_its_average_and_its_trained_token(ours, shapes, tmp_path):
    torch = pytest.importorskip("torch")
    encoder, predictor = official_names(ours, mask_tokens=10)
    tensor = lambda state: {k: torch.from_numpy(v.copy()) for k, v in wrapped(state).items()}  # noqa: E731
    other = {name: value + 1 for name, value in encoder.items()}
    whole = {
        "encoder": tensor(other),
        "predictor": tensor(predictor),
        "target_encoder": tensor(encoder),
        "opt": {"state": {}},
        "epoch": 300,
    }
    torch.save(whole, tmp_path / "vitl.pt")
    config = {**CONFIG, "encoder": {"size": "T", "positions": "sincos_3d"}}
    loaded = init_params(tmp_path / "vitl.pt", expected=shapes, config=config)
    assert_same(loaded.params, ours)
    report = loaded.report()
    assert "mask token 0 of 10 taken" in report and "ignored: encoder.pos_embed" in report
    assert "these weights had 'rope_3d', this run has 'sincos_3d'" in report
    assert (loaded.provenance["format"], loaded.missing) == ("vjepa2_official", [])


@pytest.mark.torch
def test_the_released_surgrec_jepa_file(ours, shapes, tmp_path):
    """Its encoder lies under `encoder`, wrapped; the predictor starts fresh."""
    torch = pytest.importorskip("torch")
    encoder, _ = official_names(ours)
    state = {name: torch.from_numpy(value.copy()) for name, value in wrapped(encoder).items()}
    torch.save({"encoder": state, "epoch": 131}, tmp_path / "surgrec_jepa.pt")
    loaded = init_params(tmp_path / "surgrec_jepa.pt", expected=shapes, config=CONFIG)
    assert_same(loaded.params, {p: x for p, x in ours.items() if p.startswith("encoder/")})
    assert "fresh: predictor (not in" in loaded.report()


@pytest.fixture(scope="module")
def run(ours, tmp_path_factory):
    """A run of the objective jepa whose average differs from the encoder it trains."""
    from surgjax.checkpoint import Checkpoints
    from surgjax.state import TrainState, unflatten

    folder = tmp_path_factory.mktemp("runs") / "jepa"
    trained = {p: x + p.startswith("encoder/") for p, x in ours.items()}
    average = {p.removeprefix("encoder/"): x for p, x in ours.items() if p.startswith("encoder/")}
    state = TrainState(
        jax.numpy.int32(3),
        jax.tree.map(jax.numpy.asarray, unflatten(trained)),
        {},
        {"count": jax.numpy.zeros((), np.int32)},
        jax.tree.map(jax.numpy.asarray, unflatten(average)),
    )
    meta = {"config": CONFIG, "licences": {"synthetic": "CC0-1.0"}, "ema_of": "encoder"}
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(state, 3, meta | {"used_cases": [], "pretrained_on": [], "init_from": None})
    checkpoints.close()
    return folder


@pytest.mark.torch
def test_a_run_is_exported_with_its_average(run, ours, shapes, tmp_path):
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    parity = export(run, tmp_path / "hf", format="vjepa2")
    assert set(parity["max_abs_difference"]) == {"tokens", "predictions"}
    assert max(parity["max_abs_difference"].values()) < 1e-4
    model, info = transformers.VJEPA2Model.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.pred_num_mask_tokens == 1
    processor = json.loads((tmp_path / "hf" / "video_preprocessor_config.json").read_text())
    assert processor["crop_size"] == {"height": 48, "width": 48}
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "The encoder is the moving average of the trained one." in card
    assert "VJEPA2Model.from_pretrained(folder)" in card and "one mask token" in card
    assert processor["image_mean"] == [0.485, 0.456, 0.406]

    assert export(run, tmp_path / "official", format="vjepa2_official") is None
    saved = torch.load(tmp_path / "official" / "checkpoint.pt", weights_only=True)
    assert {"encoder", "predictor", "target_encoder"} <= set(saved)
    for place in (tmp_path / "hf", tmp_path / "official" / "checkpoint.pt", run):
        loaded = init_params(place, expected=shapes, config=CONFIG)
        assert_same(loaded.params, ours)
        assert loaded.missing == [] and not any("differ" in note for note in loaded.notes)


@pytest.mark.torch
def test_a_probed_run_is_exported_as_the_classifier(kit, tmp_path):
    """Its predictor, which the class holds and does not ask, is of zeros."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    labels = {"phase": {"kind": "one_of_n", "classes": ["a", "b", "c"]}}
    head = {"name": "classify", "head": "attentive", "head_depth": 1, "labels": labels}
    config = CONFIG | {"objective": head}
    folder = kit.save_run(
        tmp_path / "run", kit.random_params(kit.build(config)), kit.META | {"config": config}
    )
    parity = export(folder, tmp_path / "hf", format="vjepa2")
    assert parity["max_abs_difference"]["logits"] < 1e-4
    kind = transformers.VJEPA2ForVideoClassification
    model, info = kind.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    clip = {"pixel_values_videos": np.zeros((1, 4, 48, 48, 3), np.float32)}
    assert interop.load(tmp_path / "hf").apply(**clip)["logits"].shape == (1, 3)


def test_a_run_of_jepa_is_no_videomae(run, tmp_path):
    with pytest.raises(UserError, match="encoder.positions='rope_3d' cannot be exported"):
        export(run, tmp_path / "x", format="videomae")


def test_a_run_of_another_network_is_no_vjepa2(tiny_run, kit, tmp_path):
    for name, message in (
        ("vjepa2", "cannot be exported: the V-JEPA 2 classes turn queries"),
        ("vjepa2_official", "V-JEPA's programs have 'rope_3d' or 'sincos_3d'"),
    ):
        with pytest.raises(UserError, match=message):
            export(tiny_run, tmp_path / "x", format=name)
    config = CONFIG | {"encoder": {"size": "T", "positions": "rope_3d"}}
    params = kit.random_params(kit.build(config))
    folder = kit.save_run(tmp_path / "run", params, kit.META | {"config": config})
    with pytest.raises(UserError, match="encoder.qkv_bias='qv', but the classes have 'all'"):
        export(folder, tmp_path / "x", format="vjepa2")


def test_other_heads_of_the_same_width(ours, tmp_path):
    config = VJEPA2.json_files(abstract(), ours)["config.json"]
    files.write_safetensors(tmp_path / "model.safetensors", from_ours(VJEPA2.TABLE, ours), {})
    for field, message in (("pred_num_attention_heads", 6), ("num_attention_heads", 6)):
        (tmp_path / "config.json").write_text(json.dumps(config | {field: message}))
        wanted = jax.tree.map(lambda x: x.shape, split(abstract())[1])
        with pytest.raises(UserError, match=f"has {field}=6; expected 3"):
            init_params(tmp_path, expected=wanted, config=CONFIG)


def test_image_transformers_are_not_taken_for_it():
    timm = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias"}
    assert not OFFICIAL.recognises(timm) and OFFICIAL.recognises(timm - {"cls_token"})
