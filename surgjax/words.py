"""The tokenizer of a run: read from files or made of the training captions, and kept with the run.

What a text tower learns hangs on its vocabulary, so a run holds a copy of the files in
RUN/tokenizer, which evaluations and `surgjax.load` read.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgjax.data.tokenizers import FILES, Tokenizer, load, word_pieces, write_word_pieces
from surgjax.errors import UserError
from surgjax.models.text import LEGACY_EOS, family_of
from surgjax.writers import RunFolder

FOLDER = "tokenizer"  # of a run
FROM_CAPTIONS = "captions"  # in place of a path
SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class Words:
    """A tokenizer, and the files it was made of by name."""

    tokenizer: Tokenizer
    files: Mapping[str, bytes]

    def keep(self, run: RunFolder) -> None:
        """Write the files into a run."""
        for name, content in self.files.items():
            run.write(f"{FOLDER}/{name}", content)

    def refuse_others(self, run: Path) -> None:
        """Raise UserError where a run that is continued has read its captions otherwise."""
        for name, content in self.files.items():
            file = run / FOLDER / name
            if file.is_file() and file.read_bytes() != content:
                raise UserError(
                    f"objective.tokenizer is not the one that {run} was started with: {name} has "
                    f"changed; put it back, or name {run / FOLDER}, or use a new --workdir"
                )


def open_words(objective: Mapping[str, Any], texts: Callable[[], Iterable[str]]) -> Words:
    """The tokenizer that an objective's arguments name.

    Args:
      objective: "text", "tokenizer" and "tokens" as in objectives/clip.py.
      texts: the training captions, asked for where the vocabulary is made of them.

    Raises:
      UserError: no tokenizer named, or files missing, unreadable or of another text tower.
    """
    where, family = objective.get("tokenizer", ""), objective["text"]["family"]
    if not where:
        files = ", or ".join(" and ".join(way) for way in FILES[family])
        made = ", or 'captions' for word pieces of the training captions"
        raise UserError(
            f"objective.tokenizer is empty; expected a folder with {files} of the {family} family"
            f"{made if family == 'bert' else ''}"
        )
    if where != FROM_CAPTIONS:
        return _read(Path(where), objective)
    if family != "bert":
        raise UserError(
            f"objective.tokenizer='captions' makes BERT's word pieces and objective.text.family is "
            f"{family!r}; name a folder with its tokenizer, or choose bert"
        )
    with tempfile.TemporaryDirectory() as folder:
        write_word_pieces(folder, word_pieces(texts(), _ids(objective)))
        return _read(Path(folder), objective)


def words_of(run: Path, objective: Mapping[str, Any]) -> Words | None:
    """The tokenizer kept with a run; None where its objective reads no text.

    Raises:
      UserError: its files are damaged.
    """
    return _read(run / FOLDER, objective) if (run / FOLDER).is_dir() else None


def _read(path: Path, objective: Mapping[str, Any]) -> Words:
    text = objective["text"]
    tokenizer = load(path, text["family"], objective.get("tokens", 77))
    ids = _ids(objective)
    if tokenizer.vocab_size > ids:
        raise UserError(
            f"the tokenizer of {path} has {tokenizer.vocab_size} ids and the text tower {ids}; set "
            f"objective.text.vocab_size={tokenizer.vocab_size}, or name the tower's own tokenizer"
        )
    eos = text.get("eos", 49407)
    if text["family"] == "clip" and eos not in (LEGACY_EOS, tokenizer.eos):
        raise UserError(
            f"sentences of the tokenizer of {path} end with id {tokenizer.eos}, the text tower "
            f"looks for {eos}; set objective.text.eos={tokenizer.eos}"
        )
    folder = path if path.is_dir() else path.parent
    names = {name for way in FILES[text["family"]] for name in way} | {SETTINGS}
    found = {n: (folder / n).read_bytes() for n in sorted(names) if (folder / n).is_file()}
    if path.is_file():  # a sentencepiece model may have any name
        found = {FILES[text["family"]][0][0]: path.read_bytes()}
    return Words(tokenizer, found)


def _ids(objective: Mapping[str, Any]) -> int:
    text = objective["text"]
    return text.get("vocab_size") or family_of(text["family"]).vocab_size
