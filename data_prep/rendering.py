"""Draws the frames of a planned operation: tissue, instruments, highlights, smoke, camera.

Units are those of operation.py. Tissue is painted once on a canvas larger than the frame; a frame
is that canvas seen through the moving, breathing camera, with instruments drawn on top.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from data_prep.operation import PULL, Operation, smooth

# ---------------------------------------------------------------------------- tissue


def _noise(rng, height, width, cell, octaves=4, fall=0.5):
    """Fractal noise, mean 0, standard deviation 1; `cell` is the largest feature in pixels."""
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    for _ in range(octaves):
        rows, columns = int(height / cell) + 3, int(width / cell) + 3
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cell, weight = max(cell / 2, 1.5), weight * fall
    return (total - total.mean()) / total.std()


def _vessels(rng, image, colour, count, scale, where):
    """Branching thin lines over the part of `image` where `where` is true."""
    layer = np.zeros(image.shape[:2], np.uint8)
    height, width = layer.shape
    starts = np.argwhere(where)
    for _ in range(count if len(starts) else 0):
        y, x = starts[rng.integers(len(starts))]
        todo = [(float(x), float(y), rng.uniform(0, 2 * np.pi), scale * rng.uniform(0.02, 0.035))]
        while todo:
            x, y, angle, thick = todo.pop()
            points = [(x, y)]
            for _ in range(int(rng.integers(8, 16))):
                angle += rng.normal(0, 0.35)
                x, y = x + 0.03 * scale * np.cos(angle), y + 0.03 * scale * np.sin(angle)
                points.append((x, y))
            path = np.round(np.array(points) * 8).astype(np.int32)
            line = max(1, round(thick * 0.5))
            cv2.polylines(layer, [path], False, 255, line, cv2.LINE_AA, shift=3)
            if thick > 0.012 * scale:
                todo += [(x, y, angle + s * 0.6, thick * 0.6) for s in (-1, 1)]
    alpha = cv2.GaussianBlur(layer, (0, 0), 0.8)[..., None] / 255.0 * 0.6 * where[..., None]
    image += (np.array(colour, np.float32) - image) * alpha.astype(np.float32)


def _tissue(rng, height, width, scale):
    """Three states of one scene and its gloss: intact, gallbladder off its bed, covered in fluid.

    Returns three uint8 images (height, width, 4): red, green, blue, gloss. `scale` is the number of
    pixels in one unit of length.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x - width / 2) / scale, (y - height / 2) / scale
    warp, warp2 = (0.09 * _noise(rng, height, width, scale * 0.6, 2) for _ in range(2))
    turn = rng.uniform(0, 2 * np.pi)
    along = np.cos(turn) * x + np.sin(turn) * y
    fine = _noise(rng, height, width, scale * 0.05, 3)
    coarse = _noise(rng, height, width, scale * 0.8, 3, 0.3)
    swell = _noise(rng, height, width, scale * 0.7, 2, 0.3)

    def shade(colour, amount):
        base = np.array(colour, np.float32) * rng.uniform(0.7, 1.3, 3).astype(np.float32)
        return base * (1 + amount)[..., None]

    liver = shade((128, 44, 40), 0.14 * coarse + 0.02 * fine)
    # fat: cells around scattered points, bright in the middle and reddish at the seams
    seeds = np.full((height, width), 255, np.uint8)
    points = rng.integers(0, [height, width], (int(height * width / (0.011 * scale**2)), 2))
    seeds[points[:, 0], points[:, 1]] = 0
    cells = cv2.distanceTransform(seeds, cv2.DIST_L2, 5) / (0.1 * scale)
    moved = (
        np.float32(x * scale + width / 2 + 80 * warp),
        np.float32(y * scale + height / 2 + 80 * warp2),
    )
    cells = cv2.remap(cells, *moved, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    fat = shade((208, 150, 72), 0.10 * coarse + 0.01 * fine - 0.1 * np.clip(cells, 0, 1.2) ** 2)
    lining = shade((186, 108, 96), 0.10 * coarse + 0.01 * fine)
    _vessels(rng, lining, (150, 30, 40), 6, scale, np.ones((height, width), bool))
    _vessels(rng, fat, (150, 40, 30), 4, scale, np.ones((height, width), bool))

    image, height_map = liver, 0.6 * swell + 0.01 * fine
    split_a, split_b = rng.uniform(0.1, 0.3), rng.uniform(-0.75, -0.45)
    for edge, layer in (
        (along + 1.4 * warp - split_a, fat),
        (-(along + 1.2 * warp2) + split_b, lining),
    ):
        mask = np.clip(edge * scale / 3 + 0.5, 0, 1)[..., None]
        crease = 1 - 0.55 * np.exp(-((edge * 14) ** 2))
        image = (image * (1 - mask) + layer * mask) * crease[..., None]
        height_map = height_map + 1.2 * np.tanh(edge * 6)

    # the gallbladder: a pear across the border of liver and fat
    tilt = turn + rng.uniform(0.9, 2.2)
    u = np.cos(tilt) * x + np.sin(tilt) * y + 0.25 * warp2
    v = -np.sin(tilt) * x + np.cos(tilt) * y + 0.25 * warp
    long, short = rng.uniform(0.46, 0.6), rng.uniform(0.17, 0.23)
    radius = np.sqrt((u / long) ** 2 + (v / (short * (1 - 0.45 * u / long))) ** 2)
    body = np.clip((1 - radius) * scale * 0.08, 0, 1)
    dome = np.sqrt(np.clip(1 - radius**2, 0, 1))
    pear = shade((188, 164, 116), 0.25 * dome - 0.15 + 0.06 * coarse + 0.01 * fine)
    _vessels(rng, pear, (168, 60, 60), 6, scale, body > 0.5)
    shadow = 1 - 0.5 * np.exp(-(((radius - 1.03) * 7) ** 2))
    bed = image * shadow[..., None]
    intact = bed * (1 - body[..., None]) + pear * body[..., None]

    raw = shade((150, 52, 46), 0.12 * _noise(rng, height, width, scale * 0.4, 2) + 0.03 * fine)
    char = np.clip(_noise(rng, height, width, scale * 0.25, 2) - 0.9, 0, 1)[..., None]
    raw = raw * (1 - 0.6 * char)
    opened = bed * (1 - body[..., None]) + raw * body[..., None]

    flow = _noise(rng, height, width, scale * 0.4, 3)
    pool = np.clip((flow + 0.2) * 2.5, 0, 1)[..., None]
    blood = opened * np.array([0.95, 0.55, 0.55], np.float32) + [16, 0, 0]
    wet = opened * (1 - 0.75 * pool) + blood * 0.75 * pool
    gloss = _noise(rng, height, width, scale * 0.06, 2)

    height_map = height_map * (1 - 0.8 * body) + 2.5 * dome
    relief = cv2.GaussianBlur(np.float32(height_map), (0, 0), scale * 0.012)
    light = cv2.Sobel(relief, cv2.CV_32F, 1, 0) + cv2.Sobel(relief, cv2.CV_32F, 0, 1)
    light = np.clip(1 - 0.8 * light, 0.6, 1.4)[..., None]
    gloss = np.clip(128 + 42 * gloss, 0, 255)[..., None]
    return [
        np.concatenate([np.clip(image * light, 0, 255), gloss], axis=2).astype(np.uint8)
        for image in (intact, opened, wet)
    ]


# ---------------------------------------------------------------------------- instruments


def _fill(image, points, colour):
    """Fills a polygon of (x, y) in pixels with anti-aliased edges."""
    fixed = np.round(np.asarray(points) * 16).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, cv2.LINE_AA, shift=4)


