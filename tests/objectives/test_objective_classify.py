"""Losses against their definitions, mixing and erasing by what they leave, whole runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import losses, same, tiny

from surgjax import sharding
from surgjax.checkpoint import read_params
from surgjax.complete import complete
from surgjax.config import to_dict
from surgjax.errors import UserError
from surgjax.evaluate import evaluate
from surgjax.export import export
from surgjax.models.heads import AttentivePool
from surgjax.objectives import classify
from surgjax.state import unflatten
from surgjax.train import train

LABELS = {
    "phase": {"kind": "one_of_n", "classes": ["a", "b", "c", "d"]},
    "instrument": {"kind": "multi_label", "classes": ["x", "y", "z"]},
}
CLIP = (3, 4, 32, 32, 3)


def build_objective(labels=LABELS, **changes):
    arguments = dict(frames=4, size=32, encoder=dict(size="two blocks"), labels=labels) | changes
    return classify.Objective(**arguments, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def objective():
    return build_objective(label_smoothing=0.2)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = np.array(
        [[0, 1, 0, 0, 1, 0, 255], [255, 255, 255, 255, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0]], np.uint8
    )
    video = rng.integers(0, 256, CLIP, np.uint8)
    return {"video": video, "index": np.arange(3, dtype=np.int64), "labels": labels}


def test_losses_against_float64(objective, batch):
    logits = np.asarray(objective.logits(batch["video"]), np.float64)
    _, scalars = objective.loss(batch, rng=jax.random.key(0))
    logs = logits[:, :4] - np.log(np.exp(logits[:, :4]).sum(axis=1, keepdims=True))
    wanted = np.array([[0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]])
    phase = -(wanted * logs[[0, 2]]).sum(axis=1).mean()
    p = 1 / (1 + np.exp(-logits[:, 4:]))
    y = batch["labels"][:, 4:].astype(float)
    each = -np.where(y == 1, np.log(p), np.log(1 - p))
    instrument = each[y != 255].mean()
    assert float(scalars["phase_loss"]) == pytest.approx(phase, rel=1e-5)
    assert float(scalars["instrument_loss"]) == pytest.approx(instrument, rel=1e-5)
    assert float(scalars["loss"]) == pytest.approx((phase + instrument) / 2, rel=1e-5)
    predicted = np.asarray(objective.predict(batch["video"]))
    np.testing.assert_allclose(predicted[:, :4], np.exp(logs), atol=1e-6)
    np.testing.assert_allclose(predicted[:, 4:], p, atol=1e-6)


def test_the_asymmetric_loss_is_the_published_formula():
    scores, y = np.array([[-2.0, 0.5, 3.0]] * 2), np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    p = 1 / (1 + np.exp(-scores))
    p_m = np.maximum(p - 0.05, 0)
    expected = np.where(y == 1, -(1 - p) * np.log(p), -(p_m**4) * np.log(1 - p_m))
    found = classify.asymmetric(jnp.asarray(scores, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_leaves_the_share_it_tells(mixup, cutmix):
    """Clips of one colour each: what is left of a clip's own colour is the share of its label."""
    objective = build_objective(mixup=mixup, cutmix=cutmix)
    clips = np.broadcast_to(np.array([0.0, 1.0])[:, None, None, None, None], (2, 4, 32, 32, 3))
    cubes = jnp.asarray(objective.encoder.tubelets(np.ascontiguousarray(clips, np.float32)))
    mix = jax.jit(lambda rng: objective._mix(rng, cubes, clips.shape))
    shares, kinds = [], set()
    for seed in range(30):
        mixed, share = mix(jax.random.key(seed))
        assert float(mixed[1].mean()) == pytest.approx(float(share), abs=1e-4)
        np.testing.assert_allclose(mixed[0], 1 - mixed[1], atol=1e-6)
        values = np.unique(np.round(np.asarray(mixed), 5))
        kinds.add("cut" if set(values) <= {0.0, 1.0} else "mixed")
        shares.append(float(share))
    assert ("mixed" in kinds) == bool(mixup) and ("cut" in kinds) == bool(cutmix)
    assert 0 <= min(shares) and max(shares) <= 1 and np.std(shares) > 0.1


def test_erasing_puts_noise_in_one_box_of_all_frames():
    objective = build_objective(random_erasing=1.0)
    clips = np.full((6, 4, 32, 32, 3), 7.0, np.float32)
    cubes = jnp.asarray(objective.encoder.tubelets(clips))
    keys = jax.random.split(jax.random.key(0), 6)
    erased = objective._erase(keys, cubes, clips.shape)
    place = np.arange(clips[0].size).reshape(clips.shape[1:])[None]
    place = np.asarray(objective.encoder.tubelets(place))[0].reshape(-1)
    for clip in np.asarray(erased):
        video = np.empty(clips[0].size, np.float32)
        video[place] = clip.reshape(-1)
        gone = video.reshape(clips.shape[1:]) != 7.0
        assert (gone == gone[:1, ..., :1]).all()  # the same box in all frames and channels
        rows, columns = (
            np.flatnonzero(gone[0, :, :, 0].any(1)),
            np.flatnonzero(gone[0, :, :, 0].any(0)),
        )
        box = gone[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0]
        assert box.all() and 0.01 < gone[0, :, :, 0].mean() < 0.4
        noise = video.reshape(clips.shape[1:])[gone]
        assert abs(noise.mean()) < 0.5 and 0.8 < noise.std() < 1.2
    none = build_objective(random_erasing=0.0)
    assert not none.random_erasing


