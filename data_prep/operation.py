"""Decides what happens in one rendered operation: phases, instruments, camera, smoke, fluid.

Everything is an array over the frames; rendering.py draws it. Positions are in units of the frame's
height, origin in the middle of the frame, x to the right, y down. Everything random comes from the
generator that is passed in.
"""

from dataclasses import dataclass

import numpy as np

PHASES = ("Preparation", "Dissection", "Clipping", "Cleaning")
INSTRUMENTS = ("Grasper", "Hook", "Clipper")
HOSPITALS = ("round", "full")  # a circular field with a dark border; the whole frame

# Operations do not all run in the same order; every order visits every phase.
ORDERS = (
    (0, 1, 2, 3),
    (0, 1, 2, 1, 3),
    (0, 2, 1, 3),
    (0, 1, 3, 2, 3),
    (0, 1, 2, 3, 1),
    (1, 0, 2, 3),
)
# Share of a phase in which an instrument is in view: rows phases, columns instruments.
DUTY = np.array([[0.6, 0.0, 0.0], [0.6, 0.95, 0.0], [0.6, 0.0, 0.95], [0.6, 0.05, 0.0]])
# A clip applier needs a port of twice the width of the others.
WIDTH = ((0.105, 0.125), (0.105, 0.125), (0.17, 0.2))
ZOOM = np.array([0.95, 1.1, 1.2, 1.0])  # overlapping once a video's own zoom is added
PAN = np.array([0.16, 0.05, 0.03, 0.10])
PULL = np.array([0.3, 1.0, 0.7, 0.2])  # how hard the grasper pulls on the tissue


@dataclass(frozen=True)
class Tool:
    """One instrument over time; arrays have one entry a frame."""

    kind: int
    pivot: np.ndarray  # (2,) where the shaft enters, outside the frame
    tip: np.ndarray  # (frames, 2)
    jaw: np.ndarray  # (frames,) half opening angle, radians
    roll: np.ndarray  # (frames,) bend of the end against the shaft, radians
    visible: np.ndarray  # (frames,) bool: the tip is in the field of view
    width: float  # of the shaft
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Operation:
    """What happens in one video; arrays have one entry a frame."""

    phase: np.ndarray  # int, index into PHASES
    camera: np.ndarray  # (frames, 4): centre x, centre y, angle, zoom
    exposure: np.ndarray  # (frames, 3) gain by colour channel
    smoke: np.ndarray  # density 0..1
    opened: np.ndarray  # how far the gallbladder has left its bed, 0..1
    wet: np.ndarray  # blood and fluid on the tissue, 0..1
    washing: np.ndarray  # running water, 0..1
    breath: np.ndarray  # (frames, 2) tissue displacement
    tools: tuple[Tool, ...]
    clips: tuple[int, ...]  # frames at which a clip is set
    field: tuple[float, float, float] | None  # circular field of view: x, y, radius


def _wander(rng, seconds, amplitude, slowest=0.05, fastest=0.5, waves=4):
    """A smooth random path around 0: a sum of sines with random frequencies and phases."""
    rates = np.exp(rng.uniform(np.log(slowest), np.log(fastest), waves))
    shifts = rng.uniform(0, 2 * np.pi, waves)
    path = np.sin(2 * np.pi * rates * seconds[:, None] + shifts).sum(1)
    return amplitude * path / np.sqrt(waves / 2)


