"""`shards` from end to end: the store, interruptions, what is refused, exit codes."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import small_videos as make

from data_prep import merge, parts
from data_prep.__main__ import main
from surgjax.data.record import SHARD_NAME, VIDEO_COLUMNS, parse
from surgjax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]

LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
runpy.run_module("data_prep", run_name="__main__", alter_sys=True)
"""


def command(*arguments, limit: int | None = None) -> subprocess.CompletedProcess:
    """`python -m data_prep ARGUMENTS` in its own process; `limit` bounds the size of a file."""
    program = ["-c", LIMITED.format(limit=limit)] if limit else ["-m", "data_prep"]
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Five good videos in folders, six that cannot be used, and files that are no videos."""
    root = tmp_path_factory.mktemp("videos")
    make.write_video(root / "b.mp4", 60, metadata={"title": "SECRET NAME"}, audio=True)
    make.write_video(root / "sub" / "a.avi", 40, codec="mpeg4")
    make.write_video(root / "sub" / "c.webm", 30, codec="libvpx-vp9", rate=10)
    make.write_video(root / "z.gif", 30, codec="gif", rate=10)
    make.write_images(root / "frames", [1, 2, 3])
    (root / "zero.mp4").write_bytes(b"")
    make.write_video(root / "one.mp4", 1)
    make.write_audio(root / "audio.m4a").rename(root / "audio.mp4")
    broken = make.write_video(root / "broken.mp4", 50)
    broken.write_bytes(broken.read_bytes()[:-400])
    (root / "list.m3u8").write_text("#EXTM3U\nb.mp4\n")
    outside = make.write_video(tmp_path_factory.mktemp("outside") / "x.mp4", 10)
    (root / "link.mp4").symlink_to(outside)
    (root / "gone").symlink_to(outside.parent)
    (root / "notes.txt").write_text("no video")
    return root


OPTIONS = ("--fps", "5", "--short-side", "48", "--domain", "laparoscopy", "--licence", "CC-BY-4.0")


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("store") / "out"
    assert make.shards(videos, out, *OPTIONS) == 0
    return out


def test_tables_and_store_json(store):
    meta = json.loads((store / "store.json").read_text())
    table = make.rows(store, "videos")
    assert [row["video_id"] for row in table] == ["b", "frames", "sub/a", "sub/c", "z"]
    assert [row["frames"] for row in table] == [12, 3, 8, 15, 15]
    assert [row["first_record"] for row in table] == [0, 12, 15, 23, 38]
    assert [row["native_fps"] for row in table] == [25, 1, 25, 10, 10]
    assert [row["stored_fps"] for row in table] == [5, 1, 5, 5, 5]
    assert {(row["width"], row["height"]) for row in table} == {(72, 48)}
    assert list(table[0])[: len(VIDEO_COLUMNS)] == list(VIDEO_COLUMNS)
    assert table[2]["case"] == "own/sub/a" and table[0]["licence"] == "CC-BY-4.0"
    assert meta["counts"] == {"videos": 5, "frames": 53, "records": 53, "quarantined": 7}
    assert meta["settings"]["fps"] == 5 and meta["settings"]["codec"] == "jpeg"
    assert meta["licences"] == {"own": "CC-BY-4.0"} and meta["schema_version"] == 1
    assert sorted(path.name for path in store.iterdir()) == sorted(
        [*(shard["file"] for shard in meta["shards"]), *meta["tables"], "store.json"]
    )


def test_every_unusable_file_is_named_with_its_reason(store):
    assert make.quarantined(store) == {
        "zero.mp4": "empty file",
        "one.mp4": "one frame",
        "audio.mp4": "no video",
        "broken.mp4": "not readable",
        "list.m3u8": "refused",
        "link.mp4": "refused",
        "gone": "refused",
    }


def test_records_hold_the_frames(store, videos):
    from array_record.python import array_record_module

    meta = json.loads((store / "store.json").read_text())
    records = []
    for shard in meta["shards"]:
        reader = array_record_module.ArrayRecordReader(str(store / shard["file"]))
        assert reader.num_records() == shard["records"]
        records += [parse(data) for data in reader.read(range(shard["records"]))]
        reader.close()
    for row in make.rows(store, "videos"):
        own = records[row["first_record"] : row["first_record"] + row["frames"]]
        assert {record.video_id for record in own} == {row["video_id"]}
        assert [record.first_frame for record in own] == list(range(row["frames"]))
        if row["video_id"] == "b":
            assert [record.t_ms[0] for record in own] == [200 * i for i in range(12)]
            for i, record in enumerate(own):
                image = simplejpeg.decode_jpeg(record.frames[0])
                assert simplejpeg.decode_jpeg_header(record.frames[0])[3] == "420"
                truth = make.picture(5 * i)[40:, 40:].mean()
                assert abs(image[30:, 30:].mean() - truth) < 6


def test_nothing_private_is_stored(store, videos):
    for name, data in make.contents(store).items():
        for word in (
            b"SECRET",
            str(videos).encode(),
            str(store).encode(),
            os.uname().nodename.encode(),
        ):
            assert word not in data, name


def test_tfds_reads_the_store_without_tensorflow(store):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"data = tfds.builder_from_directory({str(store)!r}).as_data_source('train')\n"
        "row = data[13]\n"
        "assert len(data) == 53 and row['video_id'] == b'frames' and row['first_frame'] == 1, row\n"
        "assert list(row['t_ms']) == [1000] and row['frames'][0][:2] == b'\\xff\\xd8', row\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_preparation_never_loads_jax(videos, tmp_path):
    code = (
        "import sys\nfrom data_prep.__main__ import main\n"
        f"main(['shards', '--videos', {str(videos)!r}, '--out', {str(tmp_path / 's')!r}, "
        "'--workers', '1'])\n"
        f"main(['verify', {str(tmp_path / 's')!r}])\n"
        f"main(['check', '--root', {str(videos)!r}])\n"
        "assert not {'jax', 'tensorflow', 'torch'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_worker_count_does_not_change_a_byte(videos, store, tmp_path, monkeypatch):
    make.shards(videos, tmp_path / "two", *OPTIONS, workers=2)
    assert make.contents(tmp_path / "two") == make.contents(store)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts and shards of at most seven records, so that videos cross shard ends."""
    from data_prep import plan

    monkeypatch.setattr(plan, "MIN_RECORDS", 7)
    monkeypatch.setattr(plan, "MAX_RECORDS", 7)


