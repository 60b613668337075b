"""Small vocabularies in the public files of CLIP and SigLIP."""

import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from tokenizers.pre_tokenizers import ByteLevel

from surgjax.data.tokenizers import plain

MERGES = ["t h", "th e</w>", "c l", "cl i", "g a", "ga l", "c y", "s t", "cy st", "i c</w>"]


def byte_pairs(folder: Path) -> Path:
    """vocab.json and merges.txt as OpenAI's are made: bytes, bytes at a word's end, merges."""
    letters = sorted(ByteLevel.alphabet())
    names = letters + [f"{letter}</w>" for letter in letters]
    names += [merge.replace(" ", "") for merge in MERGES] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return folder


def sentence_pieces(folder: Path, sentences: Sequence[str]) -> Path:
    """spiece.model as T5's are made."""
    folder.mkdir()
    (folder / "text").write_text("\n".join(plain(s) for s in sentences * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        **dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder
