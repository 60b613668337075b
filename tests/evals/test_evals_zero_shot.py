import json

import numpy as np
import pytest

from surgjax.benchmark import predictions
from surgjax.data.plan import ClipShape
from surgjax.errors import UserError
from surgjax.evals.model import Model, Space
from surgjax.evals.zero_shot import Evaluator, class_embeddings, probabilities, read_prompts

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
    """By hand: mean of unit prompts, then cosines."""
    prompts = [["a", "bcc"], ["n"]]
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    one = unit(unit(np.array([1.1, 0.1, 0.1])) + unit(np.array([3.1, 2.1, 0.1])))
    two = unit(np.array([1.1, 0.1, 1.1]))
    np.testing.assert_allclose(class_embeddings(SPACE, prompts), [one, two], atol=1e-6)
    video = np.array([[2.0, 0.5, 0.0], [0.5, 0.0, 0.5]], np.float32)
    found = probabilities(video, np.stack([one, two]))
    for row, clip in zip(found, video, strict=True):
        cosines = np.array([unit(clip) @ one, unit(clip) @ two])
        expected = np.exp(100 * (cosines - cosines.max()))
        np.testing.assert_allclose(row, expected / expected.sum(), atol=1e-5)


def test_predictions_are_saved_beside_the_floors(store, tmp_path):
    model = Model(encode=brightness, clip=CLIP, used_cases=[], space=SPACE, random_space=SPACE)
    scalars = Evaluator(store=str(store), every_s=2.0).run(model, out=tmp_path, step=1)
    table = predictions.read(tmp_path / "predictions.parquet")
    assert set(table["model"]) == {"pretrained", "random", "majority", "best_constant"}
    assert set(table["split"]) == {"test"}
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved["prompts"][0] == ["preparation"] and saved["saw_test"] == "no"
    assert scalars["gain_over_random"] == 0 and scalars["accuracy"] > 0
    with pytest.raises(UserError, match="needs an objective with a text tower"):
        Evaluator(store=str(store)).run(Model(encode=brightness, clip=CLIP), out=tmp_path, step=1)
