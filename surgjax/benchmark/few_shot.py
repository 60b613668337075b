"""Learning from few labels: numbers by setting, from saved predictions alone.

The rows of a setting ("4 videos") are there once for each draw of what was learnt from, and all
models learnt from the same draws. A value is the mean over draws; draws and videos are resampled
together (statistics.py), so that an interval covers other draws as well as other test videos.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from surgjax.benchmark import comparison, metrics, predictions, statistics
from surgjax.benchmark.predictions import Predictions
from surgjax.benchmark.statistics import Interval
from surgjax.errors import UserError


def score(path: Path, *, seed: int = 0) -> dict:
    """Numbers of every model and setting of a file.

    Returns:
      {"videos": [...], "clips": n, "metric": "macro_f1_per_video" or of several classes a row
      "map_pooled", "settings": [{"name": "4 videos", "size": 4.0, "draws": 5}, ...] in the order of
      the file, "models": {name: {setting: {metric: Interval as a dict}}}, of one class a row with
      "accuracy_per_video" too, "differences": {"pretrained-random": {setting: Interval as a dict of
      the metric}}} for every model beside the first one, in the settings that both have. Draws are
      "seeds" of an interval.

    Raises:
      UserError: as `predictions.read`; no column setting or draw; other videos or draws of a model.
    """
    table = predictions.read(path)
    if missing := [name for name in ("setting", "draw") if name not in table]:
        raise UserError(
            f"{path} lacks the column {missing[0]}; expected setting, as '4 videos', and draw, a "
            f"number each time"
        )
    videos = sorted(set(table["video_id"].tolist()))
    is_one_of_n = table.target.ndim == 1
    metric = "macro_f1_per_video" if is_one_of_n else "map_pooled"
    settings = list(dict.fromkeys(table["setting"].tolist()))
    found: dict[str, dict] = {name: {} for name in table.models}
    draws: dict[str, int] = {}
    for name in table.models:
        for setting in settings:
            own = table.of(name)
            own = own.where(own["setting"] == setting)
            if not len(own):
                continue
            each = [own.where(own["draw"] == draw) for draw in np.unique(own["draw"])]
            for part in each:
                if sorted(set(part["video_id"].tolist())) != videos:
                    raise UserError(
                        f"{path}: {name} of {setting}, draw {part['draw'][0]}, was tested on other "
                        f"videos than the first; expected the same {len(videos)}"
                    )
            draws[setting] = max(draws.get(setting, 0), len(each))
            found[name][setting] = (_of_one_class if is_one_of_n else _of_several)(each, seed)
    first = table.models[0]
    rows = table.of(first)
    rows = rows.where(rows["setting"] == settings[0])
    return {
        "videos": videos,
        "clips": int((rows["draw"] == rows["draw"][0]).sum()),
        "metric": metric,
        "settings": [
            {"name": name, "size": _size(name), "draws": draws[name]} for name in settings
        ],
        "models": {
            name: {
                setting: {key: sampled.interval().as_dict() for key, sampled in of.items()}
                for setting, of in by_setting.items()
            }
            for name, by_setting in found.items()
        },
        "differences": {
            f"{first}-{other}": {
                setting: found[first][setting][metric].minus(of[metric]).interval().as_dict()
                for setting, of in found[other].items()
                if setting in found[first]
            }
            for other in table.models[1:]
        },
    }


def text_table(result: dict) -> str:
    """A line a setting and its number of draws, a column a model, each with its interval."""
    models, metric = list(result["models"]), result["metric"]
    lines = [
        f"{metrics.in_words(metric):24s} "
        + " ".join(f"{name.replace('_', ' '):>24s}" for name in models)
    ]
    for setting in result["settings"]:
        cells = []
        for name in models:
            of = result["models"][name].get(setting["name"])
            cells.append("-" if of is None else statistics.as_text(of[metric]))
        label = f"{setting['name']} ({setting['draws']} x)"
        lines.append(f"{label:24s} " + " ".join(f"{cell:>24s}" for cell in cells))
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Sampled:
    """A statistic of each draw on all videos (s,) and on resampled ones (s, r)."""

    values: Float[np.ndarray, "s"]
    resampled: Float[np.ndarray, "s r"]
    of_draws: Int[np.ndarray, "r s"]
    videos: int

    def minus(self, other: "_Sampled") -> "_Sampled":
        """The difference to a model that learnt from the same draws, or to a floor that learns from
        none and is there once."""
        if len(other.values) not in (1, len(self.values)):
            raise UserError(
                f"{len(self.values)} and {len(other.values)} draws of one setting; expected the "
                f"same draws of all models"
            )
        return dataclasses.replace(
            self, values=self.values - other.values, resampled=self.resampled - other.resampled
        )

    def interval(self) -> Interval:
        drawn = np.take_along_axis(self.resampled.T, self.of_draws, axis=1).mean(1)
        found = statistics.from_resamples(float(self.values.mean()), drawn, self.videos)
        return dataclasses.replace(found, seeds=len(self.values))


def _of_one_class(draws: list[Predictions], seed: int) -> dict[str, _Sampled]:
    """Macro-F1 and accuracy per video."""
    counts = [
        metrics.by_video(of.target, of.pred, of["video_id"], len(of.classes))[1] for of in draws
    ]
    videos, of_draws = _resamples(len(counts[0]), len(draws), seed)
    made = {}
    for name, statistic in (
        ("macro_f1_per_video", metrics.macro_f1),
        ("accuracy_per_video", metrics.accuracy),
    ):
        each = np.stack([statistic(of) for of in counts])
        resampled = each[:, videos].mean(2)
        made[name] = _Sampled(each.mean(1), resampled, of_draws, len(counts[0]))
    return made


def _of_several(draws: list[Predictions], seed: int) -> dict[str, _Sampled]:
    """Mean average precision over all clips together."""
    values = [
        metrics.mean_known(metrics.average_precision(of.target, of.probabilities)) for of in draws
    ]
    resampled = np.stack([comparison.resampled_map(of, seed) for of in draws])
    videos = len(set(draws[0]["video_id"].tolist()))
    _, of_draws = _resamples(videos, len(draws), seed)
    return {"map_pooled": _Sampled(np.array(values), resampled, of_draws, videos)}


def _resamples(videos: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos (r, v) and draws (r, s), both with replacement."""
    many = comparison.RESAMPLES
    return statistics.draws(videos, many, seed), statistics.draws(draws, many, (seed, 1))


def _size(setting: str) -> float | None:
    try:
        return float(setting.split()[0])
    except (ValueError, IndexError):
        return None
