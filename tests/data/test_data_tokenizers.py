"""Ids as those of the public tokenizer classes, on files these tests write."""

import json
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import sentencepiece
import transformers
import vocabularies

from surgjax.data import tokenizers
from surgjax.errors import UserError

CAPTIONS = [
    "The surgeon grasps the gallbladder with a grasper.",
    "Dissection of the hepatocystic triangle, using a hook!",
    "clipping the cystic artery & duct; clipping the cystic duct",
    "The gallbladder is retracted (again) -- then it's packed.",
    "Irrigation and suction: 20 ml of saline",
]
SENTENCES = [
    *CAPTIONS,
    "",
    "  spaces \t and\nlines  ",
    "Zürich naïve CAFÉ — “quoted” x2",
    "腹腔鏡 手術",
    "!!! ...",
    "it's they'll we've I'd 3.5 mm 100%",
    "unseen: qqqq zzzz",
    " ".join(["gallbladder"] * 40),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers") / "bert"
    tokenizers.write_word_pieces(folder, tokenizers.word_pieces(CAPTIONS, 120))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return vocabularies.byte_pairs(tmp_path_factory.mktemp("tokenizers") / "clip")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return vocabularies.sentence_pieces(tmp_path_factory.mktemp("tokenizers") / "siglip", CAPTIONS)


def agree(mine, peer, length, sentences=SENTENCES):
    assert mine.length == length
    found = mine(sentences)
    expected = peer(
        sentences, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    assert found["ids"].dtype == np.int32 and found["mask"].dtype == bool
    np.testing.assert_array_equal(found["ids"], expected["input_ids"])
    assert (mine.eos, mine.pad) == (peer.convert_tokens_to_ids(peer.eos_token), peer.pad_token_id)
    assert mine.vocab_size == len(peer)
    return found["mask"], expected["attention_mask"].astype(bool)


def test_bert_word_pieces(bert):
    peer = transformers.BertTokenizer.from_pretrained(bert)
    peer.eos_token = peer.sep_token
    mine = tokenizers.load(bert, "bert", 16)
    np.testing.assert_array_equal(*agree(mine, peer, 16))
    row = mine(["gallbladder"])
    first, last = (peer.convert_tokens_to_ids(t) for t in ("[CLS]", "[SEP]"))
    assert row["ids"][0, 0] == first and mine.eos == last
    assert row["ids"][0, row["mask"][0].sum() - 1] == last


def test_bert_that_keeps_case(bert, tmp_path):
    """tokenizer_config.json says so beside the same file."""
    (tmp_path / "vocab.txt").write_text((bert / "vocab.txt").read_text() + "The\nZ\n##ü\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    peer = transformers.BertTokenizer.from_pretrained(tmp_path, eos_token="[SEP]")
    np.testing.assert_array_equal(*agree(tokenizers.load(tmp_path, "bert", 12), peer, 12))


def test_clip_byte_pairs(clip):
    peer = transformers.CLIPTokenizer.from_pretrained(clip)
    mine = tokenizers.load(clip, "clip", 77)
    np.testing.assert_array_equal(*agree(mine, peer, 77))
    cut = mine([" ".join(["x"] * 100)])["ids"][0]
    assert cut[-1] == mine.eos and cut[-2] != mine.eos


def test_clip_padded_as_its_settings_say(clip, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text((clip / name).read_text())
    settings = {"pad_token": {"content": "!", "special": True}}  # id 0, as open_clip pads
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = tokenizers.load(tmp_path, "clip", 10)(["x"])
    assert found["ids"][0, 3:].tolist() == [0] * 7 and found["mask"][0].sum() == 3


@pytest.mark.parametrize("family, kind", [("bert", "BertTokenizer"), ("clip", "CLIPTokenizer")])
def test_tokenizer_json(family, kind, tmp_path, request):
    """The one file that the public classes write."""
    peer = getattr(transformers, kind).from_pretrained(request.getfixturevalue(family))
    peer.save_pretrained(tmp_path)
    for name in ("vocab.txt", "vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    if family == "bert":
        peer.eos_token = peer.sep_token
    np.testing.assert_array_equal(*agree(tokenizers.load(tmp_path, family, 20), peer, 20))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_siglip_pieces(siglip):
    peer = transformers.SiglipTokenizer(str(siglip / "spiece.model"))
    mine = tokenizers.load(siglip, "siglip", 64)
    visible, _ = agree(mine, peer, 64)
    assert visible.all()  # it was trained to see its padding
    assert mine.eos == mine.pad == 1
    assert tokenizers.load(siglip / "spiece.model", "siglip", 8)(CAPTIONS)["ids"].shape == (5, 8)


def test_plain_form_of_siglip():
    assert tokenizers.plain("  The Hook's  tip,\n[left] ") == "the hooks tip left"


def test_tokenizers_travel_to_other_processes(bert, clip, siglip):
    for path, family in ((bert, "bert"), (clip, "clip"), (siglip, "siglip")):
        mine = tokenizers.load(path, family, 24)
        again = pickle.loads(pickle.dumps(mine))
        np.testing.assert_array_equal(again(SENTENCES)["ids"], mine(SENTENCES)["ids"])
        assert again == mine


def test_word_pieces_from_sentences():
    pieces = tokenizers.word_pieces(CAPTIONS, 120)
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(pieces) == len(set(pieces)) <= 120 and "clipping" in pieces and "cystic" in pieces
    assert pieces == tokenizers.word_pieces(reversed(CAPTIONS), 120)
    with pytest.raises(UserError, match="a vocabulary of 20 pieces.*characters alone make"):
        tokenizers.word_pieces(CAPTIONS, 20)
    assert tokenizers.word_pieces(["ab ab cd"], 50)[5:] == ["##b", "##d", "a", "c", "ab"]


def pieces_by_counting_again(sentences, size):
    """The same rule without any bookkeeping: all pairs are counted for every piece."""
    words = Counter(word for sentence in sentences for word in sentence.split())
    parts = {word: [word[0], *(f"##{c}" for c in word[1:])] for word in words}
    made = sorted({piece for part in parts.values() for piece in part})
    while len(made) < size:
        pairs = Counter()
        for word, part in parts.items():
            for pair in zip(part, part[1:], strict=False):
                pairs[pair] += words[word]
        pair, count = min(pairs.items(), key=lambda x: (-x[1], x[0]), default=(None, 0))
        if count < 2:
            break
        joined = pair[0] + pair[1][2:]
        for part in parts.values():
            for i in range(len(part)):
                if tuple(part[i : i + 2]) == pair:
                    part[i : i + 2] = [joined]
        made += [joined] if joined not in made else []
    return made


def test_word_pieces_against_counting_again():
    rng = np.random.default_rng(0)
    for _ in range(10):
        words = ["".join(rng.choice(list("abc"), rng.integers(1, 8))) for _ in range(30)]
        sentences = [" ".join(rng.choice(words, 5)) for _ in range(20)]
        found = tokenizers.word_pieces(sentences, 60)
        assert found[5:] == pieces_by_counting_again(sentences, 55)


def test_equal_pieces_in_another_process():
    code = f"""
from surgjax.data import tokenizers
import sys
print("\\n".join(tokenizers.word_pieces({CAPTIONS!r}, 120)))
assert not {{"jax", "transformers", "torch"}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == tokenizers.word_pieces(CAPTIONS, 120)


def test_missing_files_are_named(clip, tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "vocab.json").write_text((clip / "vocab.json").read_text())
    cases = [
        ("none", "bert", "none does not exist; expected tokenizer.json, or vocab.txt of the bert"),
        ("half", "bert", "half holds no such tokenizer; expected tokenizer.json, or vocab.txt"),
        ("half", "clip", "expected tokenizer.json, or vocab.json and merges.txt of the clip"),
        ("half", "siglip", "expected spiece.model of the siglip.*hf download google/siglip"),
    ]
    for folder, family, message in cases:
        with pytest.raises(UserError, match=message):
            tokenizers.load(tmp_path / folder, family, 16)


def test_files_that_are_something_else(bert, clip, siglip, tmp_path):
    with pytest.raises(UserError, match="'bret' is not known .did you mean 'bert'"):
        tokenizers.load(bert, "bret", 16)
    with pytest.raises(UserError, match="length is 2; choose at least 3"):
        tokenizers.load(bert, "bert", 2)
    (tmp_path / "vocab.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"vocab.txt has no token '\[CLS\]'.*tokenizer_config.json"):
        tokenizers.load(tmp_path, "bert", 16)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer_config.json is not readable JSON"):
        tokenizers.load(tmp_path, "bert", 16)
    (tmp_path / "tokenizer_config.json").unlink()
    transformers.CLIPTokenizer.from_pretrained(clip).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="of the kind BPE; expected WordPiece"):
        tokenizers.load(tmp_path, "bert", 16)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json is no readable tokenizer"):
        tokenizers.load(tmp_path, "clip", 16)
    (tmp_path / "spiece.model").write_bytes(b"nothing")
    with pytest.raises(UserError, match="spiece.model is no sentencepiece model"):
        tokenizers.load(tmp_path, "siglip", 16)
    (tmp_path / "text").write_text("\n".join(tokenizers.plain(c) for c in CAPTIONS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "endless"),
        vocab_size=60,
        eos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="endless.model has no end token"):
        tokenizers.load(tmp_path / "endless.model", "siglip", 16)
