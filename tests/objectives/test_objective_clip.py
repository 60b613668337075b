import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import losses, same, tiny

from surgjax import build, contrastive, objectives, sharding
from surgjax.checkpoint import read_params
from surgjax.errors import UserError
from surgjax.evaluate import evaluate
from surgjax.objectives.clip import held
from surgjax.sharding import make_mesh, put_batch
from surgjax.state import flatten, split
from surgjax.train import train

TEXT = dict(family="bert", vocab_size=50, length=12, width=32, depth=1, heads=2)
TINY = dict(frames=4, size=32, encoder=dict(size="two blocks"), text=TEXT, tokens=12, dim=16)


def make(**changes):
    return objectives.build("clip", **{**TINY, **changes}, rngs=nnx.Rngs(0))


def batch_of(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 4, rows) * 1000
    mask = np.arange(12) < rng.integers(3, 13, rows)[:, None]
    return {
        "video": rng.integers(0, 256, (rows, 4, 32, 32, 3), dtype=np.uint8),
        "index": np.arange(rows, dtype=np.int64),
        "tokens": (rng.integers(1, 50, (rows, 12)) * mask).astype(np.int32),
        "token_mask": mask,
        "caption": np.array([*range(rows - 1), 0], np.int32),
        "recording": rng.integers(0, 3, rows).astype(np.int32),
        "span": np.stack([start, start + 1500], axis=1).astype(np.int32),
    }


@pytest.fixture(scope="module")
def batch():
    return batch_of()


def cosine_table(objective, batch):
    made = jax.jit(lambda batch: objective.embed(batch, rng=jax.random.key(0)))(batch)
    return np.asarray(made["video"], np.float64), np.asarray(made["text"], np.float64)


def test_loss_is_that_of_its_embeddings(batch):
    """Both losses from cosines made here, at each temperature's own start."""
    rng = jax.random.key(1)
    for changes, scale, bias in (
        ({}, 1 / 0.07, None),
        ({"temperature": "log_scale", "overlap": "positive"}, 1 / 0.07, None),
        ({"temperature": "log_scale", "loss": "sigmoid"}, 10.0, -10.0),
    ):
        objective = make(**changes)
        loss, scalars = jax.jit(lambda batch: objective.loss(batch, rng=rng))(batch)  # noqa: B023
        video, text = cosine_table(objective, batch)
        np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-6)
        pairs = {name: batch[name] for name in ("caption", "recording", "span")}
        positive, counted = contrastive.relation(
            *[jax.tree.map(jnp.asarray, pairs)] * 2, changes.get("overlap", "masked")
        )
        positive, counted = np.asarray(positive), np.asarray(counted)
        logits = scale * video @ text.T
        if bias is None:
            expected = 0.0
            for table in (logits, logits.T):
                exact = np.exp(table) * counted
                log_p = table - np.log(exact.sum(1, keepdims=True))
                expected -= ((log_p * positive).sum(1) / positive.sum(1)).mean() / 2
        else:
            sign = np.where(positive, 1, -1)
            each = np.log1p(np.exp(-sign * (logits + bias))) * counted
            expected = each.sum() / len(video)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        assert float(scalars["scale"]) == pytest.approx(scale, rel=1e-5)
        same = [batch["recording"][i] == batch["recording"][j] for i in range(8) for j in range(8)]
        assert float(scalars["same_video_rate"]) == pytest.approx((sum(same) - 8) / 56)


def test_the_timesformer_averages_over_frames(batch):
    """A clip's similarity with a sentence is the mean of its frames' (surgclip's rule)."""
    objective = make(video="timesformer")
    pixels = batch["video"].astype(np.float32) / 255
    project = jax.jit(lambda x: objective.video_projection(objective.encoder.encode(x)))
    each = np.asarray(project((pixels - 0.5) / 0.5), np.float64)
    each /= np.linalg.norm(each, axis=-1, keepdims=True)
    assert each.shape == (8, 4, 16)
    video, text = cosine_table(objective, batch)
    np.testing.assert_allclose(video @ text.T, (each @ text.T).mean(axis=1), atol=1e-5)
    quirky = make(video="timesformer", compat="surgclip")
    assert set(flatten(split(quirky)[1])) == set(flatten(split(objective)[1]))
    assert np.abs(cosine_table(quirky, batch)[0] - video).max() > 1e-3


