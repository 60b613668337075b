"""A whole queue with the real yt-dlp: resumed, stopped, limited, interrupted, continued."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from web import FAST, names, rows, run, table

from data_prep import download, fetching, jobs
from data_prep.__main__ import main
from data_prep.catalogue import Entry
from data_prep.fetching import Failed, Pace, Wanted
from surgjax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_whole_downloads(tmp_path, web, small, capsys):
    videos = {"a": web.add("x.mp4", small), "-b": web.add("some title.mkv.mp4", small)}
    found = run(tmp_path, videos)
    out = tmp_path / "out"
    assert names(out) == ["-b.mp4", ".lock", "a.mp4", "jobs.parquet"]
    assert (out / "a.mp4").read_bytes() == small.read_bytes() == (out / "-b.mp4").read_bytes()
    row = found["a"]
    assert (row["state"], row["file"], row["bytes"]) == ("done", "a.mp4", small.stat().st_size)
    assert (row["width"], row["height"], row["fps"], row["seconds"]) == (96, 64, 25.0, 2.0)
    said = capsys.readouterr().out
    assert "[1/2] a: 0.0 MB, 96x64, 2 s\n" in said and "next: python -m data_prep check" in said
    asked = len(web.asked)
    run(tmp_path, videos)
    assert len(web.asked) == asked  # nothing is asked for again
    assert "2 videos, 0 to fetch" in capsys.readouterr().out
    (out / "a.mp4").unlink()  # but a file that is gone is
    run(tmp_path, videos)
    assert (out / "a.mp4").exists() and {path for path, _ in web.asked[asked:]} == {"/x.mp4"}


def test_the_folder_goes_on_to_check(tmp_path, web, small, capsys):
    run(tmp_path, {"a": web.add("x.mp4", small)})
    assert main(["check", "--root", str(tmp_path / "out")]) == 0
    assert "1 videos" in capsys.readouterr().out


def test_a_partial_file_goes_on(tmp_path, web, large):
    data = large.read_bytes()
    url = web.add("x.mp4", large)
    web.cut["/x.mp4"] = cut = len(data) // 3
    row = run(tmp_path, {"a": url}, pace=Pace(0, 0, 0, None, retries=0))["a"]
    assert (row["state"], row["error"], row["attempts"]) == ("failed", "network", 2)
    # The second attempt of this run went on where the first one ended.
    assert [asked for _, asked in web.asked if asked] == [f"bytes={cut}-"]
    (part,) = (tmp_path / "out" / ".partial").iterdir()
    assert part.read_bytes() == data[: 2 * cut] and part.suffix == ".part"
    del web.cut["/x.mp4"]
    assert run(tmp_path, {"a": url})["a"]["state"] == "done"
    assert web.asked[-1] == ("/x.mp4", f"bytes={2 * cut}-")
    assert (tmp_path / "out" / "a.mp4").read_bytes() == data
    assert not list((tmp_path / "out" / ".partial").iterdir())


def test_a_server_without_ranges(tmp_path, web, large):
    """The file starts again from its beginning, nothing is appended to it."""
    web.cut["/x.mp4"] = 100_000
    url = web.add("x.mp4", large)
    run(tmp_path, {"a": url}, pace=Pace(0, 0, 0, None, retries=0))
    web.pages["/x.mp4"] = ("video/mp4", large.read_bytes())
    assert run(tmp_path, {"a": url})["a"]["state"] == "done"
    assert (tmp_path / "out" / "a.mp4").read_bytes() == large.read_bytes()


@pytest.mark.parametrize(
    "status, kind, state",
    [
        (401, "private", "given up"),
        (403, "forbidden", "failed"),
        (404, "not found", "given up"),
        (410, "not found", "given up"),
        (500, "network", "failed"),
        (503, "network", "failed"),
    ],
)
def test_statuses(tmp_path, web, small, status, kind, state):
    url = web.add("x.mp4", small)
    web.failing["/x.mp4"] = [status] * 99
    row = run(tmp_path, {"a": url, "b": web.add("y.mp4", small)})["a"]
    assert (row["state"], row["error"]) == (state, kind)
    assert str(status) in row["detail"] and row["attempts"] == (2 if state == "failed" else 1)
    web.failing.clear()
    again = run(tmp_path, {"a": url}, retry=[kind] if state == "given up" else [])
    assert again["a"]["state"] == "done" and again["b"]["state"] == "done"


def test_429_then_success(tmp_path, web, small, capsys):
    url = web.add("x.mp4", small)
    web.failing["/x.mp4"], web.headers = [429], {"Retry-After": "0"}
    row = run(tmp_path, {"a": url}, pace=Pace(0, 0, 1e6, None, 0))["a"]
    assert (row["state"], row["attempts"]) == ("done", 1)  # being told to wait is no attempt
    assert "waiting 0 s, as the site asks" in capsys.readouterr().out


def test_the_queue_stops_when_a_site_keeps_saying_no(tmp_path, web, small):
    videos = {name: web.add(f"{name}.mp4", small) for name in "abcdef"}
    for name in videos:
        web.failing[f"/{name}.mp4"] = [429] * 99
    with pytest.raises(UserError, match="rate limited 3 times in a row .*wait some hours.*again"):
        run(tmp_path, videos)
    assert len(web.asked) == 3
    states = {name: row["state"] for name, row in table(tmp_path / "out").items()}
    assert states == {"a": "failed"} | dict.fromkeys("bcdef", "waiting")
    web.failing.clear()
    assert {row["state"] for row in run(tmp_path, videos).values()} == {"done"}


def test_the_queue_stops_after_bot_checks(tmp_path, monkeypatch, capsys):
    """YouTube cannot be had here: its answers are given, the queue is the real one."""

    def fetch(entry, folder, **_):
        kind = fetching.classify("Sign in to confirm you\u2019re not a bot. This helps protect")
        raise Failed(kind, "confirm")

    monkeypatch.setattr(fetching, "fetch", fetch)
    videos = {name: f"http://a.org/{name}" for name in "abcde"}
    with pytest.raises(UserError, match="bot check 3 times in a row.*--sleep.*--cookies"):
        run(tmp_path, videos)
    states = [row["state"] for row in table(tmp_path / "out").values()]
    assert states == ["failed"] * 3 + ["waiting"] * 2
    assert {row["attempts"] for row in table(tmp_path / "out").values()} == {0}


def test_given_up_after_some_attempts(tmp_path, web):
    web.files["/x.mp4"] = b"\0" * 5000
    states = [run(tmp_path, {"a": f"{web.url}/x.mp4"})["a"] for _ in range(3)]
    assert [row["state"] for row in states] == ["failed", "failed", "given up"]
    assert states[-1]["attempts"] == jobs.ATTEMPTS
    asked = len(web.asked)
    run(tmp_path, {"a": f"{web.url}/x.mp4"})
    assert len(web.asked) == asked
    run(tmp_path, {"a": f"{web.url}/x.mp4"}, retry=["damaged"])
    assert len(web.asked) > asked
    changed = run(tmp_path, {"a": f"{web.url}/other.mp4"})["a"]  # a corrected address
    assert changed["error"] == "not found"


def test_no_option_and_no_variable_allows_loopback(tmp_path, web, small, monkeypatch, capsys):
    pytest.importorskip("yt_dlp")
    monkeypatch.setenv("http_proxy", web.url)  # nor does a proxy lead there
    monkeypatch.setenv("LOOPBACK", "1")
    path = rows(tmp_path / "v.jsonl", a=web.add("x.mp4", small))
    command = ["download", "--catalogue", str(path), "--out", str(tmp_path / "out")]
    assert main([*command, "--sleep", "0"]) == 0
    assert table(tmp_path / "out")["a"]["error"] == "refused" and not web.asked
    with pytest.raises(SystemExit):
        main([*command, "--loopback"])
    capsys.readouterr()


def test_limit_and_status(tmp_path, web, small, capsys):
    videos = {name: web.add(f"{name}.mp4", small) for name in "abc"} | {"x": f"{web.url}/none.mp4"}
    run(tmp_path, videos, limit=2)
    assert names(tmp_path / "out") == [".lock", "a.mp4", "b.mp4", "jobs.parquet"]
    assert "next: the same command again" in capsys.readouterr().out
    run(tmp_path, videos, limit=2)
    capsys.readouterr()
    assert main(["download", "--out", str(tmp_path / "out"), "--status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 videos"
    assert re.fullmatch(r"  done +3   0.00 GB, 0.00 hours", lines[1])
    assert re.fullmatch(r"  given up +1   not found 1", lines[2])
    assert lines[3] == "  not found: no such page or file"


@pytest.mark.parametrize(
    "options, words",
    [
        (["--status"], "nothing was downloaded"),
        ([], "--catalogue is missing"),
        (["--limit", "0"], "--limit is 0; expected at least 1"),
        (["--max-size", "nan"], "--max-size is nan"),
        (["--retry", "privat"], "did you mean 'private'"),
    ],
)
def test_mistakes(tmp_path, options, words):
    given = ["--catalogue", "x.csv"] if options and options[0] != "--status" else []
    with pytest.raises(UserError, match=words):
        main(["download", "--out", str(tmp_path / "out"), *given, *options])


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot write to .*out .File exists.*another --out"):
        run(tmp_path, {"a": "http://a.org/x.mp4"})


def test_one_at_a_time(tmp_path, web, small):
    with jobs.locked(tmp_path / "out"):
        with pytest.raises(UserError, match="another download into .* is running"):
            run(tmp_path, {"a": web.add("x.mp4", small)})


def test_a_damaged_table(tmp_path, web, small):
    videos = {"a": web.add("x.mp4", small)}
    run(tmp_path, videos)
    jobs_file = tmp_path / "out" / "jobs.parquet"
    jobs_file.write_bytes(jobs_file.read_bytes()[:100])
    with pytest.raises(UserError, match="jobs.parquet cannot be read .*move it away"):
        run(tmp_path, videos)
    jobs_file.unlink()
    asked = len(web.asked)
    assert run(tmp_path, videos)["a"]["state"] == "done"  # found again
    assert len(web.asked) == asked


def start(tmp_path, path):
    """The same work in a process of its own, as `python -m data_prep download` does it."""
    code = (
        "import sys; from pathlib import Path; from data_prep import download, fetching\n"
        "from surgjax.errors import run\n"
        "pace = fetching.Pace(0, 0, 0, None, 0)\n"
        "run(lambda: download.download(Path(sys.argv[1]), Path(sys.argv[2]), "
        "wanted=fetching.Wanted(), pace=pace, loopback=True))"
    )
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


@pytest.mark.parametrize(
    "number, code, state",
    [
        (signal.SIGINT, 130, "waiting"),
        (signal.SIGTERM, 75, "waiting"),
        (signal.SIGKILL, -9, "running"),
    ],
)
def test_interrupted_and_continued(tmp_path, web, small, large, number, code, state):
    pytest.importorskip("yt_dlp")
    first, second = web.add("a.mp4", small), web.add("b.mp4", large)
    web.slow["/b.mp4"] = 0.3
    path = rows(tmp_path / "videos.jsonl", a=first, b=second)
    process = start(tmp_path, path)
    partial = tmp_path / "out" / ".partial"
    while not any(part.stat().st_size > 30_000 for part in partial.glob("b.*.part")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in error
    if code > 0:
        assert error.splitlines()[-1].endswith("run the same command again to continue")
    found = table(tmp_path / "out")
    assert (found["a"]["state"], found["b"]["state"]) == ("done", state)
    size = max(part.stat().st_size for part in partial.glob("b.*"))
    web.slow.clear()
    asked = len(web.asked)
    found = run(tmp_path, {"a": first, "b": second})
    assert found["b"]["state"] == "done"
    assert (tmp_path / "out" / "b.mp4").read_bytes() == large.read_bytes()
    assert ("/b.mp4", f"bytes={size}-") in web.asked[asked:]
    assert {name for name, _ in web.asked[asked:]} == {"/b.mp4"}


def test_what_kills_the_program_is_given_up(tmp_path):
    table = jobs.Jobs(tmp_path)
    entry = Entry("a", "http://a.org/x.mp4")
    for _ in range(jobs.ATTEMPTS):
        assert table.plan([entry]) == [entry]
        job = table.rows["a"]
        table.put(job, state="running", attempts=job.attempts + 1)  # and then the power fails
        table = jobs.Jobs(tmp_path)
    assert table.plan([entry]) == []
    assert (table.rows["a"].state, table.rows["a"].error) == ("given up", "interrupted")


def test_hostile_names_never_reach_the_disk(tmp_path, web, small):
    pytest.importorskip("yt_dlp")
    url = web.add("x.mp4", small)
    path = tmp_path / "videos.jsonl"
    hostile = ["../evil", "/tmp/evil", "a\0b", "$(touch evil)", "a;b", "%(title)s", "a.b"]
    lines = [{"video_id": name, "url": url} for name in [*hostile, "good"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert download.download(path, tmp_path / "out", wanted=Wanted(), pace=FAST, loopback=True) == 0
    assert names(tmp_path) == ["out/.lock", "out/good.mp4", "out/jobs.parquet", "videos.jsonl"]


def test_without_yt_dlp(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(UserError, match=r'yt-dlp is not installed.*pip install "yt-dlp\[default\]'):
        path = rows(tmp_path / "videos.jsonl", a="http://a.org/x.mp4")
        download.download(path, tmp_path / "out", wanted=Wanted(), pace=FAST)
