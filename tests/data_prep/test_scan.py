"""What a scan measures, against recordings of which it is known what they show."""

import functools
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import simplejpeg
import small_videos as make

from data_prep import names, out_of_body, scan
from data_prep.burnt_in import find_text, runs
from data_prep.keyframes import Samples, read_samples
from data_prep.media import Unreadable
from data_prep.operation import plan_operation
from data_prep.rendering import frames as render
from data_prep.video import Seen, kept_frames
from surgjax.errors import UserError

SIZE = (320, 192)
EVERY, MAX_GAP = 2.0, 4.0  # seconds, as `qc` has them


@functools.cache
def operation(seed: int, hospital: str = "full", count: int = 60) -> tuple[np.ndarray, ...]:
    """Frames of a rendered operation, five a second."""
    rng = np.random.default_rng(seed)
    plan = plan_operation(rng, count, 5.0, hospital, SIZE[0] / SIZE[1])
    return tuple(render(rng, plan, SIZE))


def samples_of(images, every: float = 1.0) -> Samples:
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(image), 95) for image in images]
    height, width = images[0].shape[:2]
    seconds = [i * every for i in range(len(images))]
    return Samples(width, height, len(images) * every, every, seconds, jpegs)


def written(image: np.ndarray, text: str, at: tuple[int, int], scale: float = 0.4) -> np.ndarray:
    image = image.copy()
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255,) * 3, 1, cv2.LINE_AA)
    return image


def scanned(images, every: float = 1.0) -> scan.Scan:
    return scan.scan(samples_of(images, every), out_of_body.tissue_colour)


# --- samples -----------------------------------------------------------------------------------

GOPS = {"short": "g=20", "endless": "g=100000", "open": "g=30"}


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("gop", GOPS)
def test_samples_have_the_times_and_pictures_of_full_decoding(tmp_path, kind, gop):
    options = dict(item.split("=") for item in GOPS[gop].split())
    options |= {"sc_threshold": "0", "x264-params": f"open-gop={int(gop == 'open')}"}
    path = make.write_video(tmp_path / f"a.{kind}", 400, rate=5, options=options)
    found = read_samples(path, EVERY, MAX_GAP)
    compare_with_full_decoding(found, path)
    assert found.length == pytest.approx(80, abs=0.01)
    gaps = np.diff([*found.seconds, found.length])
    assert gaps.max() <= MAX_GAP + 0.2 and gaps[:-1].min() >= 2 - 0.001 and gaps[-1] <= 2.2
    if gop == "short" and kind in ("mp4", "mkv"):  # key frames, and the end
        assert found.seconds == [*(4.0 * i for i in range(20)), 78.0]
    if gop == "open" and kind != "avi":
        assert read_samples(path, EVERY, 10.0).seconds == [6.0 * i for i in range(14)]
    if gop == "endless":
        assert len(found) == 40


def compare_with_full_decoding(found: Samples, path: Path) -> None:
    every = kept_frames(path, fps=None, short_side=240, seen=Seen())
    truth = {frame.t_ms: frame.image.astype(int) for frame in every}
    for i, seconds in enumerate(found.seconds):
        # A frame later is 3 grey values brighter.
        assert np.abs(truth[round(1000 * seconds)] - found[i]).mean() < 1.4, seconds
    assert found.seconds[0] == 0


@pytest.mark.parametrize("max_gap", [MAX_GAP, 10.0])
def test_the_start_of_a_recording_cut_at_no_key_frame_is_sampled(tmp_path, max_gap):
    options = {"g": "40", "keyint_min": "40", "sc_threshold": "0", "bf": "0"}
    whole = make.write_video(tmp_path / "whole.mp4", 400, rate=5, options=options)
    path = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:  # 3 s before the first frame shown, at 5 s the first key
                packet.pts -= round(3 / packet.time_base)
                packet.dts -= round(3 / packet.time_base)
                packet.stream = copy
                target.mux(packet)
    found = read_samples(path, EVERY, max_gap)
    compare_with_full_decoding(found, path)
    assert 5.0 in found.seconds and found.length == pytest.approx(77, abs=0.01)
    assert np.diff([*found.seconds, found.length]).max() <= max(max_gap, 4)


