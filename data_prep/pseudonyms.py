"""Own videos under names that tell nothing: `shards --pseudonyms FILE`.

A name becomes the first 64 bits of its keyed hash (HMAC-SHA-256, RFC 2104). The key, a random salt,
is in FILE: whoever has it can tell which name belongs to which video, nobody else can, so keep it
away from the store. The same file gives the same names.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from data_prep.decisions import LEFT_OUT
from data_prep.sources import Found, LabelTable, Refused, Times, Video
from surgjax.errors import UserError

SALT_BYTES = 32


def read_salt(path: Path, *, make: bool = False) -> bytes:
    """The salt in a file; with `make` in a new one if it is not there. Raises UserError."""
    if make and not path.exists():
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise UserError(f"--pseudonyms {path} cannot be made ({error.strerror})") from error
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(SALT_BYTES) + "\n")
        print(f"made {path}: with it names can be told; keep it, and keep it away from the store")
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--pseudonyms {path} is no salt; expected a file of {2 * SALT_BYTES} hexadecimal "
            f"digits, as `shards` makes one where none is"
        ) from error
    if len(salt) < SALT_BYTES:
        raise UserError(
            f"--pseudonyms {path} holds {len(salt)} bytes; expected at least {SALT_BYTES}: a short "
            f"salt can be guessed"
        )
    return salt


def without_names(row: Refused) -> Refused:
    """A row of quarantine.parquet without what may name a file: where it was, and what was odd."""
    return replace(row, path="", detail=row.detail if row.reason == LEFT_OUT else "")


class Pseudonymous:
    """A source of videos whose names and cases are replaced; offers what a source module does.

    Attributes:
      fingerprint: which salt it is, told to a store so that another one is noticed.
      names: new name -> old one, of the videos that were found.
    """

    def __init__(self, source: ModuleType, salt: bytes):
        self._source, self._salt = source, salt
        self._videos: dict[str, Video] = {}
        self._known: set[str] = set()
        self.fingerprint = hmac.digest(salt, b"surgjax", hashlib.sha256).hex()[:16]

    def alias(self, name: str) -> str:
        """What a name is replaced by."""
        return hmac.digest(self._salt, name.encode(), hashlib.sha256).hex()[:16]

    @property
    def names(self) -> dict[str, str]:
        return {name: video.video_id for name, video in self._videos.items()}

    def rename(self, name: str) -> str:
        """The new name of a video that was found; others stay, so that an error can name them."""
        return self.alias(name) if name in self._known else name

    def find(self, root: Path, **about) -> Found:
        """As the source's, without its names; those of files stay, for reading them."""
        found, videos = self._source.find(root, **about), []
        self._known = {row.video_id for row in (*found.videos, *found.refused)}
        for video in found.videos:
            name = self.alias(video.video_id)
            case = f"{video.dataset}/{self.alias(video.case)}"
            videos.append(replace(video, video_id=name, case=case))
            self._videos[name] = video
        videos.sort(key=lambda video: video.video_id)  # the old order would tell something
        refused = [
            Refused(self.alias(row.video_id), "", row.reason, row.detail) for row in found.refused
        ]
        return replace(found, videos=videos, refused=refused)

    def labels(self, root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
        return self._source.labels(root, self._videos[video.video_id], times)

    def check_labels(self, root: Path, video: Video, frames: int) -> list[str]:
        return self._source.check_labels(root, self._videos[video.video_id], frames)
