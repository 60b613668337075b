"""CoOp beside one written in PyTorch on the public classes, and end to end on a run."""

import json

import jax
import numpy as np
import pytest
import vocabularies
from flax import nnx
from runs import tiny

from surgjax import interop, objectives, sharding
from surgjax.benchmark import __main__ as benchmark
from surgjax.benchmark import few_shot, predictions
from surgjax.data import tokenizers
from surgjax.data.plan import ClipShape
from surgjax.encoder import open_encoder
from surgjax.errors import UserError
from surgjax.evals import coop
from surgjax.evals.model import Model, Space, TextTower
from surgjax.evaluate import evaluate
from surgjax.state import flatten, rebuild, split, unflatten
from surgjax.train import train

NAMES = ["the cystic", "clip", "gall"]
M, LENGTH, DIM = 3, 16, 8
SIZES = dict(hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


def random_weights(torch, model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name.lower() and name.endswith("weight")), 0.2)
    return model.eval()


def clip_tower(torch, transformers, folder):
    """(our tower, the public class's embeddings, its layer of words): a public CLIP."""
    tokenizer = tokenizers.load(vocabularies.byte_pairs(folder / "words"), "clip", LENGTH)
    text = dict(vocab_size=tokenizer.vocab_size, max_position_embeddings=LENGTH)
    text |= dict(eos_token_id=tokenizer.eos, pad_token_id=tokenizer.eos)
    vision = dict(SIZES, image_size=32, patch_size=16)
    config = transformers.CLIPConfig(
        text_config=SIZES | text, vision_config=vision, projection_dim=DIM
    )
    model = random_weights(torch, transformers.CLIPModel(config))
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder / "model")
    encoder = open_encoder(folder / "model", 2, 32)
    tower = TextTower(
        **dict(tokenizer=tokenizer, encode=encoder.towers.text, call=calling(encoder.params)),
        **dict(starts=encoder.towers.starts, width=encoder.towers.width),
        scale=encoder.towers.scale(encoder.params),
    )
    assert tower.scale == pytest.approx(np.exp(3.0))
    return (
        tower,
        lambda ids, mask: model.text_projection(model.text_model(input_ids=ids).pooler_output),
        model.text_model.embeddings.token_embedding,
    )


def bert_tower(torch, transformers, folder):
    """The same: SurgCLIP's text tower in a run's objective."""
    tokenizers.write_word_pieces(folder / "words", tokenizers.word_pieces(NAMES, 60))
    tokenizer = tokenizers.load(folder / "words", "bert", LENGTH)
    sizes = dict(vocab_size=tokenizer.vocab_size, max_position_embeddings=LENGTH)
    config = transformers.BertConfig(**SIZES, **sizes)
    model = random_weights(torch, transformers.BertModel(config, add_pooling_layer=False))
    model.save_pretrained(folder / "model")
    projection = random_weights(torch, torch.nn.Linear(SIZES["hidden_size"], DIM))
    text = dict(vocab_size=tokenizer.vocab_size, length=LENGTH, width=16, depth=2, heads=2)
    text["family"] = "bert"
    objective = nnx.eval_shape(
        lambda: objectives.build(
            "clip",
            **dict(frames=2, size=32, encoder=dict(size="two blocks"), text=text),
            **dict(tokens=LENGTH, dim=DIM),
            rngs=nnx.Rngs(0),
        )
    )
    graphdef, shapes = split(objective)
    loaded = flatten(interop.load(folder / "model").params)
    loaded["text_projection/kernel"] = projection.weight.detach().numpy().T
    loaded["text_projection/bias"] = projection.bias.detach().numpy()
    params = {name: np.zeros(x.shape, np.float32) for name, x in flatten(shapes).items()}
    params |= {name: value for name, value in loaded.items() if name in params}
    assert all(name in loaded for name in params if name.startswith("text_"))
    tower = TextTower(
        tokenizer=tokenizer,
        encode=lambda params, ids, mask, context: rebuild(graphdef, params).encode_text(
            ids, mask, context=context
        ),
        call=calling(unflatten(params)),
        **dict(starts=objective.text_encoder.starts, width=16, scale=20.0),
    )

    def embed(ids, mask):
        return projection(model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0])

    return tower, embed, model.get_input_embeddings()


def calling(params):
    return lambda function, argument: jax.tree.map(np.asarray, function(params, argument))


