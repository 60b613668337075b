import json

import jax
import numpy as np
import pytest

from surgjax.errors import UserError
from surgjax.interop import bert
from surgjax.interop.files import write_safetensors
from surgjax.interop.keys import from_ours
from surgjax.interop.sources import init_all, init_params
from surgjax.state import flatten, split

TEXT = dict(family="bert", vocab_size=30, length=12, width=16, depth=1, heads=2)


def bert_fields(text):
    """`TEXT` in config.json's words."""
    names = dict(vocab_size="vocab_size", length="max_position_embeddings", width="hidden_size")
    names |= dict(depth="num_hidden_layers", heads="num_attention_heads")
    fields = {theirs: text[ours] for ours, theirs in names.items()}
    return fields | {"intermediate_size": 4 * text["width"]}


def test_run_gives_all_its_parameters(tiny, shapes, tiny_run):
    for path in (tiny_run, str(tiny_run / "checkpoints" / "3")):
        loaded = init_params(path, expected=shapes)
        assert loaded.missing == [] and set(flatten(loaded.params)) == set(flatten(tiny[1]))
        for name, value in flatten(loaded.params).items():
            np.testing.assert_array_equal(value, flatten(tiny[1])[name])
            assert type(value) is np.ndarray and value.dtype == np.float32


def test_run_hands_on_what_it_was_made_of(shapes, tiny_run):
    about = init_params(tiny_run, expected=shapes).provenance
    assert about["source"] == "tiny, step 3"
    assert about["licence"] == "CC-BY-NC-SA-4.0"  # of cholec80; synthetic is free
    assert about["pretrained_on"] == ["cholec80 (train)", "synthetic (train)"]
    assert about["used_cases"] == ["cholec80/video01", "cholec80/video02", "synthetic/video05"]
    assert len(about["sha256"]) == 64


def test_run_with_another_objective_gives_its_encoder(tiny, shapes, tiny_run, kit):
    config = kit.CONFIG | {"objective": {"name": "jepa"}}
    loaded = init_params(tiny_run, expected=shapes, config=config)
    assert set(loaded.params) == {"encoder"}
    assert loaded.missing == sorted(p for p in flatten(shapes) if p.startswith("decoder/"))
    assert "that run's objective is 'mae', this one's 'jepa'" in loaded.report()


def test_run_with_other_positions_is_told(shapes, tiny_run, kit):
    config = kit.CONFIG | {"encoder": {"size": "T", "positions": "sincos_3d"}}
    assert "positions differ" in init_params(tiny_run, expected=shapes, config=config).report()
    assert "positions" not in init_params(tiny_run, expected=shapes, config=kit.CONFIG).report()


def test_run_of_another_size_names_the_field(tiny_run, kit):
    config = kit.CONFIG | {"encoder": {"size": "B"}}
    base = jax.tree.map(lambda x: x.shape, split(kit.build(config))[1])
    with pytest.raises(UserError, match=r"encoder.size found T .*, expected B \(width 768"):
        init_params(tiny_run, expected=base)


def test_run_without_a_checkpoint(shapes, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="has no"):
        init_params(tmp_path / "run", expected=shapes)


def test_nothing_there(shapes, tmp_path):
    with pytest.raises(UserError, match="does not exist; expected a run, .*check the path"):
        init_params(tmp_path / "nowhere", expected=shapes)
    with pytest.raises(UserError, match="download it first: hf download MCG-NJU/videomae-base"):
        init_params("MCG-NJU/videomae-base", expected=shapes)


