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

from data_prep.sources import Found, LabelTable, Refused, Times, Video
from surgjax.errors import UserError

SALT_BYTES = 32


def read_salt(path: Path) -> bytes:
    """The salt in a file, which is made if it is not there. Raises UserError."""
    if not path.exists():
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
            f"--pseudonyms {path} is no salt; expected {2 * SALT_BYTES} hexadecimal digits, as a "
            f"file that is not there yet will get"
        ) from error
    if len(salt) < SALT_BYTES:
        raise UserError(
            f"--pseudonyms {path} holds {len(salt)} bytes; expected at least {SALT_BYTES}: a short "
            f"salt can be guessed"
        )
    return salt


class Pseudonymous:
    """A source of videos whose names and cases are replaced; offers what a source module does.

    Attributes:
      fingerprint: which salt it is, told to a store so that another one is noticed.
      names: new name -> old one, of the videos that were found.
    """

    def __init__(self, source: ModuleType, salt: bytes):
        self._source, self._salt = source, salt
        self._videos: dict[str, Video] = {}
        self.fingerprint = hmac.digest(salt, b"surgjax", hashlib.sha256).hex()[:16]

    def alias(self, name: str) -> str:
        """What a name is replaced by."""
        return hmac.digest(self._salt, name.encode(), hashlib.sha256).hex()[:16]

    @property
    def names(self) -> dict[str, str]:
        return {name: video.video_id for name, video in self._videos.items()}

    def rename(self, name: str) -> str:
        """The new name of a video that was found; others stay, so that an error can name them."""
        known = {video.video_id for video in self._videos.values()}
        return self.alias(name) if name in known else name

    def find(self, root: Path, **about) -> Found:
        """As the source's, without its names; those of files stay, for reading them."""
        found, videos = self._source.find(root, **about), []
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
