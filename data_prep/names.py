"""Names and container tags that may tell who was operated on, or when.

Nothing here reads or keeps a tag's value: a finding says where to look, not what stands there.
"""

import re
from pathlib import Path

from data_prep import media

YEAR, MONTH, DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
MONTH_1, DAY_1 = r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
MONTH_NAME = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
DATES = re.compile(
    rf"(?<!\d)(?:{YEAR}([-_. ]?){MONTH}\1{DAY}"  # 2021-03-05, 20210305
    rf"|{DAY}{MONTH}{YEAR}|{MONTH}{DAY}{YEAR}"  # 05032021
    rf"|(?:{DAY_1}([-_. ]){MONTH_1}\2|{MONTH_1}([-_. ]){DAY_1}\3)(?:{YEAR}|\d\d)"  # 5_3_21
    rf"|{DAY_1}[-_. ]?{MONTH_NAME}[-_. ]?(?:{YEAR}|\d\d)"  # 5-Mar-2021
    rf"|{YEAR}[-_. ]?{MONTH_NAME}[-_. ]?{DAY_1})(?!\d)",
    re.IGNORECASE,
)
NUMBERS = re.compile(r"\d{6,}")  # as record numbers are
# Tags that programs write about the file itself; every other one may come from a person or a clock.
TECHNICAL = frozenset(
    "alpha_mode bps compatible_brands duration encoder handler_name language major_brand "
    "minor_version number_of_bytes number_of_frames rotate software_version vendor_id".split()
)


def in_name(name: str) -> list[str]:
    """What in a name looks like a date or a record number."""
    found = ["date in the name"] if DATES.search(name) else []
    rest = DATES.sub(" ", name)
    return found + [f"number of {len(run)} digits in the name" for run in NUMBERS.findall(rest)]


def in_tags(path: Path) -> list[str]:
    """Names of the tags of a file and its streams that are not technical; none of a folder.

    Raises:
      Unreadable: the file cannot be opened.
    """
    if path.is_dir():
        return []
    with media.opened(path) as container:
        known = [container.metadata, *(stream.metadata for stream in container.streams)]
        kinds = {stream.type for stream in container.streams}
    names = {_plain(name) for tags in known for name in tags}
    found = [f"tag {name}" for name in sorted(names) if not _is_technical(name)]
    return found + [f"{kind} track" for kind in sorted(kinds & {"subtitle", "attachment"})]


def _is_technical(name: str) -> bool:
    return name.lower() in TECHNICAL or name.startswith("_STATISTICS_")


def _plain(name: str) -> str:
    """One printable word or two: tag names can hold anything."""
    return "".join(c if c.isprintable() else " " for c in name)[:40].strip()
