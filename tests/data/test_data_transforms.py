from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image

from surgjax.data import rand_augment, transforms
from surgjax.data.transforms import Box, centre_crop, multi_scale_crop, resize, rng_of
from surgjax.errors import UserError


def reference_boxes(height, width, size):
    """All crops of VideoMAE's GroupMultiScaleCrop, written out from its description."""
    base = min(height, width)
    sides = []
    for scale in (1, 0.875, 0.75, 0.66):
        side = int(base * scale)
        sides.append(size if size - 3 < side < size + 3 else side)
    boxes = {}
    for i in range(4):
        for j in range(max(0, i - 1), min(4, i + 2)):
            h, w = sides[i], sides[j]
            y, x = (height - h) // 4, (width - w) // 4
            places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2)]
            places += [(1, 1), (1, 3), (3, 1), (3, 3)]
            for down, right in places:
                box = Box(y * down, x * right, h, w)
                boxes[box] = boxes.get(box, 0) + 1
    return boxes


@pytest.mark.parametrize("height, width", [(320, 568), (320, 320), (256, 340), (300, 225)])
def test_multi_scale_crop_draws_the_reference_boxes_uniformly(height, width):
    expected = reference_boxes(height, width, 224)
    assert sum(expected.values()) == 130  # 10 pairs of sides, 13 places
    draws = 13_000
    counts = dict.fromkeys(expected, 0)
    rng = rng_of(5)
    for _ in range(draws):
        counts[multi_scale_crop(height, width, 224, rng)] += 1
    observed = np.array(list(counts.values()))
    chances = np.array(list(expected.values())) / 130 * draws
    chi = ((observed - chances) ** 2 / chances).sum()
    assert chi < len(expected) + 5 * np.sqrt(2 * len(expected))
    for box in counts:
        assert 0 <= box.y <= height - box.height and 0 <= box.x <= width - box.width


def test_sides_within_two_pixels_become_the_size():
    sides = {b.height for b in (multi_scale_crop(258, 400, 224, rng_of(i)) for i in range(200))}
    assert 224 in sides and int(258 * 0.875) == 225 and 225 not in sides
    small = {b.height for b in (multi_scale_crop(223, 400, 224, rng_of(i)) for i in range(200))}
    assert max(small) == 223  # never beyond the frame


@pytest.mark.parametrize("height, width", [(1, 1), (3, 200), (17, 5)])
def test_tiny_frames_still_give_a_box(height, width):
    for seed in range(50):
        box = multi_scale_crop(height, width, 224, rng_of(seed))
        assert 1 <= box.height <= height and 1 <= box.width <= width


def test_a_crop_seed_decides_the_crop():
    big = np.uint64(2**64 - 1)
    first = [multi_scale_crop(320, 568, 224, rng_of(big)) for _ in range(2)]
    assert first[0] == first[1]
    assert len({multi_scale_crop(320, 568, 224, rng_of(s)) for s in range(50)}) > 20


def test_centre_crop_is_short_side_to_size_then_centre():
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 256, (96, 170, 3), dtype=np.uint8), (9, 9), 3)
    out = np.empty((48, 48, 3), np.uint8)
    resize(frame, centre_crop(96, 170), out)
    whole = cv2.resize(frame, (85, 48), interpolation=cv2.INTER_LINEAR)
    off = np.abs(whole[:, 18:66].astype(int) - out).mean()
    assert off < 3 and centre_crop(96, 170) == Box(0, 37, 96, 96)


def test_a_crop_of_the_right_size_is_copied_and_others_are_bilinear():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    out = np.empty((32, 32, 3), np.uint8)
    resize(frame, Box(3, 40, 32, 32), out)
    np.testing.assert_array_equal(out, frame[3:35, 40:72])
    resize(frame, Box(1, 2, 48, 40), out)
    y = (np.arange(32) + 0.5) * 48 / 32 - 0.5 + 1
    x = (np.arange(32) + 0.5) * 40 / 32 - 0.5 + 2
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    v, u = (y - y0)[:, None, None], (x - x0)[None, :, None]
    at = frame.astype(float)
    expected = (1 - v) * ((1 - u) * at[y0][:, x0] + u * at[y0][:, x0 + 1])
    expected += v * ((1 - u) * at[y0 + 1][:, x0] + u * at[y0 + 1][:, x0 + 1])
    assert np.abs(out - expected).max() <= 1


@pytest.mark.parametrize("side, decibel", [(320, 38), (280, 42), (240, 46), (211, 46)])
def test_the_resize_is_near_pillows_antialiased_one(corpus_frame, side, decibel):
    out = np.empty((224, 224, 3), np.uint8)
    resize(corpus_frame, Box(0, 40, side, side), out)
    crop = Image.fromarray(corpus_frame[:side, 40 : 40 + side])
    pillow = np.asarray(crop.resize((224, 224), Image.Resampling.BILINEAR), np.float64)
    assert 10 * np.log10(255**2 / np.mean((out - pillow) ** 2)) > decibel