class Stopped(BaseException):
    """Stands for a killed process: nothing may catch it."""


def test_interrupted_anywhere_the_same_command_continues(
    videos, tmp_path, small_parts, monkeypatch
):
    make.shards(videos, tmp_path / "whole", *OPTIONS)
    whole = make.contents(tmp_path / "whole")
    assert len([name for name in whole if "array_record" in name]) == 11
    replace, out = os.replace, tmp_path / "broken"
    for count in range(1, 200):
        left = iter(range(count))

        def stop(source, target, left=left):
            if next(left, None) is None:
                raise Stopped
            replace(source, target)

        monkeypatch.setattr(os, "replace", stop)
        try:
            make.shards(videos, out, *OPTIONS)
            break
        except Stopped:
            continue
        finally:
            monkeypatch.setattr(os, "replace", replace)
    assert count > 5 and make.contents(out) == whole


def test_a_finished_part_is_not_done_again(videos, tmp_path, small_parts, monkeypatch, capsys):
    done = []
    write = parts.write_part
    monkeypatch.setattr(
        parts, "write_part", lambda *a: done.append(a) or stop_after(done, write, a)
    )
    with pytest.raises(Stopped):
        make.shards(videos, tmp_path / "s", *OPTIONS)
    monkeypatch.setattr(parts, "write_part", write)
    read = []
    monkeypatch.setattr(parts, "kept_frames", counted(parts.kept_frames, read))
    make.shards(videos, tmp_path / "s", *OPTIONS)
    assert len(read) == 3 and "2 of 5 parts are done" in capsys.readouterr().out


def stop_after(done, write, arguments):
    if len(done) == 3:
        raise Stopped
    return write(*arguments)


def counted(function, calls):
    def call(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    return call


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_process_continues(tmp_path, workers):
    for i in range(4):
        make.write_video(tmp_path / "v" / f"{i}.mp4", 100, width=320, height=240)
    arguments = [
        sys.executable,
        "-m",
        "data_prep",
        "shards",
        "--videos",
        str(tmp_path / "v"),
        "--out",
    ]
    arguments += [str(tmp_path / "s"), "--fps", "native", "--workers", str(workers)]
    process = subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while not list(tmp_path.glob("s/parts/.*.part")) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "s" / "store.json").exists()
    for out in ("s", "t"):
        make.shards(tmp_path / "v", tmp_path / out, "--fps", "native")
    assert make.contents(tmp_path / "s") == make.contents(tmp_path / "t")


