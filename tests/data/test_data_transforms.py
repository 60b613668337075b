import cv2
import numpy as np
import pytest
from PIL import Image

from surgjax.data import transforms
from surgjax.data.transforms import Box, centre_crop, multi_scale_crop, resize, rng_of


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
