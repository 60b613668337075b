"""Sentences to token ids, from files of a folder; nothing is ever fetched.

    bert    word pieces            tokenizer.json, or vocab.txt
    clip    byte pairs             tokenizer.json, or vocab.json and merges.txt
    siglip  sentencepiece, of T5   spiece.model

The ids are those of the public tokenizer classes. `word_pieces` makes a small vocabulary of the
first kind from sentences alone.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from surgjax.errors import UserError, nearest
from surgjax.files import parse_json, write_whole

# Family -> files it is read from, each line one way; and where they can be had.
FILES = {
    "bert": (("tokenizer.json",), ("vocab.txt",)),
    "clip": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "siglip": (("spiece.model",),),
}
SOURCES = {
    "bert": "google-bert/bert-base-uncased",
    "clip": "openai/clip-vit-base-patch16",
    "siglip": "google/siglip-base-patch16-224",
}
SPECIAL = {
    "bert": {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    | {"eos_token": "[SEP]", "mask_token": "[MASK]"},
    "clip": {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"},
}
# What CLIP cuts a sentence into before its pieces (OpenAI's simple_tokenizer.py).
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
MOST_IDS = 1 << 24
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Tokenizer:
    """Makes ids of sentences; can be sent to another process.

    Attributes:
      family: "bert", "clip" or "siglip".
      length: tokens of every row; longer sentences are cut, their last token is `eos`.
      vocab_size: ids are below it.
      eos: id at the end of a sentence, [SEP] for BERT. pad: id after it.
    """

    family: str
    length: int
    vocab_size: int
    eos: int
    pad: int
    backend: Any = field(repr=False, compare=False)

    def __call__(
        self, sentences: Sequence[str]
    ) -> dict[str, Int32[np.ndarray, "b n"] | Bool[np.ndarray, "b n"]]:
        """{"ids": int32 (b length), "mask": bool (b length)}.

        The mask is what a network may see: no padding, but all of it for SigLIP, which was trained
        on sentences padded to full length.
        """
        ids = np.full((len(sentences), self.length), self.pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, sentence in enumerate(sentences):
            found = self._ids(sentence)
            ids[row, : len(found)] = found
            mask[row, : len(found)] = True
        return {"ids": ids, "mask": mask | (self.family == "siglip")}

    def _ids(self, sentence: str) -> list[int]:
        if self.family == "siglip":
            return [*self.backend.encode(plain(sentence))[: self.length - 1], self.eos]
        return self.backend.encode(sentence).ids


def plain(sentence: str) -> str:
    """SigLIP's form: lower case, no ASCII punctuation, single spaces (big_vision, canonicalize)."""
    return re.sub(r"\s+", " ", sentence.lower().translate(NO_PUNCTUATION)).strip()