@pytest.mark.parametrize("max_gap", [MAX_GAP, 10.0])
def test_the_end_after_the_last_key_frame_is_sampled(tmp_path, max_gap):
    options = {"g": "40", "keyint_min": "40", "sc_threshold": "0"}
    path = make.write_video(tmp_path / "a.mp4", 474, rate=5, options=options)
    found = read_samples(path, EVERY, max_gap)
    assert found.seconds[-4:] == [88, 90, 92, 94]
    assert ([8 * i for i in range(12)] == found.seconds[:-3]) == (max_gap == 10)
    compare_with_full_decoding(found, path)


def test_short_recordings_have_enough_samples_and_times_that_jump_are_followed(tmp_path):
    short = make.write_video(tmp_path / "a.mp4", 100)
    assert len(read_samples(short, EVERY, MAX_GAP)) == 16
    pts = [200 * i + 30_000 * (i >= 100) for i in range(400)]
    found = read_samples(make.write_video(tmp_path / "b.mkv", 400, pts=pts), EVERY, MAX_GAP)
    assert found.length == pytest.approx(110, abs=0.3) and set(np.diff(found.seconds)) > {2.0}
    assert max(np.diff(found.seconds)) >= 30


def test_samples_of_rotated_and_wide_pixels_are_upright(tmp_path):
    path = make.write_video(tmp_path / "a.mp4", 50, rotation=90)
    found = read_samples(path, EVERY, MAX_GAP)
    assert (found.width, found.height) == (64, 96) and found[0].shape == (96, 64, 3)


def test_samples_of_a_folder_of_frames(tmp_path):
    folder = make.write_images(tmp_path / "f", [i for i in range(1, 121) if not 40 <= i < 60])
    found = read_samples(folder, EVERY, MAX_GAP, frames_fps=1.0)
    assert found.length == 120 and found.seconds[:3] == [0, 2, 4] and 38 in found.seconds
    assert not any(39 <= seconds < 59 for seconds in found.seconds)
    with pytest.raises(Unreadable, match="no frames"):
        read_samples(tmp_path, EVERY, MAX_GAP, frames_fps=1.0)


