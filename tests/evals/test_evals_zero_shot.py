import hashlib
import importlib
import json
import pkgutil

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

import data_prep.sources
from data_prep.sources import cholec80, cholect50
from surgjax.benchmark import predictions, score, suites
from surgjax.benchmark import prompt_sets as prompt_scores
from surgjax.data.captioned import clean
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.features import labelled_clips
from surgjax.evals.model import Model, Space
from surgjax.evals.zero_shot import (
    SHIPPED,
    Evaluator,
    as_csv,
    class_embeddings,
    prompt_sets,
    read_prompts,
    scores,
)

CLIP = ClipShape(2, 4, 32)
CLASSES = ["Preparation", "Dissection", "Clipping", "Cleaning"]


def brightness(video):
    mean = video.reshape(len(video), -1).mean(axis=1, dtype=np.float64) / 255
    return np.stack([mean, 1 - mean, mean**2], axis=1).astype(np.float32)


def sentences(texts):
    rows = [[len(t) % 5, t.count("c"), t.count("n")] for t in texts]
    return np.array(rows, np.float32) + 0.1


SPACE = Space(brightness, sentences)


def test_prompts_name_their_class(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text(
        "class_id,class,prompt\n3,Cleaning,rinse\n0,Preparation,look\n1,Dissection,cut\n"
        '2,Clipping,"clip, then clip"\n0,Preparation,explore\n'
    )
    assert read_prompts(file, CLASSES) == [
        ["look", "explore"], ["cut"], ["clip, then clip"], ["rinse"]
    ]  # fmt: skip
    assert read_prompts(None, ["CalotTriangleDissection", "cut_2"]) == [
        ["calot triangle dissection"],
        ["cut 2"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_id,class,prompt\n1,Preparation,x\n", "row 2: class 1 'Preparation'; .*0 Prep"),
        ("class_id,class,prompt\n0,Preperation,x\n", "row 2: class 0 'Preperation'"),
        ("class_id,class,prompt\n0,Preparation, \n", "row 2: prompt is empty"),
        ("class_id,class,prompt\n0,Preparation,x\n", "no prompt for class 'Dissection'"),
        ("id,prompt\n0,x\n", "expected class_id,class,prompt"),
        (None, "cannot be read .FileNotFoundError"),
    ],
)
def test_prompts_that_do_not_fit_are_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / "p.csv", CLASSES)


def test_the_nearest_class_wins():
    """By hand: mean of unit prompts, then products."""
    prompts = [["a", "bcc"], ["n"]]
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    one = unit(unit(np.array([1.1, 0.1, 0.1])) + unit(np.array([3.1, 2.1, 0.1])))
    two = unit(np.array([1.1, 0.1, 1.1]))
    np.testing.assert_allclose(class_embeddings(SPACE, prompts), [one, two], atol=1e-6)
    video = np.array([[2.0, 0.5, 0.0], [0.5, 0.0, 0.5]], np.float32)
    products = np.array([[clip @ one, clip @ two] for clip in video])
    np.testing.assert_allclose(scores(video, np.stack([one, two]), "multi_label"), products, 1e-6)
    found = scores(video, np.stack([one, two]), "one_of_n")
    for row, cosines in zip(found, products, strict=True):
        expected = np.exp(100 * (cosines - cosines.max()))
        np.testing.assert_allclose(row, expected / expected.sum(), atol=1e-5)


MODULES = [
    importlib.import_module(f"data_prep.sources.{module.name}")
    for module in pkgutil.iter_modules(data_prep.sources.__path__)
]
TASKS = [
    (module.ABOUT.dataset, task, list(module.ABOUT.tasks[task]["classes"]))
    for module in MODULES
    if hasattr(module, "ABOUT")
    for task in module.ABOUT.tasks
]


def shipped(dataset, task):
    return sorted(SHIPPED.glob(f"{dataset}_{task}_*.csv"))


def test_shipped_prompts_are_of_their_adapters():
    seen = []
    for dataset, task, classes in TASKS:
        prompts = {file: read_prompts(file, list(classes)) for file in shipped(dataset, task)}
        assert len(prompts) in (0, 3, 4), (dataset, task)
        for file, own in prompts.items():
            assert file.read_text() == as_csv(classes, own)
            flat = [clean(prompt) for prompts in own for prompt in prompts]
            assert len(set(flat)) == len(flat), file.name
        texts = [tuple(map(tuple, own)) for own in prompts.values()]
        assert len(set(texts)) == len(texts)
        seen += prompts
    assert sorted(seen) == sorted(SHIPPED.glob("*")) and len(seen) == 43
    for entry in suites.load("surgclip10").entries:
        assert len(shipped(entry.dataset, entry.label)) >= 3


def test_printed_sentences_have_the_numbers_of_their_phases():
    """The seed's own list prints Retraction's place for Packaging and the other way round."""
    own = read_prompts(
        SHIPPED / "cholec80_phase_readme.csv", cholec80.ABOUT.tasks["phase"]["classes"]
    )
    words = ("trocars", "calot", "clipper", "liver", "packaging", "coagulating", "retraction")
    assert [[word in prompt for word in words].index(True) for (prompt,) in own] == [*range(7)]


def test_triplets_are_told_with_their_three_words():
    classes = cholect50.CLASSES["triplet"]
    for name, (prompt,) in zip(
        classes, read_prompts(SHIPPED / "cholect50_triplet_ours.csv", classes), strict=True
    ):
        tool, verb, target = name.split(",")
        known = {"clipper": "clip applier", "null_verb": "nothing", "null_target": "in view"}
        for word in (tool, verb, target):
            text = known.get(word, word.replace("_wall_cavity", " wall").replace("_", " "))
            assert text[:-1] in prompt.lower(), (name, prompt)