def smooth(values, frames):
    """Running mean over `frames` along the first axis; the ends are held."""
    frames = max(1, int(frames) | 1)
    padded = np.pad(values, [(frames // 2,) * 2] + [(0, 0)] * (values.ndim - 1), mode="edge")
    sums = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), axis=0)
    return (sums[frames:] - sums[:-frames]) / frames


def _phases(rng, frames):
    order = ORDERS[rng.integers(len(ORDERS))]
    shares = 0.4 / len(order) + 0.6 * rng.dirichlet(np.full(len(order), 3.0))
    ends = np.round(np.cumsum(shares) * frames).astype(int)
    ends[-1] = frames
    starts = np.concatenate([[0], ends[:-1]])
    return [(phase, int(a), int(b)) for phase, a, b in zip(order, starts, ends, strict=True)]


def _visits(rng, segments, kind, fps):
    """Frame intervals in which the instrument is in use."""
    visits = []
    for phase, start, end in segments:
        duty = DUTY[phase, kind]
        at = start + rng.uniform(0, 0.5) * fps
        while duty > 0 and at < end - 0.6 * fps:
            length = rng.uniform(3.5, 8.0) * fps
            pause = max(0.6 * fps, length * (1 - duty) / duty * rng.uniform(0.5, 1.5))
            if duty < 0.3:  # a rare visit: wait first, stay briefly
                at, length = at + pause * rng.uniform(0, 1), rng.uniform(1.0, 2.0) * fps
            stop = min(at + length, end)
            if stop - at > 0.6 * fps:
                visits.append((int(at), int(stop)))
            at = stop + pause
    return visits


def _tool(rng, kind, pivot, segments, seconds, fps, inside, look):
    frames = len(seconds)
    reach = np.zeros(frames)
    index = np.arange(frames)
    jaw_noise = _wander(rng, seconds, 1.0, 0.2, 0.7)
    fired = []
    close = np.zeros(frames)
    for start, stop in _visits(rng, segments, kind, fps):
        ramp = np.minimum(index - start, stop - index) / (0.5 * fps)
        ramp = np.clip(ramp, 0, 1)
        reach = np.maximum(reach, ramp * ramp * (3 - 2 * ramp))
        if kind == 2:  # the jaws close once, in the middle of the visit, and leave a clip
            middle = int(start + rng.uniform(0.45, 0.65) * (stop - start))
            close = np.maximum(close, np.clip(1 - np.abs(index - middle) / (0.4 * fps), 0, 1))
            fired.append(middle)
    aim = np.stack([_wander(rng, seconds, 0.13), _wander(rng, seconds, 0.1)], 1)
    aim += [-0.12 * np.sign(pivot[0]) * (kind == 0) + 0.1 * np.sign(pivot[0]), 0.05]
    if kind == 0:
        jaw = 0.05 + 0.45 * np.clip(jaw_noise, 0, 1)
    elif kind == 1:  # short quick strokes while it burns
        stroke = np.clip(_wander(rng, seconds, 1.0, 0.1, 0.4), 0, 1)
        beat = np.sin(2 * np.pi * rng.uniform(1.6, 2.6) * seconds)
        away = (pivot - aim) / np.linalg.norm(pivot - aim, axis=1, keepdims=True)
        aim = aim + away * (0.07 * stroke * beat)[:, None]
        jaw = np.zeros(frames)
    else:
        aim = smooth(aim, 1.5 * fps)
        jaw = 0.22 * (1 - close)
    tip = pivot + (aim - pivot) * reach[:, None]
    roll = {0: 0.0, 1: 0.0, 2: 0.35}[kind] * rng.choice([-1, 1])
    roll = roll + _wander(rng, seconds, 0.12, 0.05, 0.3)
    tool = Tool(kind, pivot, tip, jaw, roll, (reach > 0.02) & inside(tip), *look)
    return tool, reach, fired


def plan_operation(
    rng: np.random.Generator, frames: int, fps: float, hospital: str, aspect: float
) -> Operation:
    """Decides one operation. `aspect` is width / height of the frame."""
    seconds = np.arange(frames) / fps
    segments = _phases(rng, frames)
    phase = np.concatenate([np.full(b - a, p) for p, a, b in segments])
    soft = smooth(np.eye(4)[phase], 1.5 * fps)
    dissected = np.cumsum(phase == 1) / np.sum(phase == 1)

    field = None
    if hospital == "round":
        field = (rng.uniform(-0.04, 0.04), rng.uniform(-0.03, 0.03), rng.uniform(0.64, 0.74))

    def inside(tip):
        seen = (np.abs(tip[:, 0]) < aspect / 2 - 0.04) & (np.abs(tip[:, 1]) < 0.46)
        if field:
            seen &= np.hypot(tip[:, 0] - field[0], tip[:, 1] - field[1]) < field[2] - 0.04
        return seen

    # The working hand holds hook and clipper through one port, so that the side tells nothing.
    hand = rng.choice([-1, 1])
    ports = [
        np.array([side * rng.uniform(0.98, 1.15), rng.uniform(-0.45, 0.7)])
        for side in (-hand, hand)
    ]
    shades = rng.uniform(0.16, 0.62, 2)
    tools, reaches, fired = [], [], []
    for kind in range(3):
        port = ports[min(kind, 1)]
        shade = shades[min(kind, 1)]
        look = (rng.uniform(*WIDTH[kind]), (shade, shade * 1.01, shade * 1.03))
        tool, reach, clips = _tool(rng, kind, port, segments, seconds, fps, inside, look)
        tools.append(tool)
        reaches.append(reach)
        fired += clips

    burning = reaches[1] * np.clip(_wander(rng, seconds, 1.2, 0.1, 0.5), 0, 1)
    leftover = 0.35 * np.clip(_wander(rng, seconds, 1.0, 0.03, 0.12) - 0.9, 0, 1)
    smoke = np.clip(smooth(0.8 * burning + leftover, 2.5 * fps), 0, 0.75)
    zoom = soft @ ZOOM * rng.uniform(0.88, 1.12) + _wander(rng, seconds, 0.04)
    pan = soft @ PAN
    camera = np.stack(
        [
            pan * _wander(rng, seconds, 1.0, 0.04, 0.25) + _wander(rng, seconds, 0.006, 1.0, 4.0),
            pan * _wander(rng, seconds, 0.8, 0.04, 0.25) + _wander(rng, seconds, 0.006, 1.0, 4.0),
            rng.uniform(-0.25, 0.25) + _wander(rng, seconds, 0.06, 0.02, 0.15),
            zoom,
        ],
        axis=1,
    )
    # Light and colour differ more between operating rooms than between phases.
    gain = rng.uniform(0.6, 1.25) * (1 + _wander(rng, seconds, 0.15, 0.03, 0.3))
    tint = rng.uniform(0.8, 1.2, 3) + np.stack(
        [_wander(rng, seconds, 0.06, 0.02, 0.1) for _ in range(3)], 1
    )
    breath_rate = rng.uniform(0.2, 0.35)
    breath = np.stack(
        [
            0.018 * np.sin(2 * np.pi * breath_rate * seconds) ** 3,
            0.008 * np.sin(2 * np.pi * rng.uniform(1.0, 1.5) * seconds),
        ],
        axis=1,
    )
    bleeding = np.clip(_wander(rng, seconds, 0.5, 0.02, 0.1), 0, 0.4) * (dissected > 0)
    return Operation(
        phase=phase,
        camera=camera,
        exposure=gain[:, None] * tint,
        smoke=smoke,
        opened=smooth(0.9 * dissected, fps),
        wet=np.clip(smooth(np.maximum(soft[:, 3] * 0.9, bleeding), 2 * fps), 0, 1),
        washing=smooth(soft[:, 3], fps),
        breath=breath,
        tools=tuple(tools),
        clips=tuple(sorted(fired)),
        field=field,
    )