def test_folder_of_something_else(shapes, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds no weights"):
        init_params(tmp_path, expected=shapes)


def test_weights_of_no_known_layout(shapes, tmp_path):
    from surgjax.interop.files import write_safetensors

    write_safetensors(tmp_path / "x.safetensors", {"conv1.weight": np.zeros(3, np.float32)}, {})
    with pytest.raises(UserError, match="no known layout, such as 'conv1.weight'"):
        init_params(tmp_path / "x.safetensors", expected=shapes)


def test_a_model_card_tells_licence_and_data(shapes, exported, tmp_path):
    """A folder made by others has no metadata of ours, but a card with a front matter."""
    import json

    from surgjax.interop import files

    folder = tmp_path / "theirs"
    folder.mkdir()
    tensors, _ = files.read_safetensors(exported / "model.safetensors")
    files.write_safetensors(folder / "model.safetensors", tensors, {})
    config = json.loads((exported / "config.json").read_text())
    config["_name_or_path"] = "MCG-NJU/videomae-base"
    (folder / "config.json").write_text(json.dumps(config))
    about = init_params(folder, expected=shapes).provenance
    assert (about["licence"], about["pretrained_on"]) == ("unknown", ["unknown"])

    (folder / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\ndatasets: [kinetics400]\n---\n# x\n"
    )
    about = init_params(folder, expected=shapes).provenance
    assert about["source"] == "MCG-NJU/videomae-base" and about["licence"] == "CC-BY-NC-4.0"
    assert about["pretrained_on"] == ["kinetics400 (split unknown)"]

    config["_name_or_path"] = "/home/somebody/secret"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\n: [unclosed\n---\n")
    about = init_params(folder, expected=shapes).provenance
    assert about["source"] == "theirs" and about["licence"] == "unknown"

    def stated(card, **metadata):
        files.write_safetensors(folder / "model.safetensors", tensors, metadata)
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
        about = init_params(folder, expected=shapes).provenance
        return about["licence"], about["pretrained_on"]

    nested = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
    bomb = f"a0: &a0 [x]\n{nested}\ndatasets: [b, *a8]"  # written out, 400 MB
    assert stated(f"license: [1]\n{bomb}") == ("unknown", ["b (split unknown)"])
    assert stated("license: [mit, cc-by-nc-4.0]") == ("CC-BY-NC-4.0", ["unknown"])
    assert stated("license: " + "[" * 5000) == ("unknown", ["unknown"])
    for own in ("[", "[1]", '{"licence": 1, "pretrained_on": {"a": 1}}'):
        assert stated("license: mit", surgjax=own) == ("MIT", ["unknown"])


def test_two_sources_give_a_network_each(tiny, tiny_run, kit, tmp_path):
    """A video tower from a run, a text tower from a folder; where they come from is one record."""
    config = kit.CONFIG | {"objective": {"name": "clip", "text": TEXT, "tokens": 12, "dim": 8}}
    whole = split(kit.build(config))[1]
    expected = jax.tree.map(lambda x: x.shape, whole)
    text = {"text_encoder": kit.random_params(kit.build(config), seed=1)["text_encoder"]}
    tensors = from_ours(bert.TABLE, {p: np.asarray(x) for p, x in flatten(text).items()})
    write_safetensors(tmp_path / "bert" / "model.safetensors", tensors, {})
    fields = dict(model_type="bert", architectures=["BertModel"], **bert_fields(TEXT))
    (tmp_path / "bert" / "config.json").write_text(json.dumps(fields))
    sources = [str(tiny_run), str(tmp_path / "bert")]
    loaded = init_all(sources, expected=expected, config=config)
    assert set(loaded.params) == {"encoder", "text_encoder"}
    given = flatten(loaded.params)
    for name, value in (flatten({"encoder": tiny[1]["encoder"]}) | flatten(text)).items():
        np.testing.assert_array_equal(given[name], value)
    assert {p.split("/")[0] for p in loaded.missing} == {
        "video_projection", "text_projection", "temperature"
    }  # fmt: skip
    assert "fresh: text_projection (in none of them)" in loaded.notes
    assert not any("text_encoder (not in" in note for note in loaded.notes)
    about = loaded.provenance
    assert about["source"] == "tiny, step 3; bert" and about["format"] == "surgjax run, bert"
    assert about["pretrained_on"] == ["cholec80 (train)", "synthetic (train)", "unknown"]
    assert about["used_cases"] is None and len(about["sha256"]) == 64
    with pytest.raises(UserError, match="bert has the text_encoder that an earlier source"):
        init_all([sources[1], sources[1]], expected=expected, config=config)
    one = init_all([str(tiny_run)], expected=expected, config=config)
    assert set(one.params) == {"encoder"} and one.provenance["source"] == "tiny, step 3"