def test_second_rate_has_the_same_videos(tmp_path):
    for name in ("video01", "video41", "video35"):
        make.write_cholec(tmp_path / "c", name)
    tables = []
    for fps in ("1", "native"):
        make.shards(tmp_path / "c", tmp_path / fps, "--dataset", "cholec80", "--fps", fps)
        rows = make.rows(tmp_path / fps, "videos")
        tables.append([(row["video_id"], row["case"], row["split_tmrnet"]) for row in rows])
    assert tables[0] == tables[1]
    assert [split for *_, split in tables[0]] == ["train", "val", "test"]
    assert tables[0][0][:2] == ("video01", "cholec80/video01")


def test_several_frames_in_a_record(videos, tmp_path):
    make.shards(videos, tmp_path / "s", *OPTIONS, "--frames-per-record", "4")
    table = make.rows(tmp_path / "s", "videos")
    assert [row["first_record"] for row in table] == [0, 3, 4, 6, 10]
    assert main(["verify", str(tmp_path / "s")]) == 0


def test_finished_store_is_left_alone(videos, store, capsys):
    before = make.contents(store)
    assert make.shards(videos, store, *OPTIONS) == 0
    assert "nothing to do" in capsys.readouterr().out
    for options in (("--fps", "1"), (*OPTIONS, "--quality", "80"), (*OPTIONS, "--limit", "2")):
        with pytest.raises(UserError, match="give another --out"):
            make.shards(videos, store, *options)
    assert make.contents(store) == before


def test_unfinished_store_of_other_settings_is_refused(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "merge", None)
    from data_prep import shards

    monkeypatch.setattr(shards, "merge", lambda *a: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        make.shards(videos, tmp_path / "s", *OPTIONS)
    with pytest.raises(UserError, match="fps 5 there, 2 now"):
        make.shards(videos, tmp_path / "s", "--fps", "2", *OPTIONS[2:])


def test_limit(videos, tmp_path):
    make.shards(videos, tmp_path / "s", *OPTIONS, "--limit", "4")
    assert [row["video_id"] for row in make.rows(tmp_path / "s", "videos")] == ["b", "frames"]


def test_nothing_readable_is_exit_code_2_with_reasons(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"")
    make.write_video(tmp_path / "v" / "b.mp4", 1)  # known only after decoding
    done = command("shards", "--videos", tmp_path / "v", "--out", tmp_path / "s")
    assert done.returncode == 2 and "none of 2 videos" in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["quarantine.parquet"]
    make.write_video(tmp_path / "v" / "a.mp4", 10)
    assert make.shards(tmp_path / "v", tmp_path / "s") == 0  # and the folder can be used again


def test_full_disk_is_one_line_and_can_continue(videos, tmp_path):
    import resource

    arguments = ("shards", "--videos", videos, "--out", tmp_path / "s", *OPTIONS)
    done = command(*arguments, limit=40_000)
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr and done.stderr.count("\n") == 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(UserError, match="disk is full"):
            make.shards(videos, tmp_path / "s", *OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "s" / "store.json").exists()
    assert make.shards(videos, tmp_path / "s", *OPTIONS) == 0


def test_too_little_space_is_said_before_any_work(videos, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 50, 50))
    with pytest.raises(UserError, match="are needed"):
        make.shards(videos, tmp_path / "s", *OPTIONS)


def test_a_decoder_that_crashes_costs_its_video_only(tmp_path, monkeypatch):
    for name in ("a", "b", "c", "d"):
        make.write_video(tmp_path / "v" / f"{name}.mp4", 10)
    plan_workers(tmp_path, monkeypatch)
    table = make.rows(tmp_path / "s", "videos")
    assert [row["video_id"] for row in table] == ["a", "c", "d"]
    assert make.quarantined(tmp_path / "s") == {"b.mp4": "not readable"}


