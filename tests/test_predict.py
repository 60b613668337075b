"""Whole recordings: the answers of the store's clips, every file once, and what is said of them."""

import csv
import json
import os
import signal
from dataclasses import replace

import av
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import vocabularies
from matplotlib.colors import to_hex
from runs import tiny
from small_videos import contents, write_video

from data_prep.video import Seen, kept_frames
from surgjax import api, predict, sharding
from surgjax.benchmark import pictures, vectors
from surgjax.checkpoint import read_params
from surgjax.data import tokenizers, transforms
from surgjax.data.clip import decode_clip
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.encoder import open_encoder
from surgjax.errors import REQUEUE, Stopped, UserError
from surgjax.evals.features import labelled_clips
from surgjax.recogniser import Recogniser, open_recogniser
from surgjax.recording import Sampling, recording_clips
from surgjax.train import train

NAMES = ("Preparation", "Dissection", "Clipping")
CENTRES = (0.2, 0.545, 0.75)  # of their brightness: between them are 95 and 165


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run on one device, whose head tells phases and instruments apart a little."""
    path = tmp_path_factory.mktemp("predict") / "run"
    objective = dict(name="classify", task="phase,instrument", head="linear", init_scale=1.0)
    with pytest.MonkeyPatch.context() as patch:
        found = jax.local_devices()[:1]
        patch.setattr(sharding.jax, "devices", lambda: found)
        steps = dict(total_steps=60, checkpoint__every=60, optim__peak_lr=3e-3)
        train(tiny(store, objective=objective, data__frames=2, **steps), path)
    return path


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """Four seconds in which every frame is brighter than the one before."""
    images = [np.full((48, 64, 3), 20 + 2 * i, np.uint8) for i in range(100)]
    path = tmp_path_factory.mktemp("ramp") / "ramp.mp4"
    return write_video(path, 100, width=64, height=48, images=images)


def bright(**changes) -> Recogniser:
    """Tells three classes by the brightness of a clip's last frame, and gives it as vector."""

    def begin(video):
        mean = video[:, -1].mean(axis=(1, 2, 3), dtype=np.float64) / 255
        scores = np.exp(-50 * (mean[:, None] - CENTRES) ** 2)
        made = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
        return lambda: (made, mean[:, None].astype(np.float32))

    about = {"model": "bright", "licence": "MIT", "pretrained_on": ["nothing"], "sha256": "0"}
    options = dict(about=about, used_cases=[], frames=2, size=16, rate=5.0, anchor=None)
    options |= dict(kind="one_of_n", classes=NAMES, has_vectors=True, begin=begin)
    return Recogniser(**options | changes)


def table_of(path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines()))


# --- clips of a file


@pytest.mark.parametrize("anchor", ["last", "middle"])
@pytest.mark.parametrize(
    "video, rate, fps, all_kept",
    [
        (dict(rate=25), 6.25, 1.0, 25),
        (dict(rate=25), 0.5, 2.0, 2),
        (dict(rate=30), 6.25, 1.0, 25),
        (dict(rate=5), 6.25, 12.5, 12.5),  # slower than its clips
        (dict(rate=25), 8.1, 0.97, None),
        (dict(pts=[0, 40, 80, 90, 700, 730, 1000, 2500, 2510, 2600]), 10.0, 5.0, 10),
    ],
)
def test_clips_show_the_first_frame_at_or_after_their_times(
    tmp_path, video, rate, fps, all_kept, anchor
):
    count = len(video.get("pts", range(60)))
    images = [np.full((48, 64, 3), 10 + 4 * i, np.uint8) for i in range(count)]
    path = write_video(tmp_path / "v.mp4", count, width=64, height=48, images=images, **video)
    sampling = Sampling(5, 16, rate, fps, anchor)
    assert sampling.kept_fps == all_kept
    frames = list(kept_frames(path, fps=None, short_side=48, seen=Seen()))
    times = [frame.t_ms for frame in frames]
    after = lambda t: next((i for i, x in enumerate(times) if x >= t - 1), 0)  # noqa: E731
    last = max(after(1000 * k / all_kept) for k in range(1000)) if all_kept else len(times) - 1
    first_after = lambda t: last if t - 1 > times[last] else after(t)  # noqa: E731
    expected = {}
    for k in range(1000):
        t_ms = 1000 * k / fps
        if t_ms - 1 > times[last]:
            break
        steps = np.arange(5) - (4 if anchor == "last" else 2)
        at = [first_after(t_ms + 1000 * step / rate) for step in steps]
        expected.setdefault(times[first_after(t_ms)], at)
    found = list(recording_clips(path, sampling))
    assert [t_ms for t_ms, _ in found] == list(expected)
    for (_, clip), at in zip(found, expected.values(), strict=True):
        for shown, i in zip(clip, at, strict=True):
            square = np.empty((16, 16, 3), np.uint8)
            transforms.resize(frames[i].image, transforms.centre_crop(48, 64), square)
            np.testing.assert_array_equal(shown, square)