def test_padding_says_nothing(batch):
    objective = make()
    tokens = np.where(batch["token_mask"], batch["tokens"], 7).astype(np.int32)
    ours = objective.encode_text(batch["tokens"], batch["token_mask"])
    np.testing.assert_array_equal(ours, objective.encode_text(tokens, batch["token_mask"]))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_other_text_towers(batch, family):
    """CLIP ends where its end token stands, whatever follows; SigLIP reads all places."""
    text = dict(TEXT, family=family) | ({"eos": 49} if family == "clip" else {})
    objective = make(text=text, temperature="log_scale")
    assert objective.text_projection.has_bias == (family != "clip")
    end = batch["token_mask"].sum(axis=1) - 1
    tokens = np.minimum(batch["tokens"], 48)
    tokens[np.arange(8), end] = 49
    other = np.where(np.arange(12) > end[:, None], 5, tokens).astype(np.int32)
    encode = jax.jit(lambda tokens, mask: objective.encode_text(tokens, mask))
    ours, theirs = (encode(x, batch["token_mask"]) for x in (tokens, other))
    vectors = objective.text_encoder.encode(jnp.asarray(tokens))
    expected = np.asarray(objective.text_projection(vectors), np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    padded = batch["token_mask"].sum(axis=1) < 12
    equal = np.isclose(ours, theirs, atol=1e-6).all(axis=1)
    assert equal.all() if family == "clip" else not equal[padded].any()


def step_of(store, accumulation, devices, **changes):
    """(state, scalars) after one update on the first batch, and the gradient norm's scalars."""
    objective = dict(name="clip", text=TEXT, tokens=12, dim=16, temperature="log_scale") | changes
    cfg = tiny(store, objective=objective, accumulation=accumulation, encoder__drop_path=0.3)
    cfg.optim.warmup_steps = 0
    mesh = make_mesh(devices, 1)
    learner = build.make_learner(cfg)
    abstract = learner.abstract(mesh)
    state, _ = build.init_state(learner, cfg, abstract)
    step = build.make_step(learner, cfg, mesh, abstract)
    stop = jax.device_put(np.zeros(devices, np.int32), sharding.batch_sharding(mesh))
    batch = put_batch(mesh, batch_of(), 8)
    state, scalars = step(state, batch, stop, None)
    return jax.device_get((state, scalars))


@pytest.fixture
def use_devices(monkeypatch):
    def use(count):
        found = jax.local_devices()[:count]
        monkeypatch.setattr(sharding.jax, "devices", lambda: found)

    return use


@pytest.fixture(scope="module")
def whole():
    with pytest.MonkeyPatch.context() as patch:
        found = jax.local_devices()[:1]
        patch.setattr(sharding.jax, "devices", lambda: found)
        return step_of("unused", 1, 1)


def test_parts_and_devices_change_no_number(whole, use_devices, accumulation=4, devices=2):
    """Drop path is on: a row embedded twice must drop the same branches."""
    use_devices(devices)
    state, scalars = step_of("unused", accumulation, devices)
    assert scalars["grad_norm"] > 0.1
    for a, b in zip(jax.tree.leaves(whole[1]), jax.tree.leaves(scalars), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # Of the first update Adam keeps the gradient's tenth, before it is divided by its size.
    ours, theirs = (flatten(s.opt_state["adam"].mu) for s in (state, whole[0]))
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_plain_accumulation_would_be_another_loss(whole):
    """What must never happen silently: the mean of the losses of parts."""
    objective = make(temperature="log_scale")
    batch = batch_of()
    parts = [jax.tree.map(lambda x: x[k::4], batch) for k in range(4)]  # noqa: B023
    loss = jax.jit(lambda batch: objective.loss(batch, rng=jax.random.key(0))[0])
    assert abs(np.mean([float(loss(part)) for part in parts]) - float(whole[1]["loss"])) > 0.3


def test_a_batch_of_one_is_refused():
    objective = dict(name="clip", text=TEXT, tokens=12, dim=16)
    with pytest.raises(UserError, match="batch_size=1: .* one pair has nothing to be told from"):
        build.make_learner(tiny("unused", objective=objective, batch_size=1))


def test_a_temperature_that_left_its_bounds_comes_back():
    slope = jax.grad(lambda x, sign: sign * held(x, 0.1, 0.5))
    assert [float(held(jnp.float32(x), 0.1, 0.5)) for x in (0.0, 0.3, 0.9)] == pytest.approx(
        [0.1, 0.3, 0.5]
    )
    # Descent goes against the gradient: below the bound a positive one would lead further out.
    found = {(x, s): float(slope(jnp.float32(x), s)) for x in (0.0, 0.3, 0.9) for s in (-1.0, 1.0)}
    assert found == {
        (0.0, -1.0): -1, (0.0, 1.0): 0, (0.3, -1.0): -1,
        (0.3, 1.0): 1, (0.9, -1.0): 0, (0.9, 1.0): 1,
    }  # fmt: skip


def test_published_sizes():
    """SurgCLIP-B: TimeSformer-B and BERT-base, 256 dimensions (package surgclip 0.1.0)."""
    text = dict(family="bert")
    whole = nnx.eval_shape(
        lambda: make(
            frames=16,
            size=224,
            encoder=dict(size="B"),
            video="timesformer",
            text=text,
            tokens=77,
            dim=256,
        )
    )
    flat = flatten(split(whole)[1])
    part = lambda name: sum(x.size for p, x in flat.items() if p.split("/")[0] == name)  # noqa: E731
    assert part("video_projection") == part("text_projection") == 768 * 256 + 256
    assert part("text_encoder") == 108_891_648  # BERT-base without its pooler
    blocks = 12 * (4 * 2 * 768**2 + 768**2 + 8 * 768**2 + 18 * 768)
    assert part("encoder") == pytest.approx(blocks, rel=0.02) and flat["temperature"].shape == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(video="timesfromer"), "objective.video is 'timesfromer' .did you mean 'timesformer'"),
        (dict(loss="nce"), "objective.loss is 'nce'"),
        (dict(temperature="x"), "choose one of divisor, log_scale"),
        (dict(overlap="ignored"), "choose one of masked, positive, negative"),
        (dict(compat="surgclip"), "only the timesformer has a form"),
        (dict(loss="sigmoid"), "set objective.temperature=log_scale"),
        (dict(text={"family": "bert", "deep": 3}), "objective.text has no field 'deep'.*'depth'"),
        (dict(tokens=13), "objective.tokens is 13; the text tower has positions for 12"),
        (dict(text={"depth": 3}), "objective.text.family must be given"),
        (dict(text={"family": "t5"}), "text family 't5' is not known"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(UserError, match=message):
        make(**change)


# --- runs


def run_config(store, **changes):
    """Three levels of the rendered captions, word pieces made of them."""
    text = dict(family="bert", vocab_size=150, length=24, width=32, depth=1, heads=2)
    objective = dict(name="clip", text=text, tokens=24, dim=16, tokenizer="captions")
    changes = {"objective": objective | changes.pop("objective", {})} | changes
    return tiny(store, data__captions__quotas="0.25,0.25,0.5", **changes)


@pytest.fixture(scope="module")
def straight(store, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        found = jax.local_devices()[:1]
        patch.setattr(sharding.jax, "devices", lambda: found)
        train(run_config(store), run)
    return run


def test_training_goes_on_exactly(store, straight, tmp_path, use_devices):
    use_devices(1)
    train(run_config(store, stop_at_step=3), tmp_path)
    train(run_config(store), tmp_path)
    assert same(tmp_path, straight) and losses(tmp_path) == losses(straight)
    lines = map(json.loads, (straight / "metrics.jsonl").read_text().splitlines())
    # Two training videos: half of the pairs of a batch are of one video.
    assert 0.2 < np.mean([line["same_video_rate"] for line in lines if "loss" in line]) < 0.8
    _, meta = read_params(straight)
    assert meta["used_cases"] == ["synthetic/video01", "synthetic/video02"]


def test_a_run_keeps_its_tokenizer(store, straight, tmp_path, use_devices):
    use_devices(1)
    kept = (straight / "tokenizer" / "vocab.txt").read_text().split("\n")
    assert kept[:2] == ["[PAD]", "[UNK]"] and len(kept) <= 151
    other = tmp_path / "words"
    shutil.copytree(straight / "tokenizer", other)
    where = {"tokenizer": str(other)}
    run = tmp_path / "run"
    train(run_config(store, stop_at_step=2, objective=where), run)
    assert losses(run) == {k: v for k, v in losses(straight).items() if k <= 2}
    (other / "vocab.txt").write_text("\n".join([*kept[:5], *kept[5:-1][::-1], ""]))
    with pytest.raises(UserError, match="vocab.txt has changed; put it back, or name .*tokenizer"):
        train(run_config(store, objective=where), run)


def test_a_finished_run_is_asked_for_retrieval(store, straight, capsys):
    cfg = tiny(store, evals__retrieval=dict(every=0, store=str(store), clips="centred"))
    found = evaluate(straight, cfg)
    assert 0 <= found["retrieval/t2v_r10"] <= 1 and "text to video" in capsys.readouterr().out
    saved = json.loads((straight / "eval" / "retrieval" / "metrics.json").read_text())
    assert list(saved["groups"]["all"]["models"]) == ["pretrained", "random"]
    assert saved["saw_test"] == "no"


def test_frozen_towers_keep_their_values(store, tmp_path, use_devices):
    use_devices(1)
    frozen = r"^encoder/|^text_encoder/(token_embedding|blocks/0/)"
    state = train(run_config(store, optim__frozen=frozen, stop_at_step=2), tmp_path)
    assert {path.split("/")[0] for path in flatten(state.frozen)} == {"encoder", "text_encoder"}
    trained = {path.split("/")[0] for path in flatten(state.params)}
    assert trained == {"text_encoder", "video_projection", "text_projection", "temperature"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tokenizer=""), "objective.tokenizer is empty; expected a folder with .*vocab.txt"),
        (dict(tokenizer="/none"), "/none does not exist; expected tokenizer.json"),
        (
            dict(text=dict(family="clip", vocab_size=150, length=24)),
            "makes BERT's word pieces and objective.text.family is 'clip'",
        ),
        (
            dict(text=dict(family="bert", vocab_size=20, length=24)),
            "a vocabulary of 20 pieces; the sentences' characters alone make",
        ),
    ],
)
def test_tokenizers_that_do_not_fit_are_named(store, change, message):
    with pytest.raises(UserError, match=message):
        build.open_data(run_config(store, objective=change))


def test_a_tokenizer_with_more_ids_than_the_tower_is_refused(store, straight):
    text = dict(family="bert", vocab_size=50, length=24)
    change = dict(text=text, tokenizer=str(straight / "tokenizer"))
    with pytest.raises(UserError, match="ids and the text tower 50; set objective.text.vocab_size"):
        build.open_data(run_config(store, objective=change))
