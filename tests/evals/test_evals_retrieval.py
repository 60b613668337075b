import json

import numpy as np
import pytest

from surgjax.benchmark import report, retrieval
from surgjax.data.captioned import Captions, choose, frames_of
from surgjax.data.clip import decode_frames
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.model import Model, Space
from surgjax.evals.retrieval import Evaluator

CLIP = ClipShape(4, 4, 32)


def colours(video):
    """Mean colour of each quarter of a clip's first and last frame."""
    quarters = video[:, [0, -1]].reshape(len(video), 2, 2, 16, 2, 16, 3).mean((3, 5))
    return quarters.reshape(len(video), -1).astype(np.float32)


def letters(texts):
    count = np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwx"] for text in texts])
    return count.astype(np.float32)


def model(**changes):
    space = Space(colours, letters)
    given = dict(encode=colours, clip=CLIP, used_cases=[], space=space, random_space=space)
    return Model(**(given | changes))


def test_embeddings_are_saved_and_scored(store, tmp_path, capsys):
    scalars = Evaluator(store=str(store)).run(model(), out=tmp_path, step=7)
    opened = open_store(store)
    chosen = choose(opened, opened.videos["split_official"] == "test", Captions())
    tables = retrieval.read_embeddings(tmp_path / "embeddings.parquet")
    assert list(tables) == ["pretrained", "random"]
    table = tables["pretrained"]
    assert list(table["caption_id"]) == list(chosen.caption_id) and len(chosen) > 10
    assert set(table["split"]) == {"test"} and set(table["level"]) == {"coarse", "mid", "fine"}
    np.testing.assert_array_equal(table["text_embedding"], letters(chosen.text))
    for i in (0, len(chosen) - 1):
        frames = frames_of(opened, chosen.video[i], chosen.span_ms[i], CLIP, Captions())
        clip = decode_frames(opened, chosen.video[i], frames, CLIP)
        np.testing.assert_array_equal(table["video_embedding"][i], colours(clip[None])[0])
    saved = json.loads((tmp_path / "metrics.json").read_text())
    again = retrieval.score(tmp_path / "embeddings.parquet")
    assert {name: saved[name] for name in again} == again and saved["saw_test"] == "no"
    row = again["groups"]["all"]["models"]["pretrained"]["text_to_video"]
    assert scalars["t2v_r10"] == row["recall_10"] and scalars["t2v_r1_chance"] < 0.2
    assert "retrieval at step 7" in capsys.readouterr().out
    page = report.write_report(tmp_path).read_text()
    assert "text to video" in page and "R@10" in page


def test_options_reach_the_captions(store, tmp_path):
    Evaluator(store=str(store), levels="mid", part="val", most=3, clips="centred").run(
        model(random_space=None, used_cases=None), out=tmp_path, step=0
    )
    tables = retrieval.read_embeddings(tmp_path / "embeddings.parquet")
    assert list(tables) == ["pretrained"]
    assert set(tables["pretrained"]["level"]) == {"mid"} and len(tables["pretrained"]["text"]) == 3
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved["saw_test"] == "unknown" and list(saved["groups"]) == ["all"]


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, {"space": None}, "needs an objective with a text tower"),
        ({"split": "tecno"}, {}, "has no split 'tecno'; it has .'official'"),
        ({"max_duration": 0.01}, {}, "has 0 captions in test of split 'official'"),
        ({"levels": "short"}, {}, "data.captions.levels has 'short'"),
    ],
)
def test_what_cannot_be_asked_is_refused(store, tmp_path, changes, given, message):
    with pytest.raises(UserError, match=message):
        Evaluator(store=str(store), **changes).run(model(**given), out=tmp_path, step=0)