def test_a_recording_of_any_length_is_held_for_a_clip_alone(tmp_path):
    path = write_video(tmp_path / "v.mp4", 400, width=64, height=48)
    clips = recording_clips(path, Sampling(8, 16, 6.25, 5.0, "middle"))
    held = [len(clips.gi_frame.f_locals["held"]) for _ in clips]
    assert len(held) == 80 and max(held) <= 7 * 4 + 5 + 1


# --- models


@pytest.mark.parametrize("option, anchor", [("--online", "last"), ("--offline", "middle")])
def test_a_file_gets_the_answers_of_its_store(
    corpus, store, trained, tmp_path, option, anchor, capsys
):
    """The store's frames went through JPEG; so do no others."""
    command = [f"--model={trained}", f"--video={corpus / 'videos' / 'video05.mp4'}", option]
    assert predict.main([*command, f"--out={tmp_path}", "--task=phase", "--batch-size=4"]) == 0
    said = capsys.readouterr().out
    assert "2 frames a clip, 12.5 a second" in said and "x real time" in said
    assert ("label on their last frame" in said) == (anchor == "middle")
    found = pq.read_table(tmp_path / "video05.parquet")

    shape = ClipShape(2, 2, 32)
    clips = labelled_clips(
        open_store(store), "phase", shape, every_s=1.0, split="official", anchor=anchor
    )
    clips = clips.where(clips.video_id == "video05")
    assert found["t_ms"].to_pylist() == clips.t_ms.tolist() == list(range(0, 12_000, 1000))
    pixels = np.stack([decode_clip(open_store(store), row, shape) for row in clips.rows])
    probabilities = phase_probabilities(trained, pixels)
    values = np.stack([found[name].to_numpy() for name in clips.classes], axis=1)
    np.testing.assert_allclose(values, probabilities, atol=0.06)
    assert probabilities.std(axis=0).max() > 0.1  # clips differ by more than that
    same = values.argmax(1) == probabilities.argmax(1)
    assert same.mean() > 0.9
    named = [clips.classes[i] for i in values.argmax(1)]
    assert found["phase"].to_pylist() == named
    np.testing.assert_array_equal(found["confidence"].to_numpy(), values.max(1))


def phase_probabilities(run, video):
    """float64 softmax of a linear map on the mean token of the run's encoder."""
    encoder = open_encoder(run)
    tokens = np.asarray(jax.jit(encoder.apply)(encoder.params, video), np.float64)
    head = read_params(run)[0]["head"]["classifier"]
    logits = (tokens @ head["kernel"] + head["bias"])[:, :4]
    exact = np.exp(logits - logits.max(1, keepdims=True))
    return exact / exact.sum(1, keepdims=True)


