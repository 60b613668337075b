import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import losses, same, tiny

from surgjax import build as run_parts
from surgjax import masking, objectives, sharding
from surgjax.checkpoint import read_params
from surgjax.complete import complete, pixel_statistics
from surgjax.errors import UserError
from surgjax.interop import find_format
from surgjax.interop.files import write_safetensors
from surgjax.interop.keys import from_ours
from surgjax.models import posemb
from surgjax.models.image_vit import ImageViT
from surgjax.models.video_vit import tubelets
from surgjax.objectives import mae
from surgjax.objectives.vista import picture_flops, smooth_l1
from surgjax.state import flatten, rebuild, split
from surgjax.train import train

ROOT = Path(__file__).resolve().parents[2]
TEACHER = dict(weights="random", size=(128, 2, 2))
TINY = dict(frames=4, size=48, encoder=dict(size="two blocks"), mask_ratio=0.7, teacher=TEACHER)


def build(**changes):
    return objectives.build("vista", **{**TINY, **changes}, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def objective():
    return build()


@pytest.fixture(scope="module")
def teacher(objective):
    return objective.make_teacher(nnx.Rngs(7))


@pytest.fixture(scope="module")
def batch():
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 48, 48, 3), dtype=np.uint8)
    return {"video": video, "index": np.array([4, 8, 15], np.uint32)}


def test_published_sizes():
    """Methods: 87.4 M in the encoder and 100.8 M in all, the fixed position tables counted."""
    encoder = dict(size="B", positions="sincos_time_space")
    whole = nnx.eval_shape(
        lambda: build(
            frames=16, size=224, encoder=encoder, mask_ratio=0.85, teacher=TEACHER | {"size": "L"}
        )
    )
    counts = {part: 0 for part in ("encoder", "decoder", "feature_decoder")}
    for path, leaf in flatten(split(whole)[1]).items():
        counts[path.split("/")[0]] += leaf.size
    tables = [1568 * 768, 1568 * 384, 1568 * 384]
    assert counts["encoder"] / 1e6 == pytest.approx(86.227, abs=0.001)
    assert (counts["encoder"] + tables[0]) / 1e6 == pytest.approx(87.431, abs=0.001)
    assert (sum(counts.values()) + sum(tables)) / 1e6 == pytest.approx(100.859, abs=0.001)
    assert whole.hidden == 8 * 166


def test_loss_against_float64(objective, teacher, batch):
    """Both decoders' outputs scored by the definitions, the features asked for frame by frame."""
    rng = jax.random.key(3)
    loss, scalars = jax.jit(lambda batch: objective.loss(batch, rng=rng, teacher=teacher))(batch)
    mask_rng, _ = jax.random.split(rng)
    keep, hidden = masking.tube(mask_rng, batch["index"], objective.encoder.grid, 0.7)
    cubes = objective.encoder.tubelets(batch["video"])
    tokens = objective.encode_visible(cubes, keep)
    predicted = np.asarray(objective.feature_decoder(tokens, keep, hidden), np.float64)
    pixels = np.asarray(objective.decoder(tokens, keep, hidden), np.float64)
    target = np.asarray(mae.normalised_pixels(masking.gather(cubes, hidden))[0], np.float64)
    errors, of_patches = [], jax.jit(lambda patches: teacher(patches))
    for video, places, features in zip(batch["video"], np.asarray(hidden), predicted, strict=True):
        for place, feature in zip(places, features, strict=True):
            t, h, w = np.unravel_index(place, (2, 3, 3))
            normalised = (video[2 * t] / 255 - mae.IMAGENET_MEAN) / mae.IMAGENET_STD
            patches = tubelets(normalised[None, None].astype(np.float32), (1, 16, 16))
            taught = np.asarray(of_patches(patches), np.float64)[0, 1 + 3 * h + w]
            error = np.abs(feature - taught)
            errors.append(np.where(error < 1, 0.5 * error**2, error - 0.5).mean())
    assert float(scalars["pixel_loss"]) == pytest.approx(((pixels - target) ** 2).mean(), rel=1e-5)
    assert float(scalars["feature_loss"]) == pytest.approx(np.mean(errors), rel=1e-4)
    expected = scalars["pixel_loss"] + 0.05 * scalars["feature_loss"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-6) and loss.dtype == jnp.float32


