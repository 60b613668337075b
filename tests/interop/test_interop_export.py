import importlib.util
import json
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from surgjax.errors import UserError
from surgjax.export import export, main
from surgjax.interop import files
from surgjax.interop.sources import init_params
from surgjax.state import flatten

HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def no_torch(monkeypatch):
    """A machine without PyTorch, where an export compares nothing and is quick."""
    monkeypatch.setitem(sys.modules, "torch", None)


def card_of(folder):
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_folder_holds_what_the_hub_expects(exported):
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert {f.name for f in exported.iterdir()} == names | ({"parity.json"} if HAS_TORCH else set())
    config = json.loads((exported / "config.json").read_text())
    expected = {
        "architectures": ["VideoMAEForPreTraining"],
        "model_type": "videomae",
        "image_size": 32,
        "num_frames": 4,
        "hidden_size": 192,
        "num_attention_heads": 3,
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": False,
        "qkv_bias": True,
        "qv_bias": True,
        "norm_pix_loss": True,
        "decoder_num_hidden_layers": 2,
    }
    assert config | expected == config
    processor = json.loads((exported / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.485, 0.456, 0.406]
    assert processor["image_std"] == [0.229, 0.224, 0.225]
    assert processor["size"] == {"shortest_edge": 32}
    assert processor["crop_size"] == {"height": 32, "width": 32}
    assert processor["resample"] == 2 and processor["rescale_factor"] == 1 / 255
    tensors, metadata = files.read_safetensors(exported / "model.safetensors")
    assert metadata["format"] == "pt"
    for name in [n for n in tensors if re.search(r"\.[qv]_bias$", n)]:
        new = name.replace("q_bias", "query.bias").replace("v_bias", "value.bias")
        np.testing.assert_array_equal(tensors[name], tensors[new])
    assert all((f.stat().st_mode & 0o777) == 0o644 for f in exported.iterdir())


def test_card_says_what_one_must_know(exported):
    head, body = card_of(exported)
    assert head["license"] == "cc-by-nc-sa-4.0" and head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "feature-extraction"
    assert {"surgery", "endoscopy", "jax"} <= set(head["tags"])
    for words in ("Not a medical device", "Intended use", "cholec80 (train)", "no commercial use"):
        assert words in body
    assert "| cholec80 | CC-BY-NC-SA-4.0 | 2 |" in body and "3 cases" in body.replace("\n", " ")
    everything = "".join(f.read_bytes().decode("latin-1") for f in exported.iterdir())
    assert "/somewhere/private" not in everything and "video01" not in everything


def test_export_comes_back_bitwise_with_its_provenance(tiny, shapes, exported):
    loaded = init_params(exported, expected=shapes)
    assert loaded.missing == []
    for path, value in flatten(loaded.params).items():
        np.testing.assert_array_equal(value, flatten(tiny[1])[path])
    assert loaded.provenance["licence"] == "CC-BY-NC-SA-4.0"
    assert loaded.provenance["pretrained_on"] == ["cholec80 (train)", "synthetic (train)"]


def test_provenance_of_the_start_reaches_the_card(tiny, shapes, exported, tmp_path, kit, no_torch):
    start = init_params(exported, expected=shapes).provenance
    start |= {"licence": "CC-BY-NC-ND-4.0", "source": "someone/model"}
    meta = kit.META | {"init_from": start, "licences": {"mine": "CC0-1.0"}}
    meta |= {"pretrained_on": ["mine (train)"], "used_cases": ["mine/a"]}
    export(kit.save_run(tmp_path / "run", tiny[1], meta), tmp_path / "out")
    head, body = card_of(tmp_path / "out")
    assert head["license"] == "cc-by-nc-nd-4.0" and head["base_model"] == "someone/model"
    assert "| weights of someone/model | CC-BY-NC-ND-4.0 |  |" in body
    for words in ("cholec80 (train)", "mine (train)", "no derivatives"):
        assert words in body


def test_equal_checkpoints_give_equal_weights_and_an_old_export_is_replaced(
    tiny_run, exported, tmp_path, no_torch
):
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    (out / "parity.json").write_text("{}")
    assert main([f"--run={tiny_run}", f"--out={out}"]) == 0
    assert not (out / "parity.json").exists()
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (exported / name).read_bytes()
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_step_option(tiny, tmp_path, kit, no_torch):
    run = tmp_path / "run"
    kit.save_run(run, tiny[1], step=3)
    other = kit.random_params(tiny[0], seed=5)
    kit.save_run(run, other, step=7)
    export(run, tmp_path / "newest")
    export(run, tmp_path / "three", step=3)
    name = "encoder_to_decoder.weight"
    for out, params in (("newest", other), ("three", tiny[1])):
        tensors, _ = files.read_safetensors(tmp_path / out / "model.safetensors")
        np.testing.assert_array_equal(tensors[name].T, params["decoder"]["embed"]["kernel"])
    with pytest.raises(UserError, match="no whole checkpoint 5"):
        export(run, tmp_path / "five", step=5)


@pytest.mark.parametrize("held", ["a file", "notes", "notes beside an export", "weights alone"])
def test_other_peoples_files_stay(tiny_run, exported, tmp_path, held):
    out = tmp_path / "out"
    if held == "a file":
        out.write_text("mine")
    elif held == "notes beside an export":
        shutil.copytree(exported, out)
        (out / "notes.txt").write_text("mine")
    else:
        out.mkdir()
        (out / ("notes.txt" if held == "notes" else "model.safetensors")).write_text("mine")
    before = sorted(out.iterdir()) if out.is_dir() else out.read_text()
    with pytest.raises(UserError, match="is no export of ours.*earlier export, which is replaced"):
        export(tiny_run, out)
    assert before == (sorted(out.iterdir()) if out.is_dir() else out.read_text())


def test_bad_input_is_one_line(tiny, tiny_run, tmp_path, kit, no_torch):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="did you mean 'videomae'"):
        export(tiny_run, out, format="videomea")
    with pytest.raises(UserError, match="does not exist"):
        export(tmp_path / "none", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="completed checkpoint"):
        export(tmp_path / "empty", out)
    with pytest.raises(UserError, match="unrecognized arguments.*did you mean '--format'"):
        main([f"--run={tiny_run}", f"--out={out}", "--fromat=x"])
    with pytest.raises(UserError, match="required: --out"):
        main([f"--run={tiny_run}"])
    config = kit.CONFIG | {"encoder": {"size": "T", "positions": "sincos_3d"}}
    run = kit.save_run(tmp_path / "run", tiny[1], kit.META | {"config": config})
    with pytest.raises(UserError, match="'sincos_3d' cannot be exported.*one-dimensional"):
        export(run, out)
    config = kit.CONFIG | {"encoder": {"size": "S"}}
    run = kit.save_run(tmp_path / "other", tiny[1], kit.META | {"config": config})
    with pytest.raises(UserError, match="does not fit its own config"):
        export(run, out)
    assert not out.exists()