def _bar(image, start, stop, wide, narrow, colour):
    """A bar from `start` to `stop`, `wide` at its start and `narrow` at its end."""
    direction = stop - start
    length = float(np.hypot(*direction))
    if length < 1e-3:
        return
    normal = np.array([-direction[1], direction[0]]) / length / 2
    corners = [start + normal * wide, stop + normal * narrow, stop - normal * narrow]
    _fill(image, [*corners, start - normal * wide], colour)


def _turned(direction, angle):
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array(
        [cosine * direction[0] - sine * direction[1], sine * direction[0] + cosine * direction[1]]
    )


def _draw_tool(image, tool, frame, scale, middle):
    """Draws one instrument; colours are RGB. `scale` pixels a unit, `middle` the frame's middle."""
    tip = tool.tip[frame] * scale + middle
    pivot = tool.pivot * scale + middle
    width = tool.width * scale
    along = tip - pivot
    along = along / max(float(np.hypot(*along)), 1e-3)
    side = np.array([-along[1], along[0]])
    end = _turned(along, tool.roll[frame])
    reach = (2.2, 1.9, 1.9)[tool.kind] * width
    wrist = tip - end * reach
    base = 255 * np.array(tool.colour)

    def metal(level):
        return tuple(float(c) for c in np.clip(base * level, 0, 255))

    steel = tuple(float(v) for v in (168, 170, 174))
    dull = tuple(float(v) for v in (112, 112, 116))
    bright = (226.0, 228.0, 232.0)
    _bar(image, pivot, wrist, width, width, metal(0.6))
    _bar(
        image,
        pivot - side * 0.08 * width,
        wrist - side * 0.08 * width,
        width * 0.7,
        width * 0.7,
        metal(1.0),
    )
    _bar(
        image,
        pivot - side * 0.2 * width,
        wrist - side * 0.2 * width,
        width * 0.22,
        width * 0.22,
        metal(1.9),
    )
    if tool.kind == 1:  # rings of the insulation
        for ring in range(12):
            at = wrist - along * width * (0.35 + 0.8 * ring)
            _bar(
                image, at, at - along * 0.36 * width, width, width, metal(1.9 if ring % 2 else 0.2)
            )
        neck = wrist + end * 0.75 * width
        _bar(image, wrist, neck, width * 0.8, width * 0.55, (190.0, 170.0, 140.0))
        bend = tip
        _bar(image, neck, bend, width * 0.26, width * 0.24, steel)
        turned = _turned(end, 1.45)
        _bar(
            image,
            bend - end * 0.12 * width,
            bend + turned * width * 0.95,
            width * 0.24,
            width * 0.16,
            bright,
        )
        return
    _bar(
        image, wrist - end * 0.3 * width, wrist + end * 0.5 * width, width * 0.95, width * 0.7, dull
    )
    hinge = wrist + end * 0.4 * width
    for sign in (-1, 1):
        jaw = _turned(end, sign * tool.jaw[frame])
        normal = np.array([-jaw[1], jaw[0]]) * sign
        root = hinge + normal * 0.1 * width
        if tool.kind == 0:  # long tapering jaws with a window
            point = root + jaw * 1.85 * width
            _bar(image, root, point, width * 0.42, width * 0.26, steel if sign > 0 else dull)
            _bar(
                image,
                root + jaw * 0.5 * width,
                root + jaw * 1.4 * width,
                width * 0.16,
                width * 0.1,
                (50.0, 40.0, 40.0),
            )
        else:  # short blunt jaws that hold a clip
            root = root + normal * 0.12 * width
            point = root + jaw * 1.5 * width
            _bar(image, root, point, width * 0.4, width * 0.46, dull if sign > 0 else steel)
            inner = root - normal * 0.2 * width
            _bar(
                image,
                inner + jaw * 0.6 * width,
                inner + jaw * 1.45 * width,
                width * 0.1,
                width * 0.1,
                bright,
            )


