"""What a narrator says of one rendered operation: captions at three levels, read off its plan.

Every sentence names what can be seen: field, light and instruments of the operation (coarse), what
a phase is for (mid), who does what where (fine). The video's pictures are not touched: nothing here
draws from their generator.
"""

import numpy as np

from data_prep.operation import INSTRUMENTS, PHASES, Operation

COLUMNS = "caption_id,video_id,start_ms,end_ms,level,text,raw_text,surgical,descriptive".split(",")
SHORTEST_S = 1.0  # of a fine caption
SPOKEN = ("Okay, so {}.", "And, um, {}, you see.", "Right, {} here.")
ASIDES = (  # text, surgical, descriptive: what filter_pairs is there to drop
    ("Thank you for watching this video.", 0, 0),
    ("We can take our time with this.", 1, 0),
)


def captions(video: str, plan: Operation, fps: float, rng: np.random.Generator) -> list[dict]:
    """Rows of captions.csv for one video, COLUMNS, in order of time within each level."""
    frames = len(plan.phase)
    found = [("coarse", 0, frames, coarse(plan))]
    found += [("mid", a, b, mid(plan, a, b)) for a, b in _runs(plan.phase)]
    for tool in plan.tools:
        for a, b in _runs(tool.visible):
            if tool.visible[a] and b - a >= SHORTEST_S * fps:
                found.append(("fine", a, b, fine(plan, tool, a, b)))
    found = [(*entry, 1, 1) for entry in found]
    for (text, surgical, descriptive), a in zip(ASIDES, (frames - int(fps), 0), strict=True):
        found.append(("fine", a, a + int(fps), text, surgical, descriptive))
    order = {"coarse": 0, "mid": 1, "fine": 2}
    found.sort(key=lambda entry: (order[entry[0]], *entry[1:4]))
    rows, count = [], dict.fromkeys(order, 0)
    for level, a, b, text, surgical, descriptive in found:
        count[level] += 1
        spoken = text[0].lower() + text[1:].rstrip(".")
        rows.append(
            {
                "caption_id": f"{video}-{level}{count[level]}",
                "video_id": video,
                "start_ms": round(1000 * a / fps),
                "end_ms": round(1000 * b / fps),
                "level": level,
                "text": text,
                "raw_text": SPOKEN[rng.integers(len(SPOKEN))].format(spoken),
                "surgical": surgical,
                "descriptive": descriptive,
            }
        )
    return rows


def coarse(plan: Operation) -> str:
    """The operation: its field of view, light, instruments and the order of its phases."""
    field = "a round field of view" if plan.field else "the whole picture in view"
    light = _word(plan.exposure.mean(), (0.85, 1.1), ("dim", "even", "bright"))
    warmth = plan.exposure[:, 0].mean() / plan.exposure[:, 2].mean()
    colour = _word(warmth, (0.92, 1.1), ("cool", "neutral", "warm"))
    shades = [
        _word(tool.colour[0], (0.3, 0.45), ("dark", "grey", "silver")) for tool in plan.tools[:2]
    ]
    side = "left" if plan.tools[1].pivot[0] < 0 else "right"
    order = [PHASES[plan.phase[a]].lower() for a, _ in _runs(plan.phase)]
    return (
        f"The surgeon operates with {field} in {light} {colour} light, a {shades[1]} hook from the "
        f"{side} and a {shades[0]} grasper from the other side: {', then '.join(order)}."
    )


def mid(plan: Operation, a: int, b: int) -> str:
    """The phase in frames [a, b)."""
    grasper = plan.tools[0].visible[a:b].mean() > 0.5
    clips = sum(a <= frame < b for frame in plan.clips)
    text = (
        "The surgeon prepares the field and explores the tissue",
        "The surgeon dissects the gallbladder from its bed with the hook",
        f"The surgeon sets {('no clip', 'one clip', 'two clips')[min(clips, 2)]} with the clipper",
        "The surgeon rinses the field and clears away blood",
    )[plan.phase[a]]
    text += " while the grasper holds the tissue" if grasper else ""
    return text + _smoke(plan, a, b) + "."


def fine(plan: Operation, tool, a: int, b: int) -> str:
    """What one instrument does while it is visible in frames [a, b)."""
    fired = tool.kind == 2 and any(a <= frame < b for frame in plan.clips)
    action = {
        0: "pulls on the tissue" if plan.phase[(a + b) // 2] == 1 else "holds the tissue",
        1: "cuts with short strokes",
        2: "closes a clip" if fired else "reaches for the duct",
    }[tool.kind]
    where = _word(tool.tip[a:b, 0].mean(), (-0.08, 0.08), ("on the left", "in the middle", ""))
    where = where or "on the right"
    washing = " under running water" if plan.washing[a:b].mean() > 0.5 else ""
    name = INSTRUMENTS[tool.kind].lower()
    return f"The {name} {action} {where}{washing}{_smoke(plan, a, b)}."


def _smoke(plan: Operation, a: int, b: int) -> str:
    return _word(plan.smoke[a:b].mean(), (0.06, 0.22), ("", " in thin smoke", " in dense smoke"))


def _word(value: float, bounds: tuple[float, float], words: tuple[str, str, str]) -> str:
    return words[int(np.searchsorted(bounds, value))]


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of the stretches over which `values` stay the same."""
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    return [(int(a), int(b)) for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