def load(path: str | Path, family: str, length: int) -> Tokenizer:
    """The tokenizer in a folder; for SigLIP, the model file itself is taken too.

    Args:
      length: tokens of a row, 77 for CLIP and SurgCLIP, 64 for SigLIP.

    Raises:
      UserError: unknown family, files missing (which one is expected where), or unreadable.
    """
    path = Path(path)
    if family not in FILES:
        raise UserError(
            f"tokenizer family {family!r} is not known{nearest(family, FILES)}; choose one of "
            f"{', '.join(FILES)}"
        )
    if length < 3:
        raise UserError(f"a tokenizer's length is {length}; choose at least 3")
    if family == "siglip":
        return _load_sentencepiece(path, length)
    found = next((way for way in FILES[family] if all((path / f).is_file() for f in way)), None)
    if found is None:
        raise _missing(path, family)
    config = _settings(path)
    names = {kind: config.get(kind, default) for kind, default in SPECIAL[family].items()}
    if family == "bert":
        names["eos_token"] = config.get("sep_token", names["eos_token"])
    names["pad_token"] = config.get("pad_token") or names.get("pad_token") or names["eos_token"]
    try:
        backend = _backend(path, family, found, config, names)
    except UserError:
        raise
    except Exception as error:  # the library raises nothing more special
        raise UserError(
            f"{path / found[0]} is no readable tokenizer ({str(error)[:120]}); expected a file of "
            f"the {family} family; copy it again"
        ) from error
    ids = {kind: backend.token_to_id(name) for kind, name in names.items()}
    first = "cls_token" if family == "bert" else "bos_token"
    absent = [names[kind] for kind in (first, "eos_token", "pad_token") if ids[kind] is None]
    if family == "bert" and backend.token_to_id(backend.model.unk_token) is None:
        absent.append(backend.model.unk_token)
    if absent:
        raise UserError(
            f"{path / found[0]} has no token {absent[0]!r}; expected a vocabulary of the {family} "
            f"family; use another, or name its special tokens in tokenizer_config.json"
        )
    backend.enable_truncation(length)
    backend.no_padding()
    size = 1 + max(backend.get_vocab().values())  # lines left empty are numbers without a piece
    added = backend.encode("").ids  # what tokenizer.json puts around every sentence
    if max(size, *added, 0) > MOST_IDS or max(added, default=0) >= size:
        raise UserError(
            f"{path / found[0]} numbers pieces up to {max(size, *added)}; expected a vocabulary "
            f"of the {family} family; copy it again"
        )
    return Tokenizer(family, length, size, ids["eos_token"], ids["pad_token"], backend)


def word_pieces(sentences: Iterable[str], size: int) -> list[str]:
    """A BERT vocabulary from sentences: equal sentences, in any order, give equal pieces.

    From single characters, the most frequent pair of neighbouring pieces inside words becomes a
    piece, as long as one occurs twice; among equals, the first in the order of characters.

    Args:
      size: at most so many pieces, the five special ones included.

    Raises:
      UserError: the size is too small for the characters that occur.
    """
    words = Counter(word for sentence in sentences for word in _bert_words(sentence))
    parts = [[word[0], *(f"##{letter}" for letter in word[1:])] for word in sorted(words)]
    counts = [words[word] for word in sorted(words)]
    pieces = [SPECIAL["bert"][f"{kind}_token"] for kind in ("pad", "unk", "cls", "eos", "mask")]
    pieces += sorted({piece for part in parts for piece in part})
    if len(pieces) > size:
        raise UserError(
            f"a vocabulary of {size} pieces; the sentences' characters alone make {len(pieces)}; "
            f"choose more"
        )
    total: Counter = Counter()
    places: dict[tuple[str, str], set[int]] = {}
    often: list[tuple[int, tuple[str, str]]] = []  # heap; entries with an old count are passed over

    def add(i: int, sign: int) -> None:
        for pair in zip(parts[i], parts[i][1:], strict=False):
            total[pair] += sign * counts[i]
            places.setdefault(pair, set()).add(i)
            heappush(often, (-total[pair], pair))

    for i in range(len(parts)):
        add(i, 1)
    known = set(pieces)
    while len(pieces) < size and often:
        count, pair = heappop(often)
        if -count != total[pair]:
            continue
        if -count < 2:
            break
        joined = pair[0] + pair[1].removeprefix("##")
        for i in sorted(places.pop(pair)):
            add(i, -1)
            parts[i] = _merged(parts[i], pair, joined)
            add(i, 1)
        if joined not in known:
            known.add(joined)
            pieces.append(joined)
    return pieces


def write_word_pieces(folder: str | Path, pieces: Sequence[str]) -> None:
    """Write a vocabulary where `load` and the public BERT tokenizers find it."""
    folder = Path(folder)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    write_whole(folder / "vocab.txt", "".join(f"{piece}\n" for piece in pieces))
    write_whole(folder / "tokenizer_config.json", json.dumps(settings) + "\n")


