"""What disks and copies do to files."""

from pathlib import Path


def largest_file(folder: Path) -> Path:
    """Where the numbers of a checkpoint's item are."""
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(file: Path, at: float = 0.5) -> None:
    """Another value of one bit, at that share of the file."""
    data = bytearray(file.read_bytes())
    data[int(len(data) * at)] ^= 1
    file.write_bytes(data)


def cut(file: Path, share: float = 0.5) -> None:
    """Keep only the first part of a file."""
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
