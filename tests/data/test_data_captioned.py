"""Captions as samples: SurgLaVi's options, exact quotas, and what a batch says of its rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgjax.data import batch as contract
from surgjax.data.captioned import CaptionedPlan, Captions, choose, clean, frames_of
from surgjax.data.loader import train_batches
from surgjax.data.plan import ClipShape
from surgjax.data.record import CAPTION_COLUMNS, LEVELS
from surgjax.data.store import open_store
from surgjax.errors import UserError

CLIP = ClipShape(4, 2, 16)


def write_captions(path, rows):
    """Rows are (video, level, start_ms, end_ms, text), then (raw_text, surgical, descriptive)."""
    table = []
    for i, (video, level, start, end, text, *more) in enumerate(rows):
        raw, surgical, descriptive = more or (f"er {text}", True, True)
        values = (f"c{i}", f"video{video:02d}", level, start, end, raw, text, surgical, descriptive)
        table.append(dict(zip(CAPTION_COLUMNS, values, strict=True)))
    schema = pa.schema({n: pa.type_for_alias(kind) for n, kind in CAPTION_COLUMNS.items()})
    pq.write_table(pa.Table.from_pylist(table, schema=schema), path / "captions.parquet")


ROWS = [
    (0, "coarse", 0, 4000, "The surgeon operates."),
    (0, "mid", 0, 2000, "He dissects - slowly."),
    (0, "mid", 2000, 4000, "He clips."),
    (0, "fine", 0, 400, "Cut."),
    (0, "fine", 1000, 1600, "Cut!"),
    (1, "coarse", 0, 2000, "Another operation."),
    (1, "fine", 200, 900, "A clip."),
    (1, "fine", 900, 950, "Thanks", "thank you", False, False),
    (2, "fine", 0, 900, "Held out."),
    (3, "fine", 100, 300, "The surgeon", "so the surgeon", True, True),
    (3, "mid", 0, 700, "Rinse/clean.", "rinsing", True, False),
]


@pytest.fixture(scope="module")
def store(make_store, tmp_path_factory):
    path = make_store(
        tmp_path_factory.mktemp("captioned") / "s", frames=(100, 50, 40, 60), fps=25.0
    )
    write_captions(path, ROWS)
    return open_store(path)


MASK = np.array([True, True, False, True])


def tokenizer(texts):
    """Lengths of the words, padded to five."""
    ids = np.zeros((len(texts), 5), np.int32)
    for row, text in zip(ids, texts, strict=True):
        words = [len(word) for word in text.split()][:5]
        row[: len(words)] = words
    return {"ids": ids, "mask": ids > 0}


def plan_of(stores, **changes):
    given = dict(clip=CLIP, batch_size=6, seed=3, tokenizer=tokenizer)
    options = {k: changes.pop(k) for k in list(changes) if k in Captions.__dataclass_fields__}
    masks = changes.pop("masks", [MASK] * len(stores))
    return CaptionedPlan(stores, masks, options=Captions(**options), **(given | changes))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The surgeon cuts, then clips.", "cuts then clips"),
        ("the surgeon's hook (left)", "the surgeons hook left"),  # only with a capital T
        ('A well-known/"safe" view?! #1*: a;b~', "a well known safe view 1 ab"),
        ("  Two   spaces ", "two spaces"),
        ("The surgeon.", ""),
    ],
)
def test_clean_up_is_surglavis(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({}, "0 1 2 3 4 5 6"),
        ({"filter_pairs": False}, "0 1 2 3 4 5 6 7 10"),
        ({"text_preprocess": False}, "0 1 2 3 4 5 6 9"),
        ({"levels": "fine"}, "3 4 6"),
        ({"levels": "3,1"}, "0 3 4 5 6"),  # SurgLaVi's ids of coarse and fine
        ({"min_duration": 0.4, "max_duration": 2.0}, "1 2 4 5 6"),  # the first is excluded
    ],
)
def test_options_choose_captions(store, options, ids):
    chosen = choose(store, MASK, Captions(**options))
    assert list(chosen.caption_id) == [f"c{i}" for i in ids.split()]
    assert sum(chosen.dropped.values()) + len(chosen) == len(ROWS)
    assert chosen.dropped["of held-out videos"] == 1


def test_raw_text_is_the_other_column(store):
    chosen = choose(store, MASK, Captions(enhanced_captions=False, filter_pairs=False))
    assert list(chosen.text[-3:]) == ["thank you", "so the surgeon", "rinsing"]


def test_plan_reports_what_it_leaves_out(store):
    assert plan_of([store]).report == (
        "7 captions (2 coarse, 2 mid, 3 fine); dropped: 1 of held-out videos, 2 not surgical and "
        "descriptive, 1 without words"
    )


def test_rows_are_a_function_of_seed_and_step_and_epochs_are_whole(store):
    plan, again = plan_of([store]), plan_of([store])
    rows = np.concatenate([plan.rows(step) for step in range(70)])
    assert np.array_equal(plan.rows(50), again.rows(50))
    assert not np.array_equal(plan.rows(50)["index"], plan_of([store], seed=4).rows(50)["index"])
    assert np.bincount(rows["index"]).tolist() == [60] * 7


def test_quotas_are_exact(store):
    plan = plan_of([store], batch_size=10, quotas="0.2,0.3,0.5")
    names = np.array(["coarse"] * 2 + ["mid"] * 2 + ["fine"] * 3)
    counts = []
    for step in range(30):
        drawn = names[plan.rows(step)["index"]]
        counts.append([(drawn == level).sum() for level in LEVELS])
    assert np.sum(counts, axis=0).tolist() == [60, 90, 150]
    assert np.abs(np.array(counts) - [2, 3, 5]).max() <= 1


def test_quotas_and_weights_over_stores(store, make_store, tmp_path):
    other = make_store(tmp_path / "other", frames=(100, 50), fps=25.0)
    write_captions(other, [(0, "fine", 0, 900, f"text {i}") for i in range(20)])
    both = [store, open_store(other)]
    masks = [MASK, np.ones(2, bool)]
    plan = plan_of(both, masks=masks, batch_size=8, quotas="0.25,0,0.75", weights="2,1")
    rows = np.concatenate([plan.rows(step) for step in range(30)])
    # The second store has no coarse caption, so the first gives them all; fine ones go 2 to 1.
    count = np.bincount(rows["store"])
    assert count.tolist() == [60, 120, 60]
    assert [s.path for s in plan.stores] == [store.path, store.path, both[1].path]
    plan = plan_of(both, masks=masks, batch_size=9)
    rows = np.concatenate([plan.rows(step) for step in range(27)])
    assert np.bincount(rows["index"]).tolist() == [9] * 27


def test_batch_says_which_rows_belong_together(store):
    plan = plan_of([store], batch_size=7, clips="centred")
    with train_batches(plan, plan.stores, clip=CLIP, start_step=0, stop_step=1) as batches:
        got, stats = next(batches)
    contract.check(got, b=7, t=4, n=5, ends=2)
    assert stats["clips"] == 7
    at = {int(i): row for row, i in enumerate(got["index"])}
    table = store.captions()
    used = [0, 5, 1, 2, 3, 4, 6]  # level by level
    for number, caption in enumerate(used):
        row = at[number]
        words = [len(word) for word in clean(ROWS[caption][4]).split()]
        assert got["tokens"][row, : len(words)].tolist() == words
        assert got["token_mask"][row].sum() == len(words)
        assert got["span"][row].tolist() == [table["start_ms"][caption], table["end_ms"][caption]]
    same = got["caption"][[at[4], at[5], at[6]]]
    assert same[0] == same[1] != same[2]  # "Cut." and "Cut!" are one text
    assert len(np.unique(got["caption"])) == 6
    recordings = got["recording"][[at[i] for i in range(7)]]
    assert recordings.tolist() == [0, 1, 0, 0, 0, 0, 1]


def test_worker_processes_load_the_same(store):
    plan = plan_of([store])
    read = []
    for workers in (0, 1):
        with train_batches(
            plan, plan.stores, clip=CLIP, start_step=1, stop_step=2, workers=workers
        ) as batches:
            read.append(next(batches)[0])
    assert all(np.array_equal(read[0][name], read[1][name]) for name in read[0])
    # The green of a frame tells its number (see conftest.py): clips lie within their spans.
    for row in plan.rows(1):
        shown = plan.frames(row[None])[0] * 40
        start, end = plan._span[row["index"]]
        assert np.all((start <= shown) & (shown < end)) and np.all(np.diff(shown) >= 0)


def test_centred_clips_lie_in_the_middle_and_within_the_video(store):
    options = Captions(clips="centred")
    frames = lambda video, *span: frames_of(store, video, span, CLIP, options).tolist()  # noqa: E731
    assert frames(0, 1000, 1600) == [29, 31, 33, 35]  # frames 25 to 39
    assert frames(0, 0, 40) == [0, 2, 4, 6]  # moved to the start
    assert frames(0, 3960, 4000) == [93, 95, 97, 99]  # and to the end
    long = frames_of(store, 2, (0, 1600), ClipShape(30, 2, 16), options)
    assert long[0] == 0 and long[-1] == 39  # a video shorter than the clip repeats its last frame


def test_spread_clips_take_a_frame_from_every_part(store):
    options = Captions(clips="spread")
    assert frames_of(store, 0, (0, 4000), CLIP, options).tolist() == [12, 37, 62, 87]
    drawn = np.stack([frames_of(store, 0, (0, 4000), CLIP, options, s) for s in range(300)])
    assert np.array_equal(drawn[7], frames_of(store, 0, (0, 4000), CLIP, options, 7))
    for part in range(4):
        assert set(drawn[:, part] // 25) == {part} and len(set(drawn[:, part])) == 25
    assert frames_of(store, 0, (400, 440), CLIP, options).tolist() == [10] * 4  # one frame


def test_a_variable_rate_is_looked_up(make_store, tmp_path):
    """The table's rate is an average; the frames know their times."""
    wrong = dict(qc_variable_rate=[True], stored_fps=[12.0])
    store = open_store(make_store(tmp_path, frames=(30,), fps=25.0, **wrong))
    assert [store.frames_before(0, t) for t in (0, 1, 40, 41, 5000)] == [0, 1, 1, 2, 30]
    spread = frames_of(store, 0, (400, 800), CLIP, Captions())
    assert spread.tolist() == [11, 13, 16, 18]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(levels="fine,medium"), "levels has 'medium'.*choose from coarse, mid, fine"),
        (dict(levels="fine,1"), "name a level once"),
        (dict(quotas="1,2"), "quotas is '1,2'; expected 3 shares for coarse, mid, fine"),
        (dict(quotas="0,0,0"), "expected 3 shares"),
        (dict(quotas="a,b,c"), "expected 3 shares"),
        (dict(clips="middle"), "clips is 'middle'; choose centred or spread"),
        (dict(min_duration=5.0, max_duration=5.0), "leave no length"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Captions(**options)


def test_plans_without_captions_say_so(store, make_store, tmp_path):
    with pytest.raises(UserError, match="quotas wants 50% mid captions and none is left"):
        plan_of([store], quotas="0,0.5,0.5", masks=[np.array([False, True, False, False])])
    with pytest.raises(UserError, match="no caption of .* is left for training"):
        plan_of([store], min_duration=100.0)
    with pytest.raises(UserError, match="has no captions; .*--captions FILE"):
        plan_of([open_store(make_store(tmp_path, frames=(10,)))], masks=[np.ones(1, bool)])
    with pytest.raises(UserError, match="data.weights has 2 numbers for 1 stores"):
        plan_of([store], weights="1,2")