@pytest.mark.torch
@pytest.mark.parametrize("make_tower, class_specific", [(clip_tower, False), (bert_tower, True)])
def test_the_context_is_that_of_coop_in_pytorch(tmp_path, make_tower, class_specific):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    tower, embed, words_layer = make_tower(torch, transformers, tmp_path)
    rng = np.random.default_rng(5)
    video = rng.standard_normal((40, DIM)).astype(np.float32)  # a whole batch and a part of one
    video /= np.linalg.norm(video, axis=1, keepdims=True)
    label, epochs, seed = rng.integers(0, len(NAMES), 40), 4, (3, 1)

    words = coop.with_room(tower, NAMES, M)
    step = coop.make_step(tower.encode)
    options = dict(length=M, class_specific=class_specific, epochs=epochs, seed=seed)
    found = coop.learn(tower, step, words, video, label, **options)

    rng = np.random.default_rng(seed)
    shape = (len(NAMES) if class_specific else 1, M, 16)
    context = torch.tensor(rng.normal(0, 0.02, shape), dtype=torch.float32, requires_grad=True)
    first = context.detach().clone()
    words_layer.register_forward_hook(
        lambda layer, given, out: torch.cat(
            [out[:, :1], context.expand(len(out), -1, -1), out[:, 1 + M :]], dim=1
        )
    )
    plain = tower.tokenizer(NAMES)
    ids = torch.tensor(
        [[*row[:1], *[0] * M, *row[1 : LENGTH - M]] for row in plain["ids"].tolist()]
    )
    mask = torch.tensor(
        [[True, *[True] * M, *row[1 : LENGTH - M]] for row in plain["mask"].tolist()]
    )
    optimiser = torch.optim.SGD([context], lr=1.0, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        rate = 1e-5 if epoch == 0 else 0.001 * (1 + np.cos(np.pi * epoch / epochs))
        optimiser.param_groups[0]["lr"] = rate
        order = rng.permutation(40)
        for rows in (order[:32], order[32:]):
            text = torch.nn.functional.normalize(embed(ids, mask), dim=1)
            logits = tower.scale * torch.from_numpy(video[rows]) @ text.T
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label[rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    expected = context.detach().numpy()
    moved = np.abs(expected - first.numpy()).max()
    assert moved > 1e-4
    np.testing.assert_allclose(found, expected, atol=1e-3 * moved)
    ours = tower.call(coop.make_embed(tower.encode), {**words, "context": found})
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(embed(ids, mask), dim=1)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_names_need_room(tmp_path):
    """The name stays whole, for CLIP with its end, which its padding repeats."""
    words = tokenizers.load(vocabularies.byte_pairs(tmp_path / "words"), "clip", LENGTH)
    tower = TextTower(words, print, print, starts=1, width=16, scale=1.0)
    used = int((words(["cystic"])["ids"] != words.pad).sum()) + 1
    made = coop.with_room(tower, ["cystic"], LENGTH - used)
    assert made["ids"].shape == made["mask"].shape == (1, LENGTH)
    assert made["mask"].all() and made["ids"][0, -1] == words.eos
    assert made["ids"][0, 1 : LENGTH - used + 1].tolist() == [0] * (LENGTH - used)
    with pytest.raises(UserError, match=f"leave {used - 1} of 16 tokens .* 'cystic' has {used}"):
        coop.with_room(tower, ["cystic"], LENGTH - used + 1)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """One step of SurgCLIP's towers, made small."""
    text = dict(family="bert", vocab_size=150, length=24, width=32, depth=1, heads=2)
    objective = dict(name="clip", video="timesformer", compat="surgclip", tokenizer="captions")
    objective |= dict(text=text, tokens=24, dim=16)
    folder = tmp_path_factory.mktemp("coop") / "run"
    with pytest.MonkeyPatch.context() as patch:
        found = jax.local_devices()[:1]
        patch.setattr(sharding.jax, "devices", lambda: found)
        train(tiny(store, objective=objective, total_steps=1), folder)
    return folder


def test_a_run_with_a_text_tower_is_asked(store, run, capsys):
    shared = dict(every=0, store=str(store), every_s=2.0)
    learnt = dict(shared, shots="2,all", draws=1, epochs=2, length=4)
    cfg = tiny(store, evals__coop=learnt, evals__zero_shot=dict(shared, task="instrument"))
    scalars = evaluate(run, cfg)

    file = run / "eval" / "zero_shot" / "predictions.parquet"
    asked = predictions.read(file)
    assert set(asked["setting"]) == {"ensemble", "names", "ours"}
    assert np.abs(asked.of("pretrained").probabilities).max() <= 1.0001  # cosines
    command = ["score", str(file), "--task=tool", "--setting=ours", "--json"]
    capsys.readouterr()
    assert benchmark.main(command) == 0
    shown = json.loads(capsys.readouterr().out)
    saved = json.loads((file.parent / "metrics.json").read_text())
    own = saved["sets"]["ours"]["models"]["pretrained"]["map_pooled"]["value"]
    assert shown["metrics"]["map"]["value"] == pytest.approx(own)
    with pytest.raises(UserError, match="has the settings ensemble, names, ours; give one"):
        benchmark.main(command[:3])

    table = predictions.read(run / "eval" / "coop" / "predictions.parquet")
    found = {
        name: {s: len(set(of["draw"][of["setting"] == s])) for s in dict.fromkeys(of["setting"])}
        for name in table.models
        if len(of := table.of(name))
    }
    every = {"2 shots": 10, "all shots": 1}
    floors = dict.fromkeys(("majority", "best_constant"), {"all shots": 1})
    assert found == {"pretrained": every, "random": every, **floors}
    assert set(table["split"]) == {"test"} and "4 shared vectors" in table["protocol"][0]
    result = few_shot.score(run / "eval" / "coop" / "predictions.parquet")
    value = result["models"]["pretrained"]["2 shots"]["macro_f1_per_video"]
    assert value["value"] == scalars["coop/macro_f1_2_shots"] and value["seeds"] == 10


def test_what_cannot_be_learnt_is_told(store, tmp_path):
    words = tokenizers.Tokenizer("bert", 16, 60, 3, 0, None)
    some = TextTower(words, print, print, starts=1, width=16, scale=1.0)

    def ask(tower=some, **how):
        space = Space(lambda video: video, lambda texts: texts, tower)
        model = Model(encode=print, clip=ClipShape(2, 4, 32), space=space)
        coop.Evaluator(store=str(store), **how).run(model, out=tmp_path, step=0)

    for how, message in (
        (dict(tower=None), "no gradients through its text tower"),
        (dict(task="instrument"), "several classes a clip"),
        (dict(shots="1,some"), "has 'some'; expected numbers from 1 or all"),
        (dict(draws=0), "draws=0"),
    ):
        with pytest.raises(UserError, match=message):
            ask(**how)
