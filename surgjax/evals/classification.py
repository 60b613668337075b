"""What every evaluation that classifies clips ends with: floors, saved predictions, numbers.

Floors are shown beside the model under test: the same network with fresh weights, features that
are only the mean colour, the most frequent class of the training clips, and the constant answer
that is best on the test clips.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from surgjax.benchmark import comparison, metrics, pictures, predictions
from surgjax.data.store import Store
from surgjax.evals.features import LabelledClips, features, mean_colour
from surgjax.evals.model import Model


def all_features(
    store: Store, clips: LabelledClips, model: Model, batch_size: int
) -> dict[str, Float[np.ndarray, "n d"]]:
    """Features of the model under test first, then of the floors that have features."""
    encoders = {model.name: model.encode}
    if model.random_encode is not None:
        encoders["random"] = model.random_encode
    encoders["mean_colour"] = mean_colour
    return features(store, clips, model.clip, encoders, batch_size=batch_size)


def finish(
    model: Model,
    tested: LabelledClips,
    probs: Mapping[str, Float[np.ndarray, "n c"]],
    train_label: Int[np.ndarray, "k"],
    *,
    name: str,
    protocol: str,
    store: Store,
    details: dict,
    out: Path,
    step: int,
) -> dict[str, float]:
    """Saves predictions.parquet, computes metrics.json and a picture from it, prints the table.

    Args:
      probs: class probabilities of each model on the tested clips, the model under test first.
      train_label: labels that the majority is taken from.
      name, protocol: of the evaluation; the protocol is a line.
      store: whose clips they are.
      details: settings to keep in metrics.json.

    Returns:
      Scalars to log.
    """
    classes = len(tested.classes)
    constant = {
        "majority": np.bincount(train_label, minlength=classes).argmax(),
        "best_constant": best_constant(tested.label, tested.video_id, classes),
    }
    answers = dict(probs) | {
        key: np.eye(classes, dtype=np.float32)[np.full(len(tested), value)]
        for key, value in constant.items()
    }
    repeat = len(answers)
    columns = {
        key: np.tile(getattr(tested, key), repeat)
        for key in ("dataset", "split", "video_id", "case", "t_ms")
    }
    stacked = np.concatenate(list(answers.values()))
    columns |= {
        "model": np.repeat(list(answers), len(tested)),
        "protocol": np.full(len(stacked), f"{name}: {protocol}"),
    }
    file, target = out / "predictions.parquet", np.tile(tested.label, repeat)
    saw_test = model.saw(store, tested.case)
    predictions.write(file, columns, stacked, target, tested.classes, saw_test)
    result = {
        "evaluation": name,
        "protocol": protocol,
        "step": int(step),
        "classes": tested.classes,
        "saw_test": saw_test,
        "store": store.name,
        **details,
        **comparison.compare(file),
    }
    predictions.write_json(out / "metrics.json", result)
    pictures.save(pictures.plot_floors(result), out / "floors.png")
    pictures.save(pictures.plot_ribbons(predictions.read(file)), out / "ribbons.png")
    print(f"{name} at step {step} ({protocol}); model saw test cases: {result['saw_test']}")
    print(comparison.text_table(result), flush=True)
    return _scalars(result, model.name)


def best_constant(label: Int[np.ndarray, "n"], video: np.ndarray, classes: int) -> int:
    """The class that, always answered, has the highest macro-F1 per video."""
    scores = [
        metrics.macro_f1(metrics.by_video(label, np.full_like(label, c), video, classes)[1]).mean()
        for c in range(classes)
    ]
    return int(np.argmax(scores))


def _scalars(result: dict, name: str) -> dict[str, float]:
    scalars = {
        "macro_f1": result["models"][name]["macro_f1_per_video"]["value"],
        "accuracy": result["models"][name]["accuracy_pooled"],
    }
    for floor in ("random", "mean_colour", "majority", "best_constant"):
        if floor in result["models"]:
            scalars[f"macro_f1_{floor}"] = result["models"][floor]["macro_f1_per_video"]["value"]
    gain = result["differences"].get(f"{name}-random")
    if gain:
        scalars |= {
            "gain_over_random": gain["value"],
            "gain_low": gain["low"],
            "gain_high": gain["high"],
        }
    return scalars