@pytest.mark.torch
def test_the_attentive_head_is_the_public_one():
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.vjepa2.modeling_vjepa2")
    transformers = pytest.importorskip("transformers")
    config = transformers.VJEPA2Config(
        hidden_size=48, num_attention_heads=4, num_pooler_layers=2, mlp_ratio=4.0
    )
    torch.manual_seed(0)
    peer = modeling.VJEPA2AttentivePooler(config).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            norm = "layer_norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.1)
    weights = {name: p.detach().numpy() for name, p in peer.named_parameters()}
    head = AttentivePool(48, 5, heads=4, depth=2, rngs=nnx.Rngs(0))

    def linear(name):
        return weights[f"{name}.weight"].T, weights[f"{name}.bias"]

    def fill(module, *names):
        pairs = [linear(name) for name in names]
        module.kernel[...] = np.concatenate([k for k, _ in pairs], axis=-1)
        module.bias[...] = np.concatenate([b for _, b in pairs])

    def norm(module, name):
        module.scale[...], module.bias[...] = weights[f"{name}.weight"], weights[f"{name}.bias"]

    head.query[...] = weights["query_tokens"]
    cross = "cross_attention_layer"
    norm(head.cross.norm1, f"{cross}.layer_norm1")
    norm(head.cross.norm2, f"{cross}.layer_norm2")
    fill(head.cross.q, f"{cross}.cross_attn.q_proj")
    fill(head.cross.kv, f"{cross}.cross_attn.k_proj", f"{cross}.cross_attn.v_proj")
    fill(head.cross.mlp.up, f"{cross}.mlp.fc1")
    fill(head.cross.mlp.down, f"{cross}.mlp.fc2")

    def stacked(module, part, names, transpose=True):
        layers = []
        for i in range(2):
            values = [weights[f"self_attention_layers.{i}.{n}.{part}"] for n in names]
            layers.append(np.concatenate([v.T if transpose else v for v in values], axis=-1))
        module[...] = np.stack(layers)

    projections = [f"self_attn.{p}_proj" for p in "qkv"]
    stacked(head.blocks.attention.qkv.kernel, "weight", projections)
    stacked(head.blocks.attention.qkv.bias, "bias", projections, False)
    for ours, theirs in (
        (head.blocks.attention.out, "self_attn.out_proj"),
        (head.blocks.mlp.up, "mlp.fc1"),
        (head.blocks.mlp.down, "mlp.fc2"),
    ):
        stacked(ours.kernel, "weight", [theirs])
        stacked(ours.bias, "bias", [theirs], False)
    for i in (1, 2):
        ours = getattr(head.blocks, f"norm{i}")
        stacked(ours.scale, "weight", [f"layer_norm{i}"], False)
        stacked(ours.bias, "bias", [f"layer_norm{i}"], False)
    tokens = np.random.default_rng(0).standard_normal((2, 9, 48)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(head.pool(jnp.asarray(tokens)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(head="meanpool"), "objective.head is 'meanpool' .did you mean 'mean_pool'"),
        (dict(labels={}), "objective.labels is empty; it is filled"),
        (dict(label_smoothing=1.0), "objective.label_smoothing is 1.0"),
        (dict(multi_label_loss="focal"), "choose bce or asymmetric"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(UserError, match=message):
        build_objective(**change)


@pytest.fixture
def config(store, monkeypatch):
    """A config maker; runs take one device."""
    found = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    objective = dict(name="classify", task="phase,instrument", label_smoothing=0.1)
    objective |= dict(mixup=0.8, cutmix=1.0, random_erasing=0.5, head_dropout=0.2)
    augment = dict(data__crop="resized", data__flip=0.5, data__rand_augment="m7-n2")

    def make(**changes):
        merged = objective | changes.pop("objective", {})
        return tiny(store, objective=merged, encoder__drop_path=0.2, **augment, **changes)

    return make


def test_training_goes_on_exactly_with_everything_random(config, store, tmp_path):
    train(config(data__repeats=2), tmp_path / "straight")
    train(config(data__repeats=2, stop_at_step=3), tmp_path / "parts")
    train(config(data__repeats=2), tmp_path / "parts")
    assert same(tmp_path / "straight", tmp_path / "parts")
    assert losses(tmp_path / "straight") == losses(tmp_path / "parts")
    saved = json.loads((tmp_path / "straight" / "config.json").read_text())
    assert set(saved["objective"]["labels"]) == {"phase", "instrument"}
    _, meta = read_params(tmp_path / "straight")
    assert all(case.startswith("synthetic/") for case in meta["used_cases"])

    cfg = config(data__repeats=2)
    cfg.evals = dict(
        phase=dict(module="trained_head", every=0, store=str(store), task="phase", crops=3),
        instrument=dict(module="trained_head", every=0, store=str(store), task="instrument"),
    )
    found = evaluate(tmp_path / "straight", cfg)
    assert 0 <= found["phase/macro_f1"] <= 1 and 0 < found["instrument/map"] <= 1
    result = json.loads((tmp_path / "straight/eval/phase/metrics.json").read_text())
    assert result["saw_test"] == "no" and "trained" in result["models"]
    cfg.evals = dict(
        video=dict(
            module="trained_head", every=0, store=str(store), unit="video", segments=2, crops=1
        )
    )
    with pytest.raises(UserError, match="has more than one label; unit='video' is for"):
        evaluate(tmp_path / "straight", cfg)


def test_a_classifier_exports_as_the_public_one(config, tmp_path):
    """From a pretrained run, whose final norm has no place; and to a probe, which keeps it."""
    start = tiny(config().data.stores, stop_at_step=1)
    train(start, tmp_path / "pretrained")
    cfg = config(objective=dict(task="phase"), init_from=str(tmp_path / "pretrained"))
    cfg.stop_at_step = 2
    train(cfg, tmp_path / "run")
    parity = export(tmp_path / "run", tmp_path / "out")
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["architectures"] == ["VideoMAEForVideoClassification"]
    assert described["id2label"]["1"] == "Dissection"
    if parity is not None:
        assert parity["max_abs_difference"]["logits"] < 1e-4

    cfg = config(objective=dict(task="phase", head="linear"), optim__frozen="^encoder/")
    cfg.init_from, cfg.stop_at_step = str(tmp_path / "pretrained"), 2
    state = train(cfg, tmp_path / "probe")
    given, _ = read_params(tmp_path / "pretrained")
    assert set(state.params) == {"head"}
    for path in ("embed", "norm"):
        np.testing.assert_array_equal(
            *(jax.tree.leaves(tree["encoder"][path])[0] for tree in (state.frozen, given))
        )
    export(tmp_path / "probe", tmp_path / "encoder")  # its head has no public class
    described = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert described["architectures"] == ["VideoMAEModel"]


def test_the_classes_come_from_the_stores(config):
    cfg = complete(config())
    assert to_dict(cfg.objective)["labels"]["phase"]["kind"] == "one_of_n"
    cfg.objective.task = "phases"
    with pytest.raises(UserError, match="has no task 'phases'"):
        complete(cfg)


@pytest.mark.torch
def test_frames_of_an_image_network_see_each_other(batch, tmp_path):
    """Against Hugging Face's ViT fed with the tokens of all frames by hand."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from surgjax.interop import files, find_format
    from surgjax.interop.keys import to_ours
    from surgjax.objectives.mae import IMAGENET_MEAN, IMAGENET_STD
    from surgjax.state import rebuild, split

    transformers.utils.logging.disable_progress_bar()
    config = transformers.ViTConfig(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=3, intermediate_size=384,
        image_size=32, layer_norm_eps=1e-6, hidden_act="gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    peer = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            norm = "layernorm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.1 if norm else 0.05)
    objective = build_objective(network="image", head="linear")
    graphdef, params = split(objective)
    vit = find_format("vit")
    peer.save_pretrained(tmp_path)
    tensors = files.read(tmp_path).tensors
    given = to_ours(vit.TABLE, vit.canonical(tensors)).params
    params["image_encoder"] = jax.tree.map(jnp.asarray, unflatten(given)["image_encoder"])
    found = rebuild(graphdef, params).encode(batch["video"])

    pixels = (batch["video"] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    pixels = torch.from_numpy(pixels.astype(np.float32).transpose(0, 1, 4, 2, 3))
    with torch.no_grad():
        frames = [peer.embeddings(pixels[:, t]) for t in range(4)]
        x = torch.cat([frames[0][:, :1], *(f[:, 1:] for f in frames)], dim=1)
        for layer in getattr(peer, "layers", None) or peer.encoder.layer:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        expected = peer.layernorm(x)[:, 1:].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert objective.predict(batch["video"]).shape == (3, 7)


def test_a_folder_tells_which_image_network_it_holds(config, tmp_path):
    """Registers, rotary positions and sizes come from the weights that a run starts from."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    about = transformers.DINOv3ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=64,
        image_size=32, num_register_tokens=4,
    )  # fmt: skip
    transformers.DINOv3ViTModel(about).save_pretrained(tmp_path / "dino")
    cfg = config(objective=dict(task="phase", network="image"), data__frames=1)
    cfg.init_from, cfg.stop_at_step = str(tmp_path / "dino"), 2
    cfg.optim.layer_decay = 0.75
    state = train(cfg, tmp_path / "run")
    net = state.params["image_encoder"]
    assert net["registers"].shape == (1, 4, 48) and "positions" not in net and "norm" not in net
    assert read_params(tmp_path / "run")[1]["init_from"]["format"] == "dinov3"
    with pytest.raises(UserError, match="has head, image_encoder; image classifiers have no --f"):
        export(tmp_path / "run", tmp_path / "out")
