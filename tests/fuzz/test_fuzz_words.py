"""Vocabularies of the three tokenizer families, in their public files."""

import json
from pathlib import Path

import numpy as np
import pytest
import vocabularies
from hypothesis import strategies as st
from mutations import damaged, mostly, odd_json, odd_table

from surgjax.data import tokenizers

SENTENCES = ["the gall bladder", "clip the cystic duct", "the the"]
ASKED = ["the cystic duct", "", "\u00e9\U0001f600 \x00 [SEP] <|endoftext|>", "x" * 3000]


def read(folder: Path, family: str, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    found = tokenizers.load(folder, family, 12)
    told = found(ASKED)
    assert told["ids"].shape == told["mask"].shape == (len(ASKED), 12)
    assert told["ids"].dtype == np.int32
    assert 0 <= told["ids"].min() and told["ids"].max() < found.vocab_size < 2**31
    return "read"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp(name) / name for name in tokenizers.FILES}
    tokenizers.write_word_pieces(made["bert"], tokenizers.word_pieces(SENTENCES, 60))
    vocabularies.byte_pairs(made["clip"])
    vocabularies.sentence_pieces(made["siglip"], SENTENCES)
    return made


def test_word_pieces(for_all, folders):
    vocabulary = (folders["bert"] / "vocab.txt").read_text()
    settings = odd_json(json.loads((folders["bert"] / "tokenizer_config.json").read_text()) | EXTRA)
    files = st.fixed_dictionaries(
        {"vocab.txt": odd_table(vocabulary, "\0"), "tokenizer_config.json": settings}
    )
    plain = {"vocab.txt": vocabulary.encode(), "tokenizer_config.json": b"{}"}
    odd = [{"vocab.txt": b"\n" * 9 + vocabulary.encode()}]  # numbers above the count of pieces
    odd += [{"vocab.txt": vocabulary.replace("[UNK]", "x").encode()}]
    odd += [{"tokenizer_config.json": text} for text in (b'{"pad_token": {}}', b'{"sep_token": 1}')]
    examples = [("bert", plain | one) for one in odd]
    outcomes = for_all(read, st.just("bert"), files, examples=examples)
    assert outcomes["read"] and len(outcomes) > 2


EXTRA = {"strip_accents": None, "sep_token": "[SEP]", "pad_token": {"content": "[PAD]"}}


def test_byte_pairs(for_all, folders):
    vocabulary = json.loads((folders["clip"] / "vocab.json").read_text())
    few = dict(list(vocabulary.items())[:6] + list(vocabulary.items())[-12:])
    whole = (folders["clip"] / "vocab.json").read_bytes()
    merges = (folders["clip"] / "merges.txt").read_text()
    files = st.fixed_dictionaries(
        {
            "vocab.json": mostly(st.just(whole), odd_json(few) | damaged(whole)),
            "merges.txt": odd_table(merges, " "),
        }
    )
    outcomes = for_all(read, st.just("clip"), files)
    assert outcomes["read"] and len(outcomes) > 2


def test_a_tokenizer_file(for_all, folders):
    backend = tokenizers.load(folders["bert"], "bert", 12).backend
    about = json.loads(backend.to_str())
    files = odd_json(about).map(lambda data: {"tokenizer.json": data})
    outcomes = for_all(read, st.just("bert"), files)
    assert outcomes["read"] and len(outcomes) > 2


def test_sentence_pieces(for_all, folders):
    data = (folders["siglip"] / "spiece.model").read_bytes()
    files = damaged(data).map(lambda made: {"spiece.model": made})
    outcomes = for_all(read, st.just("siglip"), files)
    assert outcomes["read"] and len(outcomes) > 1