def test_several_classes_at_once_and_vectors(corpus, trained, tmp_path):
    video = corpus / "videos" / "video01.mp4"
    command = [f"--model={trained}", f"--video={video}", f"--out={tmp_path}", "--fps=0.5"]
    with pytest.raises(UserError, match="--task is ''.*phase, instrument; choose one"):
        predict.main(command)
    assert predict.main([*command, "--task=instrument", "--features", "--batch-size=4"]) == 0
    about = json.loads((tmp_path / "video01.json").read_text())
    assert about["kind"] == "multi_label" and about["model"]["task"] == "instrument"
    assert about["model"]["licence"] and about["model"]["pretrained_on"] == ["synthetic (train)"]
    rows = table_of(tmp_path / "video01.csv")
    classes = list(about["classes"])
    for row in rows:
        there = [name for name in classes if float(row[name]) >= 0.5]
        assert row["present"] == ";".join(there)
    for name in classes:
        share = np.mean([float(row[name]) >= 0.5 for row in rows])
        assert about["classes"][name]["share"] == pytest.approx(share, abs=1e-4)

    found = vectors.read(tmp_path / "features.parquet")
    assert found.t_ms.tolist() == [0, 2000, 4000, 6000, 8000, 10_000]
    assert set(found.video_id) == {"video01"} and found.about["used_cases"]
    encoder = open_encoder(trained)
    clips = [clip for _, clip in recording_clips(video, Sampling(2, 32, 12.5, 0.5))]
    expected = jax.jit(encoder.apply)(encoder.params, np.stack(clips))
    np.testing.assert_allclose(found.values, expected, atol=1e-4)


def videomae(transformers, **sizes):
    config = transformers.VideoMAEConfig(**sizes, image_size=32, num_frames=4, num_labels=3)
    return transformers.VideoMAEForVideoClassification(config)


def vjepa2(transformers, **sizes):
    config = transformers.VJEPA2Config(
        **{"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1},
        **{"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
        **{"crop_size": 32, "frames_per_clip": 4, "num_pooler_layers": 1, "num_labels": 3},
        problem_type="multi_label_classification",
    )
    return transformers.VJEPA2ForVideoClassification(config)


@pytest.mark.torch
@pytest.mark.parametrize("make", [videomae, vjepa2])
def test_public_classifiers_answer_as_in_pytorch(corpus, tmp_path, make):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    model = make(transformers, **sizes).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    model.config.id2label = dict(enumerate(NAMES))
    model.save_pretrained(tmp_path / "public")
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    settings = {"do_normalize": True, "image_mean": mean, "image_std": std}
    (tmp_path / "public" / "preprocessor_config.json").write_text(json.dumps(settings))
    video = corpus / "videos" / "video02.mp4"
    command = [f"--model={tmp_path / 'public'}", f"--video={video}", "--fps=0.5"]
    with pytest.raises(UserError, match="does not say how many frames a second.*--rate"):
        predict.main([*command, f"--out={tmp_path / 'out'}"])
    options = [f"--out={tmp_path / 'out'}", "--rate=5", "--batch-size=6"]
    assert predict.main([*command, *options]) == 0

    found = pq.read_table(tmp_path / "out" / "video02.parquet")
    values = np.stack([found[name].to_numpy() for name in NAMES], axis=1)
    clips = np.stack([clip for _, clip in recording_clips(video, Sampling(4, 32, 5.0, 0.5))])
    pixels = ((clips / 255.0 - mean) / std).astype(np.float32).transpose(0, 1, 4, 2, 3)
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels.copy())).logits
    expected = logits.softmax(-1) if make is videomae else logits.sigmoid()
    np.testing.assert_allclose(values, expected.numpy(), atol=2e-4)
    assert values.std(axis=0).max() > 1e-3
    assert ("phase" in found.column_names) == (make is videomae)