def test_what_is_no_recording_is_unreadable(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    (tmp_path / "b.mp4").write_bytes(b"#EXTM3U\nhttp://example.com/a.ts")
    with pytest.raises(Unreadable, match="not readable"):
        read_samples(tmp_path / "a.mp4", EVERY, MAX_GAP)
    with pytest.raises(Unreadable, match="refused"):
        read_samples(tmp_path / "b.mp4", EVERY, MAX_GAP)


def test_a_span_from_the_first_sample_on_begins_with_the_recording():
    samples = samples_of([np.zeros((60, 80, 3), np.uint8)] * 5)
    samples.seconds = [1.5, 2, 3, 4, 5]  # the first pictures of the folder do not decode
    samples.length = 6.0
    found = scan.scan(samples, out_of_body.tissue_colour)
    assert [(span.start, span.end) for span in found.spans] == [(0, 6)]
    assert found.shares["black"] == 1


# --- quality -----------------------------------------------------------------------------------


def test_black_frozen_and_blurred_parts_are_found_where_they_are():
    images = [
        cv2.addWeighted(i, 1, cv2.GaussianBlur(i, (0, 0), 1), 0, 0) for i in operation(1)[:40]
    ]
    noise = np.random.default_rng(0).normal(0, 6, (40, *images[0].shape))
    images = [np.clip(i + n, 0, 255).astype(np.uint8) for i, n in zip(images, noise, strict=True)]
    images[5:9] = [np.zeros_like(images[0])] * 4
    images[15:22] = [images[15]] * 7
    images[25:28] = [images[25]] * 3  # two seconds are no stop of the recorder
    images[30:36] = [cv2.GaussianBlur(image, (0, 0), 5) for image in images[30:36]]
    found = scanned(images)
    expected = {"black": (5, 9), "frozen": (15, 22), "blurred": (30, 36)}
    for flag, (start, end) in expected.items():
        assert runs(found.flagged[flag]) == [(start, end)], flag
        assert found.shares[flag] == pytest.approx((end - start) / 40)
    spans = {span.flag: (span.start, span.end) for span in found.spans}
    assert spans == {flag: (float(a), float(b)) for flag, (a, b) in expected.items()}


@pytest.mark.parametrize("hospital", ["round", "full"])
@pytest.mark.parametrize("seed", range(3))
def test_a_plain_operation_has_no_flag(seed, hospital):
    found = scanned(operation(seed, hospital), 0.6)
    assert {flag: share for flag, share in found.shares.items() if share} == {}
    assert found.texts == []


def test_runs_without_change_count_from_four_seconds_on():
    rng = np.random.default_rng(0)
    for _ in range(50):
        seconds = np.cumsum(rng.uniform(0.5, 3, 30))
        same = rng.random(30) < 0.7
        same[0] = False
        expected = np.zeros(30, bool)
        for a in range(30):
            for b in range(a + 1, 30):
                if same[a + 1 : b + 1].all() and seconds[b] - seconds[a] >= scan.FROZEN_SECONDS:
                    expected[a : b + 1] = True
        assert (scan.frozen(same, seconds) == expected).all()


def test_cuts_are_where_the_scene_changes():
    other = [image[:, :, ::-1] for image in operation(1)[:20]]  # blue instead of red
    found = scanned([*operation(1)[:20], *other, *operation(1)[20:30]], 0.6)
    assert found.cuts == [20, 40]


def test_picture_box():
    bright = np.zeros((240, 426), np.uint8)
    bright[30:210] = 90  # 1920x1080 with bars of 135 lines
    x0, y0, x1, y1 = scan.picture_box(bright, 1920, 1080)
    assert (x0, x1) == (0, 1) and [y0 * 1080, y1 * 1080] == pytest.approx([134, 946])
    bright[5, 5:9] = 255  # a few bright pixels are no picture
    assert scan.picture_box(bright, 1920, 1080)[1] == y0
    round_view = cv2.circle(np.zeros((240, 426), np.uint8), (213, 120), 130, 90, -1)
    x0, y0, x1, y1 = scan.picture_box(round_view, 426, 240)
    assert (y0, y1) == (0, 1) and [x0 * 426, x1 * 426] == pytest.approx([84, 344], abs=4)
    small = np.zeros((240, 426), np.uint8)
    small[60:180, 100:300] = 90
    for much_black in (small, np.zeros_like(small)):
        assert scan.picture_box(much_black, 426, 240) == (0, 0, 1, 1)


# --- text --------------------------------------------------------------------------------------


def texts(images, every: float = 1.0):
    found = samples_of(images, every)
    return find_text(found.seconds, found.grey)


def overlap(text, box, size=SIZE) -> float:
    """Share of a box in pixels that a found one covers."""
    width = min(text.x1 * size[0], box[2]) - max(text.x0 * size[0], box[0])
    height = min(text.y1 * size[1], box[3]) - max(text.y0 * size[1], box[1])
    return max(0, width) * max(0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


@pytest.mark.parametrize("hospital", ["round", "full"])
def test_text_that_stays_is_found_where_and_when_it_is(hospital):
    images = list(operation(2, hospital))[:40]
    images[10:30] = [written(i, "DOE JOHN 12.03.61", (20, 30)) for i in images[10:30]]
    (width, height), _ = cv2.getTextSize("DOE JOHN 12.03.61", cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    found = texts(images)
    assert sum(overlap(t, (20, 30 - height, 20 + width, 30)) for t in found) > 0.7
    assert all((t.start, t.end) == (10, 29) for t in found)
    assert all(t.y1 * 192 < 36 and t.x1 * 320 < 30 + width for t in found)
    flagged = scanned(images).flagged["text"]
    assert runs(flagged) == [(9, 31)]  # a sample more on both sides
    wide = scanned(images).texts  # what covers the text covers all of it
    assert all((box.start, box.end) == (9, 31) for box in wide)
    assert sum(overlap(t, (20, 30 - height, 20 + width, 31)) for t in wide) >= 1


def test_a_clock_that_runs_and_a_title_card_are_text():
    images = [
        written(image, f"2021-03-05 10:{i:02d}:{i % 60:02d}", (10, 185))
        for i, image in enumerate(operation(3)[:30])
    ]
    clock = texts(images)
    assert clock and min(t.start for t in clock) == 0 and max(t.end for t in clock) == 29
    card = written(np.full((192, 320, 3), 20, np.uint8), "Patient Jane Roe", (40, 90), 0.8)
    shown = texts([*operation(3)[:10], card, *operation(3)[10:20]])
    assert {(t.start, t.end) for t in shown} == {(10, 10)}


def test_text_on_something_that_moves_and_still_edges_are_no_text():
    images = operation(2)[:30]
    moving = [
        written(image, "MAKER 5 mm", (20 + 6 * i, 60 + 2 * i)) for i, image in enumerate(images)
    ]
    assert texts(moving) == []
    lines = [image.copy() for image in images]
    for image in lines:  # an instrument at rest, a frame
        cv2.line(image, (0, 190), (150, 100), (200, 200, 205), 8, cv2.LINE_AA)
        cv2.rectangle(image, (30, 20), (290, 170), (255, 255, 255), 1)
    assert texts(lines) == []


@pytest.mark.parametrize("key_distance", [2, 4, 8])  # seconds
def test_text_shown_for_three_times_the_greatest_distance_of_samples_is_found(
    tmp_path, key_distance
):
    shown = range(85, 147)  # 12.4 seconds, of a rate of 5
    images = [operation(2)[i % 60] for i in range(310)]
    for i in shown:
        images[i] = written(images[i], "DOE JOHN", (20, 60), 0.8)
    options = {"g": str(5 * key_distance), "keyint_min": "5", "sc_threshold": "0", "crf": "20"}
    path = make.write_video(
        tmp_path / "a.mp4", 310, width=320, height=192, rate=5, images=images, options=options
    )
    found = scan.scan(read_samples(path, EVERY, MAX_GAP), None)
    (span,) = [span for span in found.spans if span.flag == "text"]
    assert span.start <= 17 and 29.4 <= span.end <= 44


# --- out of the body ---------------------------------------------------------------------------


def plain(*colour: int) -> np.ndarray:
    return np.full((60, 80, 3), colour, np.uint8)


def test_colour_of_tissue():
    frames = [plain(150, 50, 45), plain(210, 160, 90), plain(40, 120, 80), plain(130, 130, 130)]
    frames += [plain(0, 0, 0), plain(150, 50, 45)]
    frames[-1][:, 40:] = 0  # a border
    score = out_of_body.tissue_colour(np.stack(frames))
    assert score.dtype == np.float32 and score.tolist() == [0, 0, 1, 1, 0, 0]
    for share in (0.1, 0.2, 0.3):
        frame = plain(40, 120, 80)
        frame[: round(60 * share)] = (150, 50, 45)
        expected = 1 - share / out_of_body.USUAL_SHARE
        assert out_of_body.tissue_colour(frame[None])[0] == pytest.approx(expected, abs=0.03)


def test_outside_is_flagged_with_a_sample_on_both_sides():
    blue = [image[:, :, ::-1] for image in operation(1)[:20]]
    images = [*operation(1)[:12], *blue[:6], *operation(1)[12:20], blue[8], *operation(1)[20:30]]
    found = scanned(images, 2.0)
    assert runs(found.flagged["out_of_body"]) == [(11, 19)]  # one odd sample alone is noise
    (span,) = [span for span in found.spans if span.flag == "out_of_body"]
    assert (span.start, span.end) == (22, 38) and span.score > 0.9
    assert found.shares["out_of_body"] == pytest.approx(8 / 37)


def test_hysteresis_keeps_what_is_likely_beside_what_is_sure():
    low, maybe, sure = 0.1, 0.4, 0.8
    scores = [low, maybe, maybe, low, low, maybe, sure, sure, maybe, maybe, low, low]
    assert runs(judged(scores)) == [(5, 10)]
    assert judged([sure]).tolist() == [True] and judged([sure, low]).tolist() == [True, False]
    assert judged([]).tolist() == []


def judged(scores: list[float]) -> np.ndarray:
    return out_of_body.outside(np.array(scores), EVERY * np.arange(len(scores)), EVERY)


def test_one_sample_counts_where_samples_are_far_apart():
    scores, seconds = np.array([0, 0, 1, 0, 0, 1, 0.0]), np.array([0, 4, 8, 12, 14, 16, 18.0])
    assert np.flatnonzero(out_of_body.outside(scores, seconds, EVERY)).tolist() == [2]


def test_no_look_outside_that_is_longer_than_the_samples_are_apart_is_missed():
    rng = np.random.default_rng(0)
    for every, max_gap in ((2.0, 4.0), (2.0, 10.0), (1.0, 2.0), (5.0, 10.0)):
        for _ in range(200):
            seconds = np.cumsum(np.r_[0, rng.choice([every, rng.uniform(every, max_gap)], 60)])
            start = rng.uniform(0, seconds[-1] - 2 * max_gap)
            end = start + 1.06 * max(2 * every, max_gap)  # frames come a little late
            scores = ((start <= seconds) & (seconds < end)).astype(float)
            flagged = scan.widened(out_of_body.outside(scores, seconds, every))
            ends = np.append(seconds[1:], np.inf)
            covered = [(seconds[a], ends[b - 1]) for a, b in runs(flagged)]
            assert any(a <= start and end <= b for a, b in covered), (every, max_gap, start)


def test_a_scorer_is_named_and_its_scores_are_checked():
    assert out_of_body.load("none") is None
    assert out_of_body.load(out_of_body.DEFAULT) is out_of_body.tissue_colour
    for name in ("nothing_here:f", "data_prep.out_of_body:f", "data_prep", "data_prep.scan:CUT"):
        with pytest.raises(UserError, match="--out-of-body"):
            out_of_body.load(name)
    frames = [plain(i, 0, 0) for i in range(70)]
    scores = out_of_body.score(lambda batch: batch[:, 0, 0, 0] / 100, iter(frames))
    assert scores.tolist() == pytest.approx([i / 100 for i in range(70)])
    for wrong in (
        lambda b: np.zeros(3),
        lambda b: b[:, 0, 0, 0] + 2.0,
        lambda b: np.nan * b[:, 0, 0, 0],
    ):
        with pytest.raises(UserError, match="with values from 0 to 1"):
            out_of_body.score(wrong, iter(frames))
    with pytest.raises(UserError, match=r"function .*lambda> failed for \(32, 60.*KeyError: 'red'"):
        out_of_body.score(lambda b: {}["red"], iter(frames))


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    "a_2021-03-05 20210305_a a.05.03.2021 x5_3_21 3-12-2019 05032021 5-Mar-2021 2021Mar05".split(),
)
def test_dates_in_names(name):
    assert names.in_name(name) == ["date in the name"]


def test_record_numbers_in_names_and_plain_names():
    assert names.in_name("a/881234 5") == ["number of 6 digits in the name"]
    assert names.in_name("OP 20210305 1234567") == [
        "date in the name",
        "number of 7 digits in the name",
    ]
    for plain_name in (
        "video01",
        "Hei-Chole24",
        "case_12345",
        "S1_T2_P3",
        "20991399"[:5],
        "a-1080p",
    ):
        assert names.in_name(plain_name) == []


def test_tags_are_named_without_their_values(tmp_path):
    tags = {"title": "Jane Roe", "creation_time": "2021-03-05T10:00:00Z", "comment": "room 4"}
    path = make.write_video(tmp_path / "a.mp4", 5, metadata=tags)
    found = names.in_tags(path)
    assert {"tag title", "tag comment"} <= set(found) and "Jane" not in " ".join(found)
    assert names.in_tags(make.write_video(tmp_path / "b.mp4", 5)) == []
