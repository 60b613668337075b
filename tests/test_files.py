"""Files appear whole or not at all."""

import pytest

from surgjax.files import whole, write_whole


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    write_whole(tmp_path / "new" / "a", "one\r\n")
    write_whole(tmp_path / "new" / "a", "two\n")
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a"]
    assert (tmp_path / "new" / "a").read_bytes() == b"two\n"


def test_a_failure_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "a", "old")
    with pytest.raises(OSError, match="full"), whole(tmp_path / "a") as part:
        part.write_text("half")
        raise OSError("full")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