def test_prompts_name_the_classes(store, corpus, tmp_path):
    text = dict(family="bert", vocab_size=150, length=24, width=32, depth=1, heads=2)
    objective = dict(name="clip", text=text, tokens=24, dim=16, tokenizer="captions")
    with pytest.MonkeyPatch.context() as patch:
        found = jax.local_devices()[:1]
        patch.setattr(sharding.jax, "devices", lambda: found)
        train(tiny(store, objective=objective, stop_at_step=1), tmp_path / "run")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(
        "class_id,class,prompt\n1,Clipping,A clip is set.\n0,Dissection,the hook cuts\n"
        "1,Clipping,the clipper closes\n"
    )
    video = corpus / "videos" / "video03.mp4"
    command = [f"--model={tmp_path / 'run'}", f"--video={video}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="no trained head.*--prompts"):
        predict.main(command)
    with pytest.raises(UserError, match="cannot be read .FileNotFoundError"):
        predict.main([*command, f"--prompts={tmp_path / 'none.csv'}"])
    assert predict.main([*command, "--fps=0.5", f"--prompts={prompts}", "--batch-size=6"]) == 0
    found = pq.read_table(tmp_path / "out" / "video03.parquet")
    values = np.stack([found[name].to_numpy() for name in ("Dissection", "Clipping")], axis=1)

    model, preprocess, tokenizer = api.load(tmp_path / "run")
    clips = [clip for _, clip in recording_clips(video, Sampling(4, 32, 12.5, 0.5))]
    shown = np.stack([preprocess(clip) for clip in clips])
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    sentences = ["the hook cuts", "a clip is set", "the clipper closes"]
    words = unit(np.float64(model.encode_text(tokenizer(sentences))))
    classes = unit(np.stack([words[0], words[1:].mean(0)]))
    logits = 100 * unit(np.float64(model.encode_video(shown))) @ classes.T
    expected = 1 / (1 + np.exp(logits[:, ::-1] - logits))
    np.testing.assert_allclose(values, expected, atol=0.02)
    about = json.loads((tmp_path / "out" / "video03.json").read_text())
    assert list(about["model"]["prompts"]) == ["Dissection", "Clipping"]


@pytest.mark.torch
def test_prompts_of_a_public_model(corpus, tmp_path):
    """Against CLIP's own image and text embeddings."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = vocabularies.byte_pairs(tmp_path / "public")
    words = tokenizers.load(folder, "clip", 20)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = dict(vocab_size=words.vocab_size, max_position_embeddings=20)
    text |= dict(eos_token_id=words.eos, pad_token_id=words.eos)
    vision = dict(sizes, image_size=32, patch_size=16)
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=sizes | text, vision_config=vision, projection_dim=8)
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.3)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("class_id,class,prompt\n0,Dissection,the hook cuts\n1,Clipping,clips\n")
    video = corpus / "videos" / "video04.mp4"
    command = [f"--model={folder}", f"--video={video}", f"--out={tmp_path / 'out'}"]
    options = [f"--prompts={prompts}", "--fps=0.5", "--batch-size=6"]
    assert predict.main([*command, *options, "--frames=1"]) == 0
    found = pq.read_table(tmp_path / "out" / "video04.parquet")
    values = np.stack([found[name].to_numpy() for name in ("Dissection", "Clipping")], axis=1)

    clips = np.stack([clip[0] for _, clip in recording_clips(video, Sampling(1, 32, 0.5, 0.5))])
    pixels = torch.from_numpy(((clips / 255 - 0.5) / 0.5).astype(np.float32))
    asked = words(["the hook cuts", "clips"])
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(asked["ids"].astype(np.int64)),
            attention_mask=torch.from_numpy(asked["mask"].astype(np.int64)),
            pixel_values=pixels.permute(0, 3, 1, 2),
        )
    expected = (100 * out.image_embeds @ out.text_embeds.T).log_softmax(-1).numpy()
    np.testing.assert_allclose(np.log(values), expected, atol=0.02)
    assert expected.std() > 1


@pytest.mark.torch
def test_an_encoder_has_vectors_alone(tmp_path, ramp):
    """A public encoder of pictures, frame by frame; its rate does not matter."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes, patch_size=14)).save_pretrained(
        tmp_path / "dino"
    )
    command = [f"--model={tmp_path / 'dino'}", f"--video={ramp}", f"--out={tmp_path / 'out'}"]
    command += ["--frames=1", "--batch-size=4"]
    with pytest.raises(UserError, match="no trained head"):
        predict.main(command)
    with pytest.raises(UserError, match="no text tower"):
        predict.main([*command, "--prompts=p.csv"])
    assert predict.main([*command, "--features"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"ramp.json", "features", "features.parquet"}
    assert len(vectors.read(tmp_path / "out" / "features.parquet")) == 4


# --- files


def test_what_is_said_of_a_recording(ramp, tmp_path):
    """Brightness rises from 20 to 218 of 255: three phases, by hand."""
    predict.predict(bright(), {"ramp": ramp}, tmp_path, Sampling(2, 16, 5.0, 5.0))
    rows = table_of(tmp_path / "ramp.csv")
    assert [int(row["t_ms"]) for row in rows] == list(range(0, 4000, 200))
    for row in rows:
        value = (20 + 2 * int(row["t_ms"]) / 40) / 255
        assert row["phase"] == NAMES[np.abs(np.array(CENTRES) - value).argmin()]
        p = [float(row[name]) for name in NAMES]
        assert float(row["confidence"]) == max(p) and sum(p) == pytest.approx(1, abs=1e-5)
    about = json.loads((tmp_path / "ramp.json").read_text())
    assert about["minutes"] == pytest.approx(4 / 60, abs=1e-3)
    changes = [i for i in range(1, 20) if rows[i]["phase"] != rows[i - 1]["phase"]]
    ends = [0, *changes, 20]
    assert len(changes) == 2
    for name, one, first, end in zip(NAMES, about["segments"], ends[:-1], ends[1:], strict=True):
        assert (one["class"], one["start_ms"], one["end_ms"]) == (name, 200 * first, 200 * end)
        mean = np.mean([float(row["confidence"]) for row in rows[first:end]])
        assert one["confidence"] == pytest.approx(mean, abs=1e-4)
        assert about["classes"][name]["share"] == (end - first) / 20
        assert about["classes"][name]["minutes"] == round((end - first) / 300, 3)
    assert about["mean_confidence"] == pytest.approx(
        np.mean([float(row["confidence"]) for row in rows]), abs=1e-4
    )
    assert about["model"]["licence"] == "MIT" and "/" not in json.dumps(about)


def test_a_class_lasts_as_long_as_its_answers_do(tmp_path):
    """Frames from 0 to 1.9 s, then at 5 s and 10 s: an answer lasts until the next one."""
    pts = [*range(0, 2000, 100), 5000, 10_000]
    images = [np.full((48, 64, 3), 20 if t < 5000 else 218, np.uint8) for t in pts]
    path = write_video(tmp_path / "v.mp4", len(pts), width=64, height=48, images=images, pts=pts)
    predict.predict(bright(), {"v": path}, tmp_path, Sampling(2, 16, 10.0, 10.0))
    about = json.loads((tmp_path / "v.json").read_text())
    classes = {name: of["minutes"] for name, of in about["classes"].items()}
    spans = dict.fromkeys(NAMES, 0.0)
    for one in about["segments"]:
        spans[one["class"]] += (one["end_ms"] - one["start_ms"]) / 60_000
    assert spans[NAMES[0]] == pytest.approx(5 / 60) and classes == pytest.approx(spans, abs=1e-3)
    assert sum(classes.values()) == pytest.approx(about["minutes"], abs=2e-3)
    assert sum(of["share"] for of in about["classes"].values()) == pytest.approx(1, abs=2e-4)


def test_pictures_show_the_segments(tmp_path):
    t_ms = np.arange(0, 1_200_000, 60_000)
    p = np.full((20, 3), 0.1, np.float32)
    p[:12, 0], p[12:, 2] = 0.8, 0.7
    found = predict.Recognised(t_ms, p)
    ribbon, curve = predict.plot_recording("case $1", bright(), found).axes
    assert curve.get_xlabel() == "minutes" and curve.get_xlim() == (0, 20)
    (stripe,) = ribbon.collections
    spans = [path.get_extents() for path in stripe.get_paths()]
    assert [(span.x0, span.x1) for span in spans] == [(0, 12), (12, 20)]
    shades = [to_hex(shade).upper() for shade in stripe.get_facecolors()]
    assert shades == [pictures.colour(0), pictures.colour(2)]
    np.testing.assert_allclose(curve.lines[0].get_ydata(), [*p.max(1), p[-1].max()])
    several = bright(kind="multi_label")
    figure = predict.plot_recording("case", several, found)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert dict(zip(figure.axes[0].get_yticks(), labels, strict=True)) == {
        2.45: NAMES[0], 1.45: NAMES[1], 0.45: NAMES[2]
    }  # fmt: skip
    assert len(figure.axes[0].collections) == len(figure.axes[1].lines) == 3


def test_a_stop_keeps_what_is_finished(ramp, tmp_path, capsys):
    """Interrupted in the second of three; the rest comes later, to the bytes of one go."""
    videos = {name: ramp for name in "abc"}
    sampling = Sampling(2, 16, 5.0, 5.0)
    predict.predict(bright(), videos, tmp_path / "straight", sampling, batch_size=7)
    begun = []

    def begin(video):
        begun.append(len(video))
        if len(begun) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return bright().begin(video)

    with pytest.raises(Stopped) as caught:
        predict.predict(bright(begin=begin), videos, tmp_path / "out", sampling, batch_size=7)
    assert caught.value.code == REQUEUE
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"a"}
    capsys.readouterr()
    predict.predict(bright(), videos, tmp_path / "out", sampling, batch_size=7)
    assert "a: finished before" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert len(vectors.read(tmp_path / "out" / "features.parquet")) == 60
    with pytest.raises(UserError, match="was made with clips .*another --out"):
        predict.predict(bright(), videos, tmp_path / "out", replace(sampling, fps=2.0))