@pytest.fixture(scope="module")
def corpus_frame():
    """Band-limited texture with edges, as smooth as a frame scaled down to 320 by area."""
    rng = np.random.default_rng(0)
    large = np.zeros((960, 1704, 3), np.float32)
    for scale in (4, 16, 64):
        noise = rng.normal(size=(960 // scale + 1, 1704 // scale + 1, 3)).astype(np.float32)
        large += cv2.resize(noise, (1704, 960), interpolation=cv2.INTER_CUBIC) * scale**0.7
    large[300:500, 200:1500] += 30
    large = 110 + 4 * large
    small = cv2.resize(large, (568, 320), interpolation=cv2.INTER_AREA)
    return np.clip(small, 0, 255).astype(np.uint8)


def test_cv2_stays_on_the_calling_thread():
    assert transforms.cv2.getNumThreads() <= 1


def test_resized_crop_has_the_areas_and_aspects_asked_for():
    rng = rng_of(1)
    crop = partial(transforms.resized_crop, area=(0.08, 0.4), aspect=(3 / 4, 4 / 3), rng=rng)
    boxes = [crop(320, 568) for _ in range(4000)]
    area = np.array([b.height * b.width / (320 * 568) for b in boxes])
    aspect = np.array([b.width / b.height for b in boxes])
    assert 0.079 < area.min() < 0.09 and 0.39 < area.max() < 0.402
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    # Aspects are as often below one as above, which a uniform draw is not.
    assert abs((aspect < 1).mean() - 0.5) < 0.03
    for b in boxes:
        assert 0 <= b.y <= 320 - b.height and 0 <= b.x <= 568 - b.width
    # Nothing fits: the largest centred box of the nearest aspect.
    assert transforms.resized_crop(10, 100, (1.0, 1.0), (3 / 4, 4 / 3), rng) == Box(0, 43, 10, 13)


def test_side_crops_cover_the_long_side():
    boxes = [transforms.side_crop(200, 300, i) for i in range(3)]
    assert [(b.y, b.x, b.height, b.width) for b in boxes] == [
        (0, 0, 200, 200),
        (0, 50, 200, 200),
        (0, 100, 200, 200),
    ]


def test_the_whole_frame_is_squeezed():
    drawn = transforms.draw(transforms.Augmentation("whole"), 200, 300, 32, 0)
    assert drawn == transforms.Drawn(Box(0, 0, 200, 300), False, ())


def test_a_clip_is_augmented_alike_in_all_its_frames():
    augment = transforms.Augmentation("resized", flip=1.0, rand_augment="m9-n4")
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    seeds = [s for s in range(20) if transforms.draw(augment, 48, 64, 32, s).operations]
    first, second = np.empty((2, 32, 32, 3), np.uint8)
    drawn = transforms.draw(augment, 48, 64, 32, seeds[0])
    drawn.write(frame, first)
    transforms.draw(augment, 48, 64, 32, seeds[0]).write(frame, second)
    np.testing.assert_array_equal(first, second)
    plain = transforms.Drawn(drawn.box, False, ())
    plain.write(frame, second)
    flipped = transforms.Drawn(drawn.box, True, ())
    flipped.write(frame, first)
    np.testing.assert_array_equal(first, second[:, ::-1])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(crop="center"), "data.crop is 'center'; choose one of"),
        (dict(area=(0.5, 1.5)), "data.crop_area is 0.5 to 1.5"),
        (dict(aspect=(2.0, 1.0)), "data.crop_aspect is 2 to 1"),
        (dict(flip=2.0), "data.flip is 2.0"),
        (dict(rand_augment="7"), "as in 'm7-n4'"),
    ],
)
def test_bad_augmentations_are_named(change, message):
    with pytest.raises(UserError, match=message):
        transforms.Augmentation(**change)


def test_strengths_of_the_operations():
    """Half of the draws are applied; strengths lie around the magnitude, in both directions."""
    rng = np.random.default_rng(0)
    drawn = [rand_augment.draw(7, 4, rng) for _ in range(2000)]
    strengths = np.array([level for operations in drawn for _, level in operations])
    assert abs(len(strengths) / 8000 - 0.5) < 0.02
    assert abs(np.abs(strengths).mean() - 0.7) < 0.01 and 0.03 < np.abs(strengths).std() < 0.07
    assert abs((strengths > 0).mean() - 0.5) < 0.03
    names = [name for operations in drawn for name, _ in operations]
    assert {n: names.count(n) > 150 for n in rand_augment.OPERATIONS} == dict.fromkeys(
        rand_augment.OPERATIONS, True
    )


def test_operations_do_what_their_names_say():
    """Values worked out by hand on a grey ramp, places on a single bright pixel."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    only = lambda name, level: rand_augment.apply(ramp, ((name, level),))[:, 0, 0]  # noqa: E731
    values = np.arange(256)
    np.testing.assert_array_equal(only("invert", 1.0), 255 - values)
    np.testing.assert_array_equal(
        only("solarize", 0.5), np.where(values < 128, values, 255 - values)
    )
    np.testing.assert_array_equal(only("posterize", 0.5), values // 64 * 64)
    np.testing.assert_array_equal(
        only("solarize_add", 0.5), np.where(values < 128, values + 55, values)
    )
    np.testing.assert_allclose(only("brightness", -0.5), values * 0.55, atol=1)

    dot = np.zeros((21, 21, 3), np.uint8)
    dot[10, 15] = 255
    moved = rand_augment.apply(dot, (("translate_x", 0.5),))
    places = np.argwhere(moved[..., 0] > 150)
    assert [10, 10] in places.tolist()  # 0.225 of 21 pixels to the left
    dot[9:12, 14:17] = 255
    turned = rand_augment.apply(dot, (("rotate", 1.0),))  # 30 degrees counter-clockwise
    y, x = np.argwhere(turned[..., 0] > 200).mean(axis=0) - 10
    assert np.hypot(y, x) == pytest.approx(5, abs=0.8)
    assert np.degrees(np.arctan2(-y, x)) == pytest.approx(30, abs=8)
