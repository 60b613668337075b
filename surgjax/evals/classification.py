"""What every evaluation that classifies clips ends with: floors, saved predictions, numbers.

Floors are shown beside the model under test: the same network with fresh weights, features that
are only the mean colour, the most frequent class of the training clips, and the constant answer
that is best on the test clips. Where a clip has several classes, the constant answer is each
class's share of the training clips, whose average precision is chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from surgjax.benchmark import comparison, metrics, predictions
from surgjax.benchmark.vectors import Vectors
from surgjax.data.store import Store
from surgjax.data.transforms import CENTRE, Augmentation
from surgjax.errors import UserError
from surgjax.evals.features import Encoder, LabelledClips, mean_colour, views_of
from surgjax.evals.kept import kept_features
from surgjax.evals.model import Model


def all_features(
    store: Store,
    clips: LabelledClips,
    model: Model,
    batch_size: int,
    *,
    unit: str = "frame",
    segments: int = 1,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """Features of the model under test first, then of the floors that have features.

    Args:
      unit, segments: "video" takes the mean over so many clips of each video.

    Raises:
      UserError: vectors made elsewhere lack one of the clips, or as `views_of`.
    """
    encoders, identities = {}, {"mean_colour": "mean colour"}
    if model.encode is not None:
        encoders[model.name], identities[model.name] = model.encode, model.identity
    if model.random_encode is not None:
        encoders["random"], identities["random"] = model.random_encode, model.random_identity
    encoders["mean_colour"] = mean_colour
    looked_up = {}
    if model.vectors is not None:
        looked_up = {model.name: vectors_of(model.vectors, clips, unit)}
    views = views_of(store, clips, model.clip, unit, segments)
    return looked_up | mean_features(store, views, model, encoders, identities, batch_size)


def mean_features(
    store: Store,
    views: Sequence[LabelledClips],
    model: Model,
    encoders: Mapping[str, Encoder],
    identities: Mapping[str, str],
    batch_size: int,
    augment: Augmentation = CENTRE,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """Mean over the views of the same n clips of what each encoder makes of them, float32.

    Args:
      identities: as of `kept_features`.
    """
    count = len(views[0])
    rows = np.stack([view.rows for view in views], axis=1)  # so that a video's lie side by side
    nth = np.repeat(np.arange(count), len(views))
    made = kept_features(
        *(store, replace(views[0].where(nth), rows=rows.reshape(-1)), model.clip),
        *(encoders, identities, model.kept),
        batch_size=batch_size,
        augment=augment,
    )
    return {name: v.reshape(count, len(views), -1).mean(1) for name, v in made.items()}


def vectors_of(
    vectors: Vectors, clips: LabelledClips, unit: str = "frame"
) -> Float[np.ndarray, "n d"]:
    """The vector of each clip's labelled frame, or the mean of all of its video.

    Raises:
      UserError: a clip that has none; the first is named.
    """
    names, first = np.unique(vectors.video_id, return_inverse=True)
    number = {name: i for i, name in enumerate(names.tolist())}
    video = np.array([number.get(name, -1) for name in clips.video_id.tolist()])
    if unit == "video":
        missing = video < 0
        if not missing.any():
            count = np.bincount(first, minlength=len(names))
            sums = np.zeros((len(names), vectors.values.shape[1]))
            np.add.at(sums, first, vectors.values)
            return (sums / count[:, None])[video].astype(np.float32)
    else:
        span = 1 + int(max(vectors.t_ms.max(initial=0), clips.t_ms.max(initial=0)))
        known, wanted = first * span + vectors.t_ms, video * span + clips.t_ms
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known[order], wanted), max(0, len(known) - 1))
        missing = (known[order][at] != wanted) | (video < 0) if len(known) else video < 0
        if not missing.any():
            return vectors.values[order][at]
    row = int(missing.argmax())
    raise UserError(
        f"the features lack {int(missing.sum())} of {len(clips)} labelled clips; the first is "
        f"{clips.video_id[row]} at {clips.t_ms[row]} ms; make them for all labelled frames"
    )


def finish(
    model: Model,
    tested: LabelledClips,
    probs: Mapping[str, Float[np.ndarray, "n c"]],
    train_label: Int[np.ndarray, "k"] | Float[np.ndarray, "k c"],
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
      train_label: labels that the majority, or each class's share, is taken from.
      name, protocol: of the evaluation; the protocol is a line.
      store: whose clips they are.
      details: settings to keep in metrics.json.

    Returns:
      Scalars to log.

    Raises:
      UserError: as `write_blocks`.
    """
    answers = dict(probs) | constant_answers(tested, train_label)
    file, line = out / "predictions.parquet", f"{name}: {protocol}"
    blocks = [({"model": of, "protocol": line}, values) for of, values in answers.items()]
    write_blocks(file, model, store, tested, blocks)
    about = dict(name=name, protocol=protocol, out=out, step=step)
    result = write_metrics(model, store, tested, details | comparison.compare(file), **about)
    if tested.kind == "one_of_n":
        # Here, because every start of a training run loads this module, and matplotlib is slow.
        from surgjax.benchmark import pictures, ribbons

        pictures.save(pictures.plot_floors(result), out / "floors.png")
        figure, _ = ribbons.plot_ribbons(predictions.read(file))
        pictures.save(figure, out / "ribbons.png")
    print(f"{name} at step {step} ({protocol}); model saw test cases: {result['saw_test']}")
    print(comparison.text_table(result), flush=True)
    return _scalars(result, model.name)


