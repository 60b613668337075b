"""Zero-shot numbers by set of prompts, from saved predictions: each set's, and how far they differ.

The rows of a set have its name as `setting`; every set was asked of the same clips.
"""

from collections.abc import Sequence
from pathlib import Path

from surgjax.benchmark import comparison, metrics, predictions
from surgjax.errors import UserError

MAIN = ("readme", "ours")  # published wording, else ours
METRICS = ("macro_f1_per_video", "accuracy_per_video", "macro_f1_pooled", "accuracy_pooled")
METRICS += ("map_pooled",)  # of several classes a row


def score(path: Path) -> dict:
    """Numbers of every set, and of each model over the sets.

    Returns:
      {"videos": [...], "clips": n, "sets": {name: what `comparison.compare` says of it},
      "over_sets": {model: {metric: {"mean", "lowest", "highest"}}}}.

    Raises:
      UserError: as `predictions.read`, no column setting, or sets of other videos.
    """
    table = predictions.read(path)
    if "setting" not in table:
        raise UserError(f"{path} lacks the column setting; expected the set of prompts of each row")
    found = {
        name: comparison.compare_table(
            table.where(table["setting"] == name), f"{path}, prompts {name}"
        )
        for name in dict.fromkeys(table["setting"].tolist())
    }
    first, *others = found.values()
    about = {name: first[name] for name in ("videos", "clips")}
    for name, of in found.items():
        if {key: of.pop(key) for key in about} != about:
            raise UserError(f"{path}: prompts {name} were tested on other clips than the first")
    values = {
        model: {
            metric: [_value(of["models"][model][metric]) for of in found.values()]
            for metric in METRICS
            if metric in row
        }
        for model, row in first["models"].items()
    }
    over_sets = {
        model: {
            metric: {"mean": sum(of) / len(of), "lowest": min(of), "highest": max(of)}
            for metric, of in by_metric.items()
        }
        for model, by_metric in values.items()
    }
    return {**about, "sets": found, "over_sets": over_sets}


def main_set(names: Sequence[str]) -> str:
    """Of several sets the one whose numbers are shown where there is room for one."""
    return next((name for name in MAIN if name in names), names[0])


def text_table(result: dict) -> str:
    """A line a model, a column a set, then the mean and the range."""
    metric = _metric(result)
    sets = list(result["sets"])
    lines = [
        f"{metrics.in_words(metric):24s}"
        + "".join(f"{name:>12s}" for name in sets)
        + "   mean [range]"
    ]
    for model, over in result["over_sets"].items():
        each = [_value(result["sets"][name]["models"][model][metric]) for name in sets]
        mean, low, high = (over[metric][key] for key in ("mean", "lowest", "highest"))
        lines.append(
            f"{model.replace('_', ' '):24s}"
            + "".join(f"{value:12.3f}" for value in each)
            + f"  {mean:.3f} [{low:.3f}, {high:.3f}]"
        )
    return "\n".join(lines)


def scalars(result: dict) -> dict[str, float]:
    """Means over sets of all models, the first one's range, and its gain over fresh weights."""
    first, *others = result["over_sets"]
    metric = _metric(result)
    short = metric.removesuffix("_per_video").removesuffix("_pooled")
    own = result["over_sets"][first]
    made = {short: own[metric]["mean"]}
    made |= {f"{short}_{key}": own[metric][key] for key in ("lowest", "highest")}
    if "accuracy_pooled" in own:
        made["accuracy"] = own["accuracy_pooled"]["mean"]
    made |= {f"{short}_{name}": result["over_sets"][name][metric]["mean"] for name in others}
    if "random" in others:
        made["gain_over_random"] = made[short] - made[f"{short}_random"]
    return made


def _metric(result: dict) -> str:
    row = next(iter(result["over_sets"].values()))
    return "macro_f1_per_video" if "macro_f1_per_video" in row else "map_pooled"


def _value(value: dict | float) -> float:
    return value["value"] if isinstance(value, dict) else value
