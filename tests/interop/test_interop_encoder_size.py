"""An empty `encoder.size`: fine-tuning has the network of the weights that it starts from."""

import pytest
from ml_collections import ConfigDict

from surgjax import build
from surgjax.complete import complete, video_encoder
from surgjax.config import component, defaults, to_dict
from surgjax.errors import UserError
from surgjax.export import export
from surgjax.interop.sources import init_params
from surgjax.sharding import make_mesh
from surgjax.state import flatten, join, unflatten

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SMALL = dict(hidden_size=192, num_hidden_layers=4, num_attention_heads=3)  # size T
VIDEOMAE = {"size": "T", "positions": "sincos_1d", "qkv_bias": "qv"}


@pytest.fixture(params=["run", "videomae", "videomae_official", "vjepa2", "vit"])
def source(request, exported, tiny_run, tmp_path):
    """(folder or file, fields of the encoder that it was made with; of an image network none)."""
    if request.param == "run":
        return tiny_run, VIDEOMAE
    if request.param == "videomae":
        return exported, VIDEOMAE
    if request.param == "videomae_official":
        export(tiny_run, tmp_path / "official", format="videomae_official")
        (file,) = (tmp_path / "official").glob("*.pth")
        return file, VIDEOMAE
    torch.manual_seed(0)
    if request.param == "vjepa2":
        config = transformers.VJEPA2Config(
            **SMALL, frames_per_clip=4, crop_size=32, pred_hidden_size=48, pred_num_hidden_layers=1
        )
        transformers.VJEPA2Model(config).save_pretrained(tmp_path)
        return tmp_path, {"size": "T", "positions": "rope_3d", "qkv_bias": "all"}
    config = transformers.ViTConfig(**SMALL, intermediate_size=768, image_size=32, patch_size=16)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    return tmp_path, {}


def test_the_network_is_that_of_the_weights_and_all_of_it_is_loaded(source, store):
    weights, expected = source
    assert video_encoder(str(weights)) == expected
    cfg = defaults()
    cfg.data.stores, cfg.init_from = str(store), str(weights)
    cfg.data.frames, cfg.data.size, cfg.batch_size, cfg.encoder.size = 4, 32, 8, ""
    cfg.objective = ConfigDict(dict(name="classify", task="phase"))
    cfg = complete(cfg)
    if expected:
        assert {name: cfg.encoder[name] for name in expected} == expected
    else:
        assert cfg.objective.network == "image"
    abstract = build.make_learner(cfg).abstract(make_mesh())
    wanted = flatten(join(abstract.params, abstract.frozen))
    allow = component("surgjax.objectives", "classify", "Objective").init_allow
    found = init_params(
        weights,
        expected=unflatten({path: leaf.shape for path, leaf in wanted.items()}),
        config=to_dict(cfg),
        allow=allow,
    )
    assert {path.split("/")[0] for path in found.missing} == {"head"}


def test_without_weights_and_with_weights_of_no_known_size(tmp_path):
    assert video_encoder("") == {"size": "B"}
    config = transformers.VideoMAEConfig(**SMALL | {"num_hidden_layers": 3}, image_size=32)
    transformers.VideoMAEModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="3 blocks of width 192; expected .* encoder.size T, S, B"):
        video_encoder(str(tmp_path))
