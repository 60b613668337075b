"""Names that come from files: none of them leads out of its folder."""

import re
from pathlib import Path, PurePosixPath

from surgjax.errors import UserError

SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")  # Unicode's, but for " "


def inside(root: Path, name: object, said_by: str = "") -> Path:
    """`root / name`, for a name that a table, a manifest or anybody's file gives.

    Names are judged as words; a link below `root` is followed, as those of a download cache are.

    Args:
      said_by: the file that gives the name, for the message.

    Raises:
      UserError: a name that is no relative path below `root` on every system: absolute, with "..",
        a drive letter, or characters that cannot be printed.
    """
    if objection := leads_out(name):
        raise UserError(
            f"{said_by or root} names {str(name)[:80]!r}, {objection}; expected a path below "
            f"{root}; get it again from where it was made"
        )
    return root / str(name)


def leads_out(name: object) -> str | None:
    """Why a name is no relative path below a folder; None for one that is."""
    if not isinstance(name, str) or not name:
        return "which is no name"
    if not is_printable(name):
        return "which has characters that cannot be printed"
    if re.match(r"[/\\]|[A-Za-z]:", name) or PurePosixPath(name).is_absolute():
        return "which is no relative path"
    if ".." in re.split(r"[/\\]", name):
        return 'which has ".."'
    return None


def is_printable(name: str) -> bool:
    """Whether a name has letters, signs and spaces alone: those of Japanese and macOS too, which
    Python counts as unprintable."""
    return SPACES.sub(" ", name).isprintable()
