"""Vectors of clips: the public classes' numbers, every clip once, the same bytes after a stop."""

import json
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import losses, tiny
from small_videos import contents, findings, shards, write_video

from data_prep.__main__ import main as prepare
from surgjax import build, embed
from surgjax.checkpoint import read_params
from surgjax.data.clip import decode_frames
from surgjax.data.leakage import held_out_cases, usable_videos
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.errors import REQUEUE, Stopped, UserError
from surgjax.features import read_features
from surgjax.main import main as run_main
from surgjax.state import rebuild
from surgjax.train import train


@pytest.fixture(scope="module")
def cut(store, tmp_path_factory):
    """The rendered corpus, cut into clips of a second."""
    path = tmp_path_factory.mktemp("cut") / "cut"
    shutil.copytree(store, path)
    assert prepare(["clips", str(path), "--seconds", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run of one step."""
    path = tmp_path_factory.mktemp("run") / "tiny"
    train(tiny(store, total_steps=1), path)
    return path


def clips_of(store) -> list[dict]:
    return pq.read_table(store / "clips.parquet").to_pylist()


def pictures(store, row, frames, size):
    """uint8 (t h w c): the middle frame of each equal part of a clip."""
    opened = open_store(store)
    video = opened.column("video_id").to_pylist().index(row["video_id"])
    fps = opened.videos["stored_fps"][video]
    first, end = (round(row[name] * fps / 1000) for name in ("start_ms", "end_ms"))
    end = min(end, int(opened.frames[video]))
    at = [first + int((i + 0.5) / frames * (end - first)) for i in range(frames)]
    return decode_frames(opened, video, np.array(at), ClipShape(frames, 1, size))


# --- the numbers


def dinov2(transformers):
    return transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
        )
    )


def clip_vision(transformers):
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    return transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**sizes, image_size=32, patch_size=16)
    )


def videomae(transformers):
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    return transformers.VideoMAEModel(
        transformers.VideoMAEConfig(**sizes, image_size=32, num_frames=4, use_mean_pooling=False)
    )


@pytest.mark.torch
@pytest.mark.parametrize(
    "make, size, pool",
    [(dinov2, 42, "mean"), (dinov2, 28, "cls"), (clip_vision, 32, "cls"), (videomae, 32, "mean")],
)
def test_vectors_are_the_public_class_s(cut, tmp_path, make, size, pool):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = make(transformers).eval()
    model.save_pretrained(tmp_path / "public")
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    settings = {"do_normalize": True, "image_mean": mean, "image_std": std}
    (tmp_path / "public" / "preprocessor_config.json").write_text(json.dumps(settings))

    options = [f"--model={tmp_path / 'public'}", f"--stores={cut}", f"--out={tmp_path / 'out'}"]
    assert embed.main([*options, "--frames=4", f"--size={size}", f"--pool={pool}"]) == 0
    found = read_features(tmp_path / "out")
    assert found.meta["family"] in ("dinov2", "clip", "videomae") and found.meta["dim"] == 24
    assert found.meta["pixels"]["from"] == "preprocessor_config.json"
    rows = found.clips.to_pylist()
    for i in (0, len(rows) // 2, len(rows) - 1):
        clip = (pictures(cut, rows[i], 4, size) / 255.0 - mean) / std
        pixels = torch.from_numpy(clip.astype(np.float32).transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            if make is videomae:
                expected = model(pixels[None]).last_hidden_state.mean(1)
            else:
                out = model(pixels)
                expected = out.pooler_output if pool == "cls" else out.last_hidden_state[:, 1:]
                expected = expected.mean(0)[None] if pool == "cls" else expected.mean((0, 1))[None]
        np.testing.assert_allclose(found.values[i], expected[0].numpy(), atol=2e-5)


@pytest.fixture(scope="module")
def encoder(trained):
    return embed.open_encoder(trained)


@pytest.fixture(scope="module")
def whole(cut, encoder, tmp_path_factory):
    """Features of the corpus by the run, in shards of 5, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "features"
    embed.embed(encoder, [open_store(cut)], out, batch_size=8, clips_a_shard=5)
    return out


def test_vectors_of_a_run_are_its_mean_tokens(cut, trained, encoder, whole):
    found = read_features(whole)
    cfg = build.read_config(trained)
    params, _ = read_params(trained)
    objective = rebuild(build.make_learner(cfg).graphdef, jax.tree.map(np.asarray, params))
    for i in (0, 7, len(found.values) - 1):
        row = found.clips.slice(i, 1).to_pylist()[0]
        tokens = objective.encode(pictures(cut, row, 4, 32)[None])
        np.testing.assert_allclose(found.values[i], np.mean(tokens[0], axis=0), atol=1e-5)
    assert found.values.std(axis=0).max() > 0  # clips differ
    meta = found.meta
    assert meta["model"] == "tiny, step 1" and meta["family"] == "surgjax run"
    assert (meta["frames"], meta["size"], meta["pool"]) == (4, 32, "mean")
    assert meta["pretrained_on"] == ["synthetic (train)"] and meta["licence"] == "Apache-2.0"
    assert set(meta["stores"]) == {open_store(cut).name}


# --- every clip once


def test_every_clip_is_there_once_but_held_out_ones(cut, encoder, whole, tmp_path):
    stores = [open_store(cut)]
    masks, report = usable_videos(stores)
    assert report["dropped"]
    used = {stores[0].video_id(v) for v in np.flatnonzero(masks[0])}
    keys = ("video_id", "start_ms", "end_ms")
    expected = [row for row in clips_of(cut) if row["video_id"] in used]
    found = read_features(whole)
    assert found.clips.select(keys).to_pylist() == expected
    assert set(found.clips["case"].to_pylist()) == set(report["cases"])
    assert found.meta["count"] == len(expected) and not any(found.clips["held_out"].to_pylist())
    assert len(list(whole.glob("features-*.parquet"))) == -(-len(expected) // 5)

    options = {"batch_size": 8, "keep_held_out": True}
    embed.embed(encoder, stores, tmp_path / "all", **options)
    kept = read_features(tmp_path / "all", keep_held_out=True)
    assert kept.clips.select(keys).to_pylist() == clips_of(cut)
    flags = [row["video_id"] not in used for row in clips_of(cut)]
    assert kept.clips["held_out"].to_pylist() == flags
    np.testing.assert_allclose(kept.values[~np.array(flags)], found.values, atol=1e-5)


def test_clips_whose_frames_were_left_out_are_counted(encoder, tmp_path, capsys):
    """10 s at 5 frames/s without 2 to 6 s: a clip there has no vector, one behind it has its own
    frames."""
    size = write_video(tmp_path / "v" / "a.mp4", 50, rate=5).stat().st_size
    lines = ["video_id,start_ms,end_ms", "a,0,1000", "a,3000,4000", "a,7000,8000"]
    (tmp_path / "v" / "clips.csv").write_text("\n".join(lines) + "\n")
    row = ["a", "10.000", 9, size, *[0] * 6, 0, 0, 1, 1, "", "", ""]
    findings(tmp_path / "qc", [row], [["a", "2.000", "6.000", "out_of_body", "1"]], [])
    shards(tmp_path / "v", tmp_path / "s", "--fps", "5", "--qc", str(tmp_path / "qc"))
    store = open_store(tmp_path / "s")
    embed.embed(encoder, [store], tmp_path / "out", batch_size=8)
    assert "2 clips; 0 of held-out cases are left out; 1 without stored frames are left out" in (
        capsys.readouterr().out
    )
    found = read_features(tmp_path / "out")
    assert found.clips["start_ms"].to_pylist() == [0, 7000]
    for vector, start in zip(found.values, (0, 7000), strict=True):
        times = [start + 200 * i for i in (0, 1, 3, 4)]  # the middle of four parts of five frames
        frames = decode_frames(store, 0, store.frames_at(0, times), encoder.clip)
        expected = encoder.apply(encoder.params, jax.numpy.asarray(frames[None]))
        np.testing.assert_allclose(vector, expected[0], atol=1e-5)


def test_a_case_held_out_under_another_name_is_held_out(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "other")
    opened = open_store(cut)
    free = usable_videos([opened])[1]["cases"][0]
    row = {"case": free, "same_as": "made/x", "held_out": True, "evidence": "published"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "other" / "same_cases.parquet")
    stores = [opened, open_store(tmp_path / "other")]
    masks, _ = usable_videos(stores)
    names = held_out_cases(stores)
    for store, mask in zip(stores, masks, strict=True):
        assert [case in names for case in store.videos["case"]] == (~mask).tolist()
    assert free in names and "made/x" in names and free not in held_out_cases([opened])


# --- stopping and going on


def test_a_stopped_run_ends_in_the_same_bytes(cut, encoder, whole, tmp_path):
    out, stores = tmp_path / "features", [open_store(cut)]
    options = {"batch_size": 8, "clips_a_shard": 5}

    def stop_after_the_first_shard():
        while not (out / "features-00000.parquet").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should it come too late
    try:
        thread = threading.Thread(target=stop_after_the_first_shard)
        thread.start()
        with pytest.raises(Stopped, match="of 5 shards are finished|all shards") as stop:
            embed.embed(encoder, stores, out, **options)
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == REQUEUE
    assert not (out / "features.json").exists()
    with pytest.raises(UserError, match="surgjax.embed"):
        read_features(out)
    (out / ".features-00002.parquet.123.part").write_bytes(b"killed while this was written")
    first = (out / "features-00000.parquet").stat().st_mtime_ns
    embed.embed(encoder, stores, out, **options)
    assert (out / "features-00000.parquet").stat().st_mtime_ns == first
    assert contents(out) == contents(whole)
    # a lost shard is made again, and finished work is left alone
    (out / "features-00001.parquet").unlink()
    embed.embed(encoder, stores, out, **options)
    assert contents(out) == contents(whole)
    embed.embed(encoder, stores, out, **options)
    assert contents(out) == contents(whole)


def test_other_settings_are_refused(cut, encoder, whole, tmp_path):
    with pytest.raises(UserError, match="clips_a_shard 5, now it is 6"):
        embed.embed(encoder, [open_store(cut)], whole, batch_size=8, clips_a_shard=6)
    with pytest.raises(UserError, match="held_out 'left out', now it is 'flagged'"):
        options = {"clips_a_shard": 5, "keep_held_out": True}
        embed.embed(encoder, [open_store(cut)], whole, batch_size=8, **options)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        embed.embed(encoder, [open_store(cut)], tmp_path, batch_size=8)


# --- damage and mistakes


def damage(store, video, frame):
    """Overwrite a part of the picture of a stored frame."""
    (jpeg,) = open_store(store).read(video, [frame])
    for shard in store.glob("surgjax-train*"):
        data = bytearray(shard.read_bytes())
        at = data.find(jpeg[-200:-100])  # headers are alike
        if at > 0:
            data[at : at + 100] = bytes(100)
            shard.write_bytes(data)
            return
    raise AssertionError("the frame is in no shard")


def test_an_unreadable_clip_is_left_out_and_named(cut, encoder, whole, tmp_path, capsys):
    shutil.copytree(cut, tmp_path / "cut")
    video = np.flatnonzero(usable_videos([open_store(cut)])[0][0])[1]
    damage(tmp_path / "cut", video, 59)  # of 53, 59, 65 and 71
    embed.embed(encoder, [open_store(tmp_path / "cut")], tmp_path / "out", batch_size=8)
    name = open_store(cut).video_id(video)
    assert f"warning: left out, unreadable: {open_store(cut).name}:{name} at 2000 ms" in (
        capsys.readouterr().out
    )
    found, all_of_them = read_features(tmp_path / "out"), read_features(whole)
    gone = [
        row["video_id"] == name and row["start_ms"] == 2000 for row in all_of_them.clips.to_pylist()
    ]
    assert sum(gone) == 1 == found.meta["unreadable"]
    np.testing.assert_allclose(found.values, all_of_them.values[~np.array(gone)], atol=1e-5)


def test_mistakes_are_one_line(store, cut, trained, encoder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="has no clips.*python -m data_prep clips"):
        embed.embed(encoder, [open_store(store)], out, batch_size=8)
    with pytest.raises(UserError, match="two stores are named"):
        embed.embed(encoder, [open_store(cut)] * 2, out, batch_size=8)
    with pytest.raises(UserError, match="not divisible by the 8 devices"):
        embed.embed(encoder, [open_store(cut)], out, batch_size=9)
    for arguments, message in (
        ((trained, 16), "--frames is 16, but .* was made for 4; give --frames=4"),
        ((trained, None, 224), "--size is 224, but .* made for 32"),
        ((trained, 0), "--frames is 0"),
        ((trained, None, None, "cls"), "no class token; give --pool=mean"),
        ((tmp_path / "none",), "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            embed.open_encoder(*arguments)
    assert not out.exists()


# --- from videos to a curated run


def test_from_clips_to_a_curated_run(cut, whole, tmp_path):
    """Clips, their vectors, a list written by hand, and a few steps of the MAE demo on it."""
    found = read_features(whole)
    centre = found.values.mean(axis=0)
    nearest = np.argsort(np.linalg.norm(found.values - centre, axis=1))[:4]
    chosen = found.clips.select(["store", "video_id", "start_ms", "end_ms"]).take(nearest)
    weights = pa.array([1.0, 1.0, 2.0, 4.0])
    pq.write_table(chosen.append_column("weight", weights), tmp_path / "clips.parquet")
    command = ["--config=configs/surgrec_mae.py:demo", f"--workdir={tmp_path / 'run'}"]
    changes = {
        "data.stores": cut,
        "data.clips": tmp_path / "clips.parquet",
        "total_steps": 3,
        "batch_size": 8,
        "log.every": 1,
        "data.size": 32,
        "encoder.size": "two blocks",
    }
    command += [f"--config.{name}={value}" for name, value in changes.items()]
    assert run_main(command) == 0
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3]
    _, meta = read_params(tmp_path / "run")
    assert set(meta["used_cases"]) >= set(found.clips["case"].take(nearest).to_pylist())
    assert len(meta["clips"]) == 64