def test_sets_are_found_by_name(store, tmp_path):
    clips = labelled_clips(open_store(store), "phase", CLIP, every_s=2.0, split="official")
    names = lambda asked, task="phase": [s.name for s in prompt_sets(asked, clips, task)]  # noqa: E731
    assert names("all") == ["ensemble", "names", "ours"]
    file = tmp_path / "mine.csv"
    file.write_text(as_csv(clips.classes, [["a"], ["b"], ["c"], ["d"]]))
    mine, ours = prompt_sets(f"{file}, ours", clips, "phase")
    assert (mine.name, mine.prompts[2]) == ("mine", ["c"])
    assert (
        ours.sha256
        == hashlib.sha256((SHIPPED / "synthetic_phase_ours.csv").read_bytes()).hexdigest()
    )
    assert ours.in_words() == f"prompts ours (sha256 {ours.sha256[:12]})"
    assert names("all", "activity") == ["names"]  # nothing is shipped for it
    for asked, message in (
        ("our", "no set 'our' .did you mean 'ours'?.*choose from ensemble, names, ours, all"),
        ("ours,ours", "name the set 'ours' once"),
        (" ", "name sets or csv files"),
    ):
        with pytest.raises(UserError, match=message):
            prompt_sets(asked, clips, "phase")


def test_every_set_is_saved_beside_the_floors(store, tmp_path, capsys):
    model = Model(encode=brightness, clip=CLIP, used_cases=[], space=SPACE, random_space=SPACE)
    scalars = Evaluator(store=str(store), every_s=1.0).run(model, out=tmp_path, step=1)
    file = tmp_path / "predictions.parquet"
    table = predictions.read(file)
    assert set(table["model"]) == {"pretrained", "random", "majority", "best_constant"}
    assert set(table["split"]) == {"test"}
    saved = json.loads((tmp_path / "metrics.json").read_text())
    shown = saved["prompts"]["names"]["prompts"]
    assert shown[2] == {"class_id": 2, "class": "Clipping", "prompts": ["clipping"]}
    values = {}
    for name in ("ensemble", "names", "ours"):
        rows = table.where((table["setting"] == name) & (table["model"] == "pretrained"))
        assert (
            f"prompts {name} (sha256 {saved['prompts'][name]['sha256'][:12]})"
            in rows["protocol"][0]
        )
        each = [
            f1_score(rows.target[at], rows.pred[at], average="macro", zero_division=0)
            for video in np.unique(rows["video_id"])
            if (at := rows["video_id"] == video).any()
        ]
        values[name] = np.mean(each)
        found = saved["sets"][name]["models"]["pretrained"]
        assert found["macro_f1_per_video"]["value"] == pytest.approx(values[name])
        result = score.score(file, "phase", "strict", setting=name)
        assert result["metrics"]["image_accuracy"]["value"] == found["accuracy_pooled"]
    over = saved["over_sets"]["pretrained"]["macro_f1_per_video"]
    assert over["mean"] == pytest.approx(np.mean([*values.values()]))
    assert (over["lowest"], over["highest"]) == pytest.approx(
        (min(values.values()), max(values.values()))
    )
    assert scalars["gain_over_random"] == 0 and scalars["macro_f1"] == over["mean"]
    assert saved["saw_test"] == "no" and prompt_scores.main_set(["names", "ours"]) == "ours"
    assert "mean [range]" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs an objective with a text tower"):
        Evaluator(store=str(store)).run(Model(encode=brightness, clip=CLIP), out=tmp_path, step=1)


def test_several_classes_are_scored_by_similarity(store, tmp_path):
    model = Model(encode=brightness, clip=CLIP, used_cases=[], space=SPACE)
    evaluator = Evaluator(store=str(store), task="instrument", prompts="ours,names")
    scalars = evaluator.run(model, out=tmp_path, step=1)
    table = predictions.read(tmp_path / "predictions.parquet")
    saved = json.loads((tmp_path / "metrics.json").read_text())
    rows = table.where((table["setting"] == "ours") & (table["model"] == "pretrained"))
    some = rows.target.any(axis=0)
    expected = average_precision_score(rows.target[:, some], rows.probabilities[:, some])
    found = saved["sets"]["ours"]["models"]["pretrained"]["map_pooled"]["value"]
    assert found == pytest.approx(expected)
    assert set(table["model"]) == {"pretrained", "class_frequency"}
    assert scalars["map_lowest"] <= scalars["map"] <= scalars["map_highest"]


def test_classes_can_be_left_out(store, tmp_path):
    model = Model(encode=brightness, clip=CLIP, used_cases=[], space=SPACE)
    ask = lambda **how: Evaluator(store=str(store), prompts="ours", **how)  # noqa: E731
    ask(exclude="Cleaning").run(model, out=tmp_path, step=1)
    table = predictions.read(tmp_path / "predictions.parquet")
    assert set(table.target) == {0, 1, 2} and table.classes == CLASSES
    assert "without Cleaning" in table["protocol"][0]
    clips = labelled_clips(open_store(store), "phase", CLIP, every_s=1.0, split="official")
    usual = np.bincount(clips.label[clips.split != "test"]).argmax()
    ask(exclude=CLASSES[usual]).run(model, out=tmp_path, step=1)
    floor = predictions.read(tmp_path / "predictions.parquet").of("majority")
    assert usual not in floor.target and usual not in floor.pred
    with pytest.raises(UserError, match="exclude is 'Rinsing'; expected classes"):
        ask(exclude="Rinsing").run(model, out=tmp_path, step=1)
