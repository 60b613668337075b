"""Is the camera outside the body? Scores in [0, 1] by any function, spans that are left out.

A scorer is `f(frames) -> scores`: frames (n, h, w, 3) uint8 RGB, at most 240 pixels a side that is
shorter; scores (n,) float32, 0 inside and 1 outside. `--out-of-body MODULE:FUNCTION` names one that
Python can import. `tissue_colour`, the default, is a rule about colour and no more:

- what is red, pink or orange counts as inside: skin, wood and warm light outside pass for tissue;
- what is not counts as outside: thick smoke, swabs, towels, irrigation, an instrument close to the
  lens, the inside of a trocar; eye surgery, training phantoms and dyed tissue fail altogether;
- how often it is wrong on real operations is not known.

It is there so that the obvious is found without a model. For data that must be free of people, give
a trained model: OoBNet of CAMMA (Lavanchy et al., Scientific Reports 13:9235, 2023) is public.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from data_prep.burnt_in import runs
from surgjax.errors import UserError

DEFAULT, NONE = "data_prep.out_of_body:tissue_colour", "none"
LIT = 40  # brightest channel of a pixel that shows something
NEAR = 2.1  # times `every`: neighbours of a sample that are no further apart may outvote it
REDDER = 1.2  # red over green in tissue; of wood, paper and steel in white light it is below
USUAL_SHARE = 0.4  # of the lit pixels in any view inside; 0.83 to 0.97 in two real clips
BATCH = 32  # frames given to a scorer at once
OUTSIDE, STILL_OUTSIDE = 0.5, 0.35  # scores at which a span begins, and at which it goes on

Scorer = Callable[[np.ndarray], np.ndarray]


def tissue_colour(frames: np.ndarray) -> np.ndarray:
    """Scores by the share of lit pixels that have the colour of tissue; dark frames score 0.

    Args:
      frames: (n, h, w, 3) uint8 RGB; a black border or round view changes nothing.
    Returns:
      (n,) float32 in [0, 1], 0.5 where a fifth of the lit pixels has that colour.
    """
    scores = np.zeros(len(frames), np.float32)
    for i, frame in enumerate(frames):
        small = cv2.resize(frame, (80, 60), interpolation=cv2.INTER_AREA).astype(np.int16)
        red, green, blue = small[..., 0], small[..., 1], small[..., 2]
        lit = small.max(2) > LIT
        tissue = lit & (red > REDDER * green) & (red - green > 10) & (red >= blue)
        if lit.mean() > 0.01:
            scores[i] = 1 - min(1.0, tissue.sum() / (USUAL_SHARE * lit.sum()))
    return scores


def load(name: str) -> Scorer | None:
    """The function that MODULE:FUNCTION names, also from the current folder; None for "none".

    Raises:
      UserError: there is no such function.
    """
    if name == NONE:
        return None
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        scorer = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module is somebody's, and runs when it is imported
        raise UserError(
            f"--out-of-body is {name!r} ({type(error).__name__}: {error}); expected none or "
            f"MODULE:FUNCTION that Python can import, such as {DEFAULT}"
        ) from error
    if not callable(scorer):
        raise UserError(f"--out-of-body {name!r} is no function but {type(scorer).__name__}")
    return scorer


def score(scorer: Scorer, frames: Iterator[np.ndarray]) -> np.ndarray:
    """Scores of all frames, (n,) float32. Raises UserError when it fails or they are no scores."""
    scores, batch = [np.empty(0, np.float32)], []

    def flush() -> None:
        try:
            found = np.asarray(scorer(np.stack(batch)), np.float32)
        except UserError:
            raise
        except Exception as error:  # any that somebody's function can raise
            raise UserError(
                f"the --out-of-body function {getattr(scorer, '__qualname__', scorer)} failed for "
                f"{np.shape(batch)} uint8 ({type(error).__name__}: {error}); put it right and run "
                f"again"
            ) from error
        if found.shape != (len(batch),) or not np.all((found >= 0) & (found <= 1)):
            raise UserError(
                f"the --out-of-body function returned {found.shape} for {len(batch)} frames, values"
                f" {np.min(found, initial=np.inf):g} to {np.max(found, initial=-np.inf):g}; "
                f"expected ({len(batch)},) with values from 0 to 1"
            )
        scores.append(found)
        batch.clear()

    for frame in frames:
        batch.append(frame)
        if len(batch) == BATCH:
            flush()
    if batch:
        flush()
    return np.concatenate(scores)


def outside(scores: np.ndarray, seconds: np.ndarray, every: float) -> np.ndarray:
    """Which samples are outside, (n,) bool: median of three, then a threshold with hysteresis.

    The median takes one odd sample for noise. Where samples are far apart one may be all that is
    seen of a long look outside: it keeps its own score, as the first and the last do.

    Args:
      scores, seconds: (n,) of each sample and its time.
      every: seconds from a sample to the next that were asked for.
    """
    smooth = scores.copy()
    near = seconds[2:] - seconds[:-2] <= NEAR * every
    medians = np.median([scores[:-2], scores[1:-1], scores[2:]], axis=0)
    smooth[1:-1][near] = medians[near]
    found, maybe = smooth >= OUTSIDE, smooth >= STILL_OUTSIDE
    for start, end in runs(maybe):
        found[start:end] = found[start:end].any()
    return found