def test_teachers_with_a_final_norm_have_their_tokens_normalised(batch):
    """DINOv2 and DINOv3 are read after their norm, others before it; a user may choose."""
    plain, dino = dict(TEACHER), TEACHER | {"layer_scale": 1.0, "registers": 2}
    for teacher, normalise, expected in (
        (plain, "auto", (False, False)),
        (plain | {"final_norm": "yes"}, "auto", (True, True)),
        (dino, "auto", (True, True)),
        (dino, "no", (True, False)),
        (dino | {"final_norm": "no"}, "auto", (False, False)),
    ):
        objective = build(teacher=teacher, normalise_features=normalise)
        found = nnx.eval_shape(lambda made=objective: made.make_teacher(nnx.Rngs(0)))
        assert (found.has_final_norm, objective.normalise_features) == expected
    assert found.prefix == 3
    features = objective.features(objective.make_teacher(nnx.Rngs(7)), batch["video"])
    assert features.shape == (3, 2 * 3 * 3, 128)  # patches alone


def test_operations_of_teachers():
    """GFLOP a picture of 224 pixels, by hand: 24 n d^2 + 4 n^2 d a block and 2 x 196 x 768 d for
    the patches, and for gated networks three maps in place of two."""
    made = {
        "L": (dict(size="L"), 123.1),
        "DINOv3-B": (dict(size="B", positions="rotary", registers=4, qkv_bias="qv"), 35.9),
        "DINOv3-L": (dict(size="L", positions="rotary", registers=4, qkv_bias="qv"), 125.7),
    }
    for arguments, expected in made.values():
        vit = nnx.eval_shape(lambda a=arguments: ImageViT(image_size=224, rngs=nnx.Rngs(0), **a))
        assert picture_flops(vit, 196) / 1e9 == pytest.approx(expected, abs=0.1)
    gated = dict(size=(64, 1, 1), mlp_width=100, gated_mlp=True)
    vit = nnx.eval_shape(lambda: ImageViT(image_size=32, rngs=nnx.Rngs(0), **gated))
    block = 8 * 5 * 64**2 + 4 * 5**2 * 64 + 3 * 2 * 5 * 64 * 100
    assert picture_flops(vit, 4) == 2 * 4 * 768 * 64 + block


def test_settings_of_the_config_have_the_published_shares():
    """Cholecystectomy in the paper's growing settings, and 3.55 million frames in all."""
    config = ROOT / "configs" / "surgvista.py"
    values = runpy.run_path(str(config))
    clips, frames = values["_clips"], values["FRAMES"]
    gallbladders = sum(frames[name] for name in ("cholec80", "m2cai16_workflow", "heichole"))
    assert clips("B") == gallbladders and clips("E") == 3_552_777
    assert gallbladders / clips("C") == pytest.approx(0.473, abs=5e-4)
    assert gallbladders / clips("D") == pytest.approx(0.174, abs=5e-4)
    cfg = values["get_config"]("B")
    assert cfg.data.stores == "stores/cholec80,stores/m2cai16_workflow,stores/heichole"
    assert cfg.total_steps == 200 * gallbladders // 512


def test_smooth_l1_is_torchs():
    torch = pytest.importorskip("torch")
    error = np.linspace(-3, 3, 61).astype(np.float32)
    for beta in (0.5, 1.0, 2.0):
        expected = torch.nn.functional.smooth_l1_loss(
            torch.from_numpy(error), torch.zeros(61), beta=beta, reduction="none"
        )
        np.testing.assert_allclose(smooth_l1(error, beta), expected.numpy(), atol=1e-6)


def test_normalised_features_have_unit_scale(batch):
    objective = build(normalise_features="yes")
    features = np.asarray(objective.features(objective.make_teacher(nnx.Rngs(7)), batch["video"]))
    np.testing.assert_allclose(features.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis=-1), 1, atol=1e-3)