def plan_workers(tmp_path, monkeypatch):
    """Run with a worker whose decoder aborts on video b."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, importlib.util\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name != 'data_prep.parts': return None\n"
        "        sys.meta_path.remove(self)\n"
        "        spec = importlib.util.find_spec(name)\n"
        "        load = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            load(module)\n"
        "            frames = module.kept_frames\n"
        "            def kept(path, **o):\n"
        "                return os.abort() if path.stem == 'b' else frames(path, **o)\n"
        "            module.kept_frames = kept\n"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    make.shards(tmp_path / "v", tmp_path / "s", "--fps", "2", workers=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fps", "fast"), "expected native or a number"),
        (("--fps", "-1"), "expected native or a number"),
        (("--quality", "0"), "expected 1 to 100"),
        (("--workers", "0"), "expected 1 to"),
        (("--short-side", "2"), "expected 16 to"),
    ],
)
def test_bad_options(videos, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        main(["shards", "--videos", str(videos), "--out", str(tmp_path / "s"), *options])


def test_bad_folders(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for root, out, message in (
        (tmp_path / "none", tmp_path / "s", "is no folder"),
        (tmp_path / "empty", tmp_path / "s", "no videos in"),
        (videos, tmp_path / "full", "holds other files"),
        (videos, tmp_path / "full" / "mine.txt", "is a file"),
    ):
        with pytest.raises(UserError, match=message):
            make.shards(root, out)


def test_two_runs_on_one_folder(videos, tmp_path):
    (tmp_path / "s").mkdir()
    handle = os.open(tmp_path / "s" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process"):
        make.shards(videos, tmp_path / "s")
    os.close(handle)


def test_names_that_collide_keep_their_suffix(tmp_path):
    make.write_video(tmp_path / "v" / "a.mp4", 10)
    make.write_video(tmp_path / "v" / "a.mkv", 10)
    make.shards(tmp_path / "v", tmp_path / "s")
    assert [row["video_id"] for row in make.rows(tmp_path / "s", "videos")] == ["a.mkv", "a.mp4"]


def test_quality_flags(tmp_path):
    dark = [np.zeros((64, 96, 3), np.uint8)] * 10
    make.write_video(tmp_path / "v" / "dark.mp4", 10, images=dark)
    make.write_video(tmp_path / "v" / "vfr.mkv", 4, pts=[0, 40, 900, 1000])
    make.shards(tmp_path / "v", tmp_path / "s", "--fps", "native", "--short-side", "64")
    flags = {row["video_id"]: {k for k in row if k.startswith("qc_") and row[k]} for row in
             make.rows(tmp_path / "s", "videos")}  # fmt: skip
    assert flags == {"dark": {"qc_dark"}, "vfr": {"qc_variable_rate"}}


def test_verbs_and_exit_codes():
    assert main(["--help"]) == 0
    assert SHARD_NAME.startswith("surgjax-train.array_record-")
    with pytest.raises(SystemExit) as caught:
        main(["shards", "--help"])
    assert caught.value.code == 0
    with pytest.raises(UserError, match="did you mean 'shards'"):
        main(["shard"])
    with pytest.raises(UserError, match="did you mean 'cholec80'"):
        from data_prep import sources

        sources.load("cholec8")


def test_damaged_streams_do_not_depend_on_threads(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (100, 16, 24, 3), np.uint8)
    images = [image.repeat(4, 0).repeat(4, 1) for image in noise]
    options = {"x264-params": "threads=1:asm=0"}  # equal bytes, so equal damage, everywhere
    path = make.write_video(tmp_path / "v" / "a.mp4", 100, images=images, options=options)
    data = bytearray(path.read_bytes())
    for quarter in (1, 2, 3):
        start = quarter * len(data) // 4
        data[start : start + 300] = bytes(range(100)) * 3
    path.write_bytes(data)
    stores = []
    for threads in (1, 4):
        task = {
            "out": str(tmp_path / str(threads)),
            "part": 0,
            "root": str(tmp_path / "v"),
            "videos": [
                {"video_id": "a", "path": "a.mp4", "frames_fps": None, "frames_pattern": ""}
            ],
            "settings": {"fps": "native", "short_side": 64, "quality": 90, "frames_per_record": 1},
            "threads": threads,
        }
        done = parts.write_part(task)
        assert done["videos"][0]["flags"]["damaged"] and len(done["videos"][0]["t_ms"]) > 90
        stores.append(done)
    assert stores[0] == stores[1]


def test_odd_names_and_links(tmp_path):
    videos = tmp_path / "v"
    make.write_video(videos / "o'k: 50%.mp4", 10)  # colon and percent sign mean things to FFmpeg
    good = (videos / "o'k: 50%.mp4").read_bytes()
    for name in (b"no\xffutf8.mp4", b"bell\x07.mp4"):
        (videos / os.fsdecode(name)).write_bytes(good)
    (videos / "loop.mp4").symlink_to(videos / "loop.mp4")
    (videos / "inside.mp4").symlink_to(videos / "o'k: 50%.mp4")
    (videos / "._ghost.mp4").write_bytes(b"x")
    os.mkfifo(videos / "pipe.mp4")
    make.shards(videos, tmp_path / "s")
    assert [r["video_id"] for r in make.rows(tmp_path / "s", "videos")] == ["inside", "o'k: 50%"]
    assert set(make.quarantined(tmp_path / "s")) == {
        "no\\udcffutf8.mp4",
        "bell\x07.mp4",
        "loop.mp4",
        "pipe.mp4",
    }