def test_files_that_cannot_be_read_are_left_out(ramp, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("good.mp4", "cut.mp4"):
        (folder / name).write_bytes(ramp.read_bytes())
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (folder / "notes.txt").write_text("no video")
    data = av.open(str(ramp)).streams.video[0].frames  # whole: 100
    assert data == 100
    os.truncate(folder / "cut.mp4", ramp.stat().st_size // 2)
    videos = predict.find_videos([folder])
    assert list(videos) == ["cut", "good", "noise"]
    with pytest.raises(UserError, match="2 of 3 recordings cannot be read: cut, noise; .*check"):
        predict.predict(bright(), videos, tmp_path / "out", Sampling(2, 16, 5.0))
    said = capsys.readouterr().out.splitlines()
    assert sum("cannot be read: " in line for line in said) == 2
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"good"}


def test_wrong_use_is_named(ramp, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "ramp.mkv"
    again.write_bytes(b"")
    for paths, message in (
        ([tmp_path / "none.mp4"], "does not exist"),
        ([empty], "holds no videos"),
        ([ramp, again], "overwrite others"),
    ):
        with pytest.raises(UserError, match=message):
            predict.find_videos(paths)
    for wrong in (dict(rate=0.0), dict(rate=5.0, fps=-1.0)):
        with pytest.raises(UserError, match="expected a number above 0"):
            Sampling(2, 16, **wrong)


def test_the_rate_of_a_run_is_that_of_its_stores(trained):
    model = open_recogniser(trained, task="phase")
    assert (model.rate, model.frames, model.size, model.anchor) == (12.5, 2, 32, "last")
    assert model.classes == ["Preparation", "Dissection", "Clipping", "Cleaning"]