# ---------------------------------------------------------------------------- frames


def frames(
    rng: np.random.Generator, plan: Operation, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Yields the frames of an operation, uint8 (height, width, 3) RGB; `size`: width, height."""
    width, height = size
    scale = float(height)
    middle = np.array([width / 2, height / 2])
    states = _tissue(rng, round(height * 2.2), round(width * 2.0), scale)
    deep_y, deep_x = states[0].shape[:2]
    small_h, small_w = -(-height // 4), -(-width // 4)
    grid_y, grid_x = np.mgrid[:small_h, :small_w].astype(np.float32)
    # corners of the small grid fall on the pixels that cv2.resize samples
    grid_x, grid_y = (grid_x + 0.5) * width / small_w - 0.5, (grid_y + 0.5) * height / small_h - 0.5
    unit_x, unit_y = (grid_x - middle[0]) / scale, (grid_y - middle[1]) / scale
    sway_x = 0.6 + 0.5 * _noise(rng, small_h, small_w, small_h / 2, 2)
    sway_y = 0.6 + 0.5 * _noise(rng, small_h, small_w, small_h / 2, 2)
    ripple_x, ripple_y = (_noise(rng, small_h, small_w * 2, small_h / 8, 2) for _ in range(2))
    heading = rng.uniform(0, np.pi)
    crest_x = np.float32(2 * np.pi / 0.17 * np.cos(heading)) * unit_x + 0.5 * ripple_x[:, :small_w]
    crest_y = np.float32(2 * np.pi / 0.17 * np.sin(heading)) * unit_y
    pooled = np.clip(0.75 + 0.5 * _noise(rng, small_h, small_w, small_h / 1.5, 2), 0, 1)
    glass = np.clip(128 + 30 * _noise(rng, height, width, scale * 0.3, 3), 0, 255).astype(np.uint8)
    clouds = [_noise(rng, small_h * 2, small_w * 2, small_h / 2, 4) for _ in range(2)]
    grain = rng.normal(0, 1.5, (6, height, width, 3))
    lighter, darker = (
        np.clip(grain, 0, 20).astype(np.uint8),
        np.clip(-grain, 0, 20).astype(np.uint8),
    )
    lamp = rng.uniform(-0.15, 0.15, 2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x - middle[0]) / scale, (y - middle[1]) / scale
    fall = np.clip(1.15 - 1.0 * ((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2), 0.25, 1)
    fall = np.repeat((fall * 255).astype(np.uint8)[..., None], 3, axis=2)
    border = None
    if plan.field is not None:
        distance = np.hypot(x - plan.field[0], y - plan.field[1])
        border = np.clip((plan.field[2] - distance) * scale / 2 + 0.5, 0, 1)
        border = np.repeat((border * 255).astype(np.uint8)[..., None], 3, axis=2)
    gloss_table = np.clip((np.arange(256) - 186) * 9.0, 0, 235).astype(np.uint8)
    wet_table = np.clip((np.arange(256) - 176) * 9.0, 0, 245).astype(np.uint8)
    levels = np.arange(256, dtype=np.float32)
    clips = set(plan.clips)
    mixed, deep = None, states[0]
    pulling = smooth(PULL[plan.phase], 25)
    hospital_gamma = 1.0 if plan.field is not None else 0.88
    hospital_tint = (1.04, 0.97, 0.95) if plan.field is not None else (0.98, 1.02, 1.06)

    for frame in range(len(plan.phase)):
        cx, cy, angle, zoom = plan.camera[frame]
        cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
        dx, dy = unit_x, unit_y
        grasper = plan.tools[0]
        if grasper.visible[frame]:  # tissue follows closed jaws
            hold = np.float32(0.10 * pulling[frame] * (1 - grasper.jaw[frame] / 0.5))
            tip = grasper.tip[frame]
            near = np.exp(
                -((unit_x - tip[0]) ** 2 + (unit_y - tip[1]) ** 2) / 0.03, dtype=np.float32
            )
            back = grasper.pivot - tip
            back = back / np.hypot(*back)
            dx, dy = dx - hold * near * np.float32(back[0]), dy - hold * near * np.float32(back[1])
        wet = float(plan.wet[frame])
        washing = float(plan.washing[frame])
        if washing > 0.02:  # refraction by running water
            shift = int(frame * 0.4) % small_w
            dx = dx + np.float32(0.006 * washing) * ripple_x[:, shift : shift + small_w]
            dy = dy + np.float32(0.006 * washing) * ripple_y[:, shift : shift + small_w]
        breath = plan.breath[frame]
        map_x = (
            cosine * dx - sine * dy + (cx + breath[0] * sway_x + breath[1] * sway_y)
        ) * scale + deep_x / 2
        map_y = (
            sine * dx + cosine * dy + (cy + breath[0] * sway_y - breath[1] * sway_x)
        ) * scale + deep_y / 2
        map_x = cv2.resize(np.float32(map_x), (width, height))
        map_y = cv2.resize(np.float32(map_y), (width, height))

        mixture = (round(float(plan.opened[frame]) * 40), round(wet * 40))
        if mixture != mixed:  # the blend of the states changes slowly
            deep = cv2.addWeighted(states[1], mixture[0] / 40, states[0], 1 - mixture[0] / 40, 0)
            deep = cv2.addWeighted(states[2], mixture[1] / 40, deep, 1 - mixture[1] / 40, 0)
            mixed = mixture
        seen = cv2.remap(deep, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        image, shine = seen[..., :3], seen[..., 3]
        shine = cv2.addWeighted(shine, 0.5, glass, 0.5, 0)
        table = cv2.addWeighted(wet_table, wet, gloss_table, 1 - wet, 0).ravel()
        image = cv2.add(image, cv2.cvtColor(cv2.LUT(shine, table), cv2.COLOR_GRAY2RGB))
        if washing > 0.02:  # light and dark crests of running water, of mean 0
            crest = np.sin(crest_x + crest_y - 2 * np.pi * 0.8 * frame / 25, dtype=np.float32)
            crest = np.uint8(np.clip(128 + 90 * washing * pooled * crest, 0, 255))
            crest = cv2.cvtColor(cv2.resize(crest, (width, height)), cv2.COLOR_GRAY2RGB)
            image = cv2.multiply(image, crest, scale=1 / 128)

        shown = [t for t in plan.tools if np.hypot(*(t.tip[frame] - t.pivot)) > 0.02]
        if shown:
            shadow = np.full((small_h, small_w, 3), 255, np.uint8)
            for tool in shown:
                offset = np.array([0.05, 0.07]) * scale
                start = (tool.pivot * scale + middle + offset) / 4
                stop = (tool.tip[frame] * scale + middle + offset) / 4
                _bar(
                    shadow,
                    start,
                    stop,
                    tool.width * scale / 4,
                    tool.width * scale / 5,
                    (140.0,) * 3,
                )
            shadow = cv2.resize(cv2.blur(shadow, (5, 5)), (width, height))
            image = cv2.multiply(image, shadow, scale=1 / 255)
        for tool in shown:
            _draw_tool(image, tool, frame, scale, middle)
        image = cv2.multiply(image, fall, scale=1 / 255)

        smoke = float(plan.smoke[frame])
        if smoke > 0.02:
            a, b = (int(frame * v) % small_w for v in (0.35, 0.2))
            cloud = clouds[0][:small_h, a : a + small_w] + clouds[1][-small_h:, b : b + small_w]
            haze = np.clip((0.5 + 0.28 * cloud) * smoke * 255, 0, 235).astype(np.uint8)
            haze = cv2.cvtColor(cv2.resize(haze, (width, height)), cv2.COLOR_GRAY2RGB)
            image = cv2.add(
                cv2.multiply(image, cv2.bitwise_not(haze), scale=1 / 255),
                cv2.convertScaleAbs(haze, alpha=0.78),
            )
        tables = (
            255
            * np.clip(levels[:, None] / 255 * plan.exposure[frame] * hospital_tint, 0, 1)
            ** hospital_gamma
        )
        image = cv2.LUT(image, np.ascontiguousarray(np.clip(tables, 0, 255).astype(np.uint8)[None]))
        image = cv2.subtract(cv2.add(image, lighter[frame % 6]), darker[frame % 6])
        if border is not None:
            image = cv2.multiply(image, border, scale=1 / 255)
        if frame in clips:  # a clip stays on the tissue
            tip = plan.tools[2].tip[frame]
            x0 = cosine * tip[0] - sine * tip[1] + cx
            y0 = sine * tip[0] + cosine * tip[1] + cy
            spot = np.array([x0 * scale + deep_x / 2, y0 * scale + deep_y / 2])
            across = 0.05 * scale * _turned(np.array([1.0, 0.0]), frame)
            for state in states:
                for wide, grey in ((0.022, 88.0), (0.012, 222.0)):
                    wide = wide * scale
                    _bar(state, spot - across, spot + across, wide, wide, (grey,) * 3)
            mixed = None
        yield image