def test_a_teacher_of_another_patch_needs_frames_of_another_size(batch):
    with pytest.raises(UserError, match="patch is 14 and the encoder's is 16.*resample=True"):
        build(teacher=TEACHER | {"patch": 14})
    objective = build(teacher=TEACHER | {"patch": 14, "resample": True})
    teacher = objective.make_teacher(nnx.Rngs(7))
    assert teacher.side == 3 and objective.features(teacher, batch["video"]).shape == (3, 18, 128)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(teacher=TEACHER | {"wieghts": ""}), "no field 'wieghts' .did you mean 'weights'"),
        (dict(teacher=TEACHER | {"final_norm": "maybe"}), "choose auto, yes or no"),
        (dict(teacher=TEACHER | {"size": "XL"}), "encoder.size is 'XL'.*choose one of T, S, B"),
        (dict(teacher=TEACHER | {"std": (0.2, 0.2)}), "teacher.std is .0.2, 0.2.; expected three"),
        (dict(beta=0.0), "objective.beta is 0.0"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(UserError, match=message):
        build(**change)


def test_positions_of_the_published_script():
    """A quarter for time, then column before row; each axis sines, then cosines; frequencies
    from 1 to nearly 1 / 10000, written out for one token."""
    table = posemb.table("sincos_time_space", (8, 14, 14), 768)
    t, h, w = 3, 5, 11
    row = []
    for position, channels in ((t, 192), (w, 288), (h, 288)):
        angles = [position / 10000 ** (2 * i / channels) for i in range(channels // 2)]
        row += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
    np.testing.assert_allclose(table[(t * 14 + h) * 14 + w], row, atol=1e-6)
    with pytest.raises(UserError, match="widths that 16 divides"):
        posemb.table("sincos_time_space", (2, 2, 2), 40)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A teacher's file in timm's names, of a network with a final norm."""
    teacher = build(size=32, teacher=TEACHER | {"final_norm": "yes"}).make_teacher(nnx.Rngs(3))
    file = tmp_path_factory.mktemp("teacher") / "vit.safetensors"
    params = flatten({"image_encoder": split(teacher)[1]})
    table = find_format("timm").TABLE
    write_safetensors(file, from_ours(table, {p: np.asarray(x) for p, x in params.items()}), {})
    return file


@pytest.fixture
def config(store, weights, monkeypatch):
    """A config maker; runs take one device."""
    found = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    objective = dict(name="vista", mask_ratio=0.75, decoder_depth=1, feature_decoder_depth=1)
    # Sizes are facts of the file; the others are choices.
    objective["teacher"] = dict(weights=str(weights), size="", patch=0, final_norm="yes")
    return lambda **changes: tiny(store, objective=objective, **changes)


def test_training_goes_on_exactly_and_keeps_the_teacher_out(config, weights, tmp_path):
    train(config(), tmp_path / "straight")
    train(config(stop_at_step=4), tmp_path / "parts")
    train(config(), tmp_path / "parts")
    assert same(tmp_path / "straight", tmp_path / "parts")
    assert losses(tmp_path / "straight") == losses(tmp_path / "parts")
    params, meta = read_params(tmp_path / "straight")
    assert set(params) == {"encoder", "decoder", "feature_decoder"}
    assert meta["teacher"]["source"] == "vit.safetensors" and len(meta["teacher"]["sha256"]) == 64
    saved = json.loads((tmp_path / "straight" / "config.json").read_text())["objective"]["teacher"]
    assert (saved["size"], saved["patch"], saved["final_norm"]) == ([128, 2, 2], 16, "yes")
    # What the teacher has seen is not known, so no table may say that this encoder is clean.
    assert meta["used_cases"] is None and meta["pretrained_on"] == ["unknown", "synthetic (train)"]

    table = find_format("timm").TABLE
    other = build(size=32, teacher=TEACHER | {"final_norm": "yes"}).make_teacher(nnx.Rngs(4))
    params = flatten({"image_encoder": split(other)[1]})
    before = weights.read_bytes()
    write_safetensors(weights, from_ours(table, {p: np.asarray(x) for p, x in params.items()}), {})
    with pytest.raises(UserError, match="the file has changed; put it back"):
        train(config(stop_at_step=6), tmp_path / "parts")
    weights.write_bytes(before)


def test_weights_must_be_named_and_fit(config, tmp_path):
    cfg = config()
    cfg.objective.teacher.weights = ""
    with pytest.raises(UserError, match="objective.teacher.weights is empty; expected a Hug"):
        train(cfg, tmp_path)
    cfg = config()
    cfg.objective.teacher.size = "S"
    with pytest.raises(
        UserError, match="objective.teacher.size found width 128.* expected width 384"
    ):
        train(cfg, tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize(
    "kind, prefix", [("Dinov2WithRegistersModel", 3), ("DINOv3ViTModel", 3), ("ViTMAEModel", 1)]
)
def test_a_folder_says_all_of_its_teacher(config, batch, kind, prefix, tmp_path):
    """The targets are the public class's patch tokens of every tubelet's first frame: after its
    norm and normalised again for DINO, before the norm for others."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=16)
    more = dict(image_size=64, num_register_tokens=2)  # learned for 4 x 4 places, asked for 3 x 3
    if kind == "ViTMAEModel":
        more = dict(image_size=48, intermediate_size=40, mask_ratio=0.0)
    of_config = getattr(transformers, kind).config_class
    peer = getattr(transformers, kind)(of_config(**sizes, **more)).eval()
    peer.save_pretrained(tmp_path / "teacher")
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    settings = json.dumps({"image_mean": mean, "image_std": std})
    (tmp_path / "teacher" / "preprocessor_config.json").write_text(settings)
    cfg = config(data__size=48)
    cfg.objective.teacher = dict(weights=str(tmp_path / "teacher"))
    cfg = complete(cfg)
    learner = run_parts.make_learner(cfg)
    teacher = run_parts.load_teacher(cfg, learner, sharding.make_mesh())
    objective = learner.fresh(jax.random.key(0))
    found = objective.features(rebuild(split(teacher.module)[0], teacher.params), batch["video"])
    assert objective.feature_decoder.head.kernel.shape[1] == 24

    frames = (batch["video"][:, ::2] / 255 - mean) / std
    pixels = torch.from_numpy(frames.reshape(-1, 48, 48, 3).transpose(0, 3, 1, 2).astype("f4"))
    places = torch.arange(9.0).repeat(len(pixels), 1)
    given = dict(noise=places) if kind == "ViTMAEModel" else {}
    with torch.no_grad():
        out = peer(pixels, output_hidden_states=True, **given)
    tokens = out.hidden_states[-1] if kind == "ViTMAEModel" else out.last_hidden_state
    tokens = tokens[:, prefix:].reshape(3, 18, 24).numpy()
    if kind != "ViTMAEModel":
        tokens = (tokens - tokens.mean(-1, keepdims=True)) / tokens.std(-1, keepdims=True)
    np.testing.assert_allclose(found, tokens, atol=2e-4)


def test_pixels_a_teacher_expects(tmp_path):
    """Its folder's settings say whether and how they are normalised."""
    file = tmp_path / "preprocessor_config.json"
    assert pixel_statistics(str(tmp_path)) == pixel_statistics("random") == {}
    file.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "do_normalize": True}))
    assert pixel_statistics(str(tmp_path)) == {"mean": [0.1, 0.2, 0.3]}
    file.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "do_normalize": False}))
    assert pixel_statistics(str(tmp_path)) == {"mean": [0.0] * 3, "std": [1.0] * 3}


def test_teachers_that_cannot_be_are_told(config, weights, tmp_path):
    cfg = config()
    cfg.objective.teacher = dict(weights=str(weights), size="S")
    with pytest.raises(UserError, match="found width 128, 2 blocks, expected width 384"):
        complete(cfg)
    table = find_format("videomae_official").TABLE
    video = nnx.eval_shape(
        lambda: objectives.build("mae", frames=4, size=32, encoder=dict(size="T"), rngs=nnx.Rngs(0))
    )
    params = {p: np.zeros(x.shape, np.float32) for p, x in flatten(split(video)[1]).items()}
    write_safetensors(tmp_path / "video.safetensors", from_ours(table, params), {})
    cfg.objective.teacher = dict(weights=str(tmp_path / "video.safetensors"))
    with pytest.raises(UserError, match="is a videomae_official model; .* needs an image transf"):
        complete(cfg)