def _load_sentencepiece(path: Path, length: int) -> Tokenizer:
    import sentencepiece

    file = path if path.is_file() else path / "spiece.model"
    if not file.is_file():
        raise _missing(path, "siglip")
    try:
        backend = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{file} is no sentencepiece model ({str(error)[:120]}); expected SigLIP's "
            f"spiece.model; copy it again"
        ) from error
    eos = backend.eos_id()
    if eos < 0:
        raise UserError(f"{file} has no end token; expected SigLIP's spiece.model; use that one")
    return Tokenizer("siglip", length, backend.get_piece_size(), eos, eos, backend)


def _missing(path: Path, family: str) -> UserError:
    ways = ", or ".join(" and ".join(way) for way in FILES[family])
    found = "does not exist" if not path.exists() else "holds no such tokenizer"
    files = " ".join(FILES[family][-1])
    return UserError(
        f"{path} {found}; expected {ways} of the {family} family in that folder; get it once: "
        f"hf download {SOURCES[family]} {files} --local-dir {path}"
    )


def _settings(path: Path) -> dict[str, Any]:
    """tokenizer_config.json, special tokens as their texts, without those that are null."""
    file = path / "tokenizer_config.json"
    try:
        made = parse_json(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file} is not readable JSON ({error}); copy the file again") from error
    made = made if isinstance(made, dict) else {}
    for kind in ("sep_token", *SPECIAL["bert"], *SPECIAL["clip"]):
        token = made.get(kind)  # its text, plainly or with its properties
        text = token.get("content") if isinstance(token, Mapping) else token
        if kind in made and not isinstance(text, str | None):
            raise UserError(f"{file} has {kind} {token!r:.60}; expected its text; copy it again")
        if text is None:
            made.pop(kind, None)
        else:
            made[kind] = text
    return made


def _backend(
    path: Path,
    family: str,
    found: Sequence[str],
    config: Mapping[str, Any],
    names: Mapping[str, str],
):
    """A `tokenizers.Tokenizer`, from its own file or put together as the public classes do."""
    import tokenizers
    from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

    if found == ("tokenizer.json",):
        made = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        kind, wanted = type(made.model).__name__, {"bert": "WordPiece", "clip": "BPE"}[family]
        if kind != wanted:
            raise UserError(
                f"{path}/tokenizer.json is of the kind {kind}; expected {wanted}, which the "
                f"{family} family has; use another folder or family"
            )
        return made
    if family == "bert":
        lines = (path / "vocab.txt").read_text(encoding="utf-8").split("\n")
        vocabulary = {line.rstrip("\r"): i for i, line in enumerate(lines) if line}
        made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
        made.normalizer = normalizers.BertNormalizer(
            lowercase=config.get("do_lower_case", True),
            strip_accents=config.get("strip_accents"),
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        )
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        first, last = names["cls_token"], names["eos_token"]
        if first in vocabulary and last in vocabulary:
            made.post_processor = processors.BertProcessing(
                (last, vocabulary[last]), (first, vocabulary[first])
            )
        return made
    vocabulary = parse_json((path / "vocab.json").read_text(encoding="utf-8"))
    model = models.BPE.from_file(
        str(path / "vocab.json"),
        str(path / "merges.txt"),
        end_of_word_suffix="</w>",
        unk_token=names["eos_token"],
    )
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    cut = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    first, last = names["bos_token"], names["eos_token"]
    if first in vocabulary and last in vocabulary:
        made.post_processor = processors.RobertaProcessing(
            (last, vocabulary[last]), (first, vocabulary[first]), False, False
        )
    return made


def _bert_words(sentence: str) -> list[str]:
    from tokenizers import normalizers, pre_tokenizers

    plain = normalizers.BertNormalizer(lowercase=True).normalize_str(sentence)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(plain)]


def _merged(parts: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    made, i = [], 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            made.append(joined)
            i += 2
        else:
            made.append(parts[i])
            i += 1
    return made