def write_metrics(
    model: Model,
    store: Store,
    tested: LabelledClips,
    found: Mapping,
    *,
    name: str,
    protocol: str,
    out: Path,
    step: int,
) -> dict:
    """metrics.json of an evaluation: what was tested, then what was `found`; returns it."""
    result = {
        "evaluation": name,
        "protocol": protocol,
        "step": int(step),
        "classes": tested.classes,
        "saw_test": model.saw(store, tested.case),
        "store": store.name,
        **({"encoder": dict(model.about)} if model.about else {}),
        **found,
    }
    predictions.write_json(out / "metrics.json", result)
    return result


def write_blocks(
    file: Path,
    model: Model,
    store: Store,
    tested: LabelledClips,
    blocks: Sequence[tuple[Mapping[str, str | int], Float[np.ndarray, "n c"]]],
) -> None:
    """predictions.parquet of several answers to the same clips.

    Args:
      blocks: of each answer, columns that are alike in all its rows, as model and protocol, and the
        class probabilities.

    Raises:
      UserError: of several classes, none of them is in any tested clip.
    """
    if tested.kind == "multi_label" and not (tested.label > 0.5).any():
        raise UserError(
            f"none of the {len(tested)} tested clips of {store.path} shows any of "
            f"{', '.join(tested.classes[:5])}; expected positives; choose another split or task"
        )
    # Words as numbers of a list: a file may have millions of rows.
    columns = {"t_ms": np.tile(tested.t_ms, len(blocks))}
    for name in ("dataset", "split", "video_id", "case"):
        words, which = np.unique(getattr(tested, name), return_inverse=True)
        columns[name] = _listed(words, np.tile(which, len(blocks)))
    for name in blocks[0][0]:
        words, which = np.unique([about[name] for about, _ in blocks], return_inverse=True)
        columns[name] = _listed(words, np.repeat(which, len(tested)))
    stacked = np.concatenate([probs for _, probs in blocks])
    if tested.score is not None:  # the expected class number
        columns["value"] = stacked.astype(np.float64) @ np.arange(len(tested.classes))
        columns["target_value"] = np.tile(tested.score, len(blocks))
    predictions.write(
        *(file, columns, stacked),
        np.concatenate([tested.label] * len(blocks)),
        tested.classes,
        model.saw(store, tested.case),
    )


def _listed(words: np.ndarray, which: np.ndarray) -> pa.DictionaryArray | np.ndarray:
    if words.dtype.kind == "i":
        return words.astype(np.int32)[which]
    return pa.DictionaryArray.from_arrays(which.astype(np.int32), pa.array(words.astype(str)))


def constant_answers(
    tested: LabelledClips, train_label: Int[np.ndarray, "k"] | Float[np.ndarray, "k c"]
) -> dict[str, Float[np.ndarray, "n c"]]:
    """Probabilities float32 of the floors that do not look at the clips."""
    classes = len(tested.classes)
    if tested.kind == "multi_label":
        known = ~np.isnan(train_label)
        share = metrics.ratio(np.where(known, train_label, 0).sum(0), known.sum(0))
        share = np.nan_to_num(share).astype(np.float32)
        return {"class_frequency": np.tile(share, (len(tested), 1))}
    constant = {
        "majority": np.bincount(train_label, minlength=classes).argmax(),
        "best_constant": best_constant(tested.label, tested.video_id, classes),
    }
    eye = np.eye(classes, dtype=np.float32)
    return {name: eye[np.full(len(tested), value)] for name, value in constant.items()}


def best_constant(label: Int[np.ndarray, "n"], video: np.ndarray, classes: int) -> int:
    """The class that, always answered, has the highest macro-F1 per video."""
    scores = [
        metrics.macro_f1(metrics.by_video(label, np.full_like(label, c), video, classes)[1]).mean()
        for c in range(classes)
    ]
    return int(np.argmax(scores))


def _scalars(result: dict, name: str) -> dict[str, float]:
    is_one_of_n = "macro_f1_per_video" in result["models"][name]
    field, short = ("macro_f1_per_video", "macro_f1") if is_one_of_n else ("map_pooled", "map")
    values = {model: row[field]["value"] for model, row in result["models"].items()}
    scalars = {short: values.pop(name)}
    if is_one_of_n:
        scalars["accuracy"] = result["models"][name]["accuracy_pooled"]
    scalars |= {f"{short}_{model}": value for model, value in values.items()}
    gain = result["differences"].get(f"{name}-random")
    if gain:
        scalars |= {
            "gain_over_random": gain["value"],
            "gain_low": gain["low"],
            "gain_high": gain["high"],
        }
    return scalars