def test_nothing_is_left_when_the_disk_is_full(tiny_run, tmp_path, no_torch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write"):
            export(tiny_run, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torch
def test_other_numbers_in_the_public_class_stop_the_export(tiny_run, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from surgjax.interop import videomae

    monkeypatch.setattr(videomae, "IMAGENET_MEAN", [0.5, 0.5, 0.5])
    with pytest.raises(RuntimeError, match="differ by"):
        export(tiny_run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torch
def test_public_classes_open_the_folder(tiny, exported):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    import jax

    from surgjax.state import rebuild, split

    model, report = transformers.VideoMAEForPreTraining.from_pretrained(
        exported, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    spellings = r"attention\.attention\.([qv]_bias|(query|value)\.bias)$"
    assert all(re.search(spellings, name) for name in report["unexpected_keys"])
    video = np.random.default_rng(3).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(exported)
    pixels = torch.cat([processor(list(clip), return_tensors="pt").pixel_values for clip in video])
    rng, batch = jax.random.key(4), {"video": video, "index": np.array([7, 8], np.int32)}
    graphdef = split(tiny[0])[0]

    @jax.jit
    def outputs(params, batch):
        objective = rebuild(graphdef, params)
        masked = objective.reconstruct(batch, rng)["masked"]
        return masked, objective.loss(batch, rng=rng)[0], objective.encode(batch["video"])

    masked, loss, tokens = jax.device_get(outputs(tiny[1], batch))
    mask = np.zeros((2, 8), bool)
    np.put_along_axis(mask, masked, True, axis=1)
    with torch.no_grad():
        theirs = model(pixels, bool_masked_pos=torch.from_numpy(mask)).loss.item()
    assert theirs == pytest.approx(float(loss), abs=1e-5)

    bare, report = transformers.VideoMAEModel.from_pretrained(exported, output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        theirs = bare(pixels).last_hidden_state.numpy()
    np.testing.assert_allclose(tokens, theirs, rtol=0, atol=1e-4)


@pytest.mark.torch
def test_parity_file_and_the_code_of_the_card(exported):
    pytest.importorskip("torch")
    parity = json.loads((exported / "parity.json").read_text())
    assert set(parity["max_abs_difference"]) == {"tokens", "logits", "loss"}
    assert max(parity["max_abs_difference"].values()) < 2e-5
    code = re.search(r"```python\n(.*?)```", card_of(exported)[1], re.DOTALL)[1]
    frames = np.zeros((4, 40, 50, 3), np.uint8)
    names = {"folder": str(exported), "frames": frames}
    exec(code, names)
    assert names["tokens"].shape == (1, 8, 192)


@pytest.mark.torch
def test_official_layout_is_written_and_read(tiny, shapes, tiny_run, tmp_path):
    torch = pytest.importorskip("torch")
    assert export(tiny_run, tmp_path / "out", format="videomae_official") is None
    model = torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True)["model"]
    assert model["encoder.blocks.3.attn.qkv.weight"].shape == (576, 192)
    loaded = init_params(tmp_path / "out" / "checkpoint.pth", expected=shapes)
    for path, value in flatten(loaded.params).items():
        np.testing.assert_array_equal(value, flatten(tiny[1])[path])
    assert loaded.provenance["licence"] == "CC-BY-NC-SA-4.0"


def test_without_torch(tiny_run, tmp_path, no_torch):
    assert export(tiny_run, tmp_path / "out") is None
    assert not (tmp_path / "out" / "parity.json").exists()
    assert "PyTorch was not installed" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UserError, match="pip install"):
        export(tiny_run, tmp_path / "official", format="videomae_official")
    assert not (tmp_path / "official").exists()


def test_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "--format" in capsys.readouterr().out
    arguments = [f"--run={tmp_path}/none", f"--out={tmp_path}/out"]
    command = [sys.executable, "-m", "surgjax.export", *arguments]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    assert re.fullmatch(r"error: .*none does not exist.*\n", found.stderr)


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, surgjax.export, surgjax.interop;"
        "sys.exit(bool({'jax', 'torch', 'transformers', 'orbax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
