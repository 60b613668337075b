"""Choose clips that cover what a corpus shows evenly, from their features (SurgRec section 3.1).

    python -m surgjax.curate FEATURES --out OUT [--clusters 25000,5000,1000] [--budget 0.1]

FEATURES is a folder written by `surgjax.embed`. OUT gets clips.parquet (the clips taken), clusters.
parquet (the cluster of every clip at each level), curation.json (settings and how even the sample
is) and curation.png. The levels stay in OUT/levels: the same command continues after a stop, and
another --budget, --pick or --copies clusters nothing again. Cases that any known split holds out
are left out.
"""

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int
from matplotlib.figure import Figure

from surgjax import hierarchy, kmeans
from surgjax.benchmark import pictures
from surgjax.errors import Stopped, UserError, nearest, run
from surgjax.features import Features, read_features
from surgjax.files import parse_json, whole, write_whole
from surgjax.hierarchy import Recipe, effective_number
from surgjax.preemption import StopSignal

METHODS = ("hierarchical", "random", "source_proportional")
FILES = {"clips.parquet", "clusters.parquet", "curation.json", "curation.png", "levels"}
PLACE = ("store", "video_id", "start_ms", "end_ms")
EVERY_S = 10.0  # between progress lines


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, curate, print what came out."""
    parser = _Parser(prog="python -m surgjax.curate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("features", type=Path, metavar="FEATURES", help="folder written by surgjax.embed")
    add("--out", required=True, type=Path, help="folder for the result")
    text = "number of clusters of each level, from the clips up (25000,5000,1000)"
    add("--clusters", type=_numbers, default=Recipe.clusters, help=text)
    add("--iterations", type=int, default=Recipe.iterations, help="of every k-means (50)")
    text = "runs of k-means on clips taken evenly from the clusters of the run before (10)"
    add("--resampling", type=int, default=Recipe.resampling, help=text)
    text = "clips of a cluster in such a run: auto (half of the mean), or a number for each level"
    add("--sample-size", default="auto", help=text)
    text = "which clips of a cluster (nearest to its centroid)"
    add("--resample", choices=hierarchy.PICKS, default=Recipe.resample, help=text)
    text = "first centroids (kmeans++; random is quicker, and a little worse)"
    add("--init", choices=kmeans.INITS, default=Recipe.init, help=text)
    text = "number format of products (float32; bfloat16 is quicker on accelerators)"
    add("--products", choices=kmeans.PRODUCTS, default=Recipe.products, help=text)
    text = "share of the clips to take or, above 1, how many (0.1)"
    add("--budget", type=float, default=0.1, help=text)
    text = "which clips of a lowest cluster are taken (nearest to its centroid)"
    add("--pick", choices=hierarchy.PICKS, default="nearest", help=text)
    add("--copies", type=int, default=1, help="of one clip at most (1)")
    add("--method", choices=METHODS, default="hierarchical", help="or a baseline (hierarchical)")
    add("--normalise", action="store_true", help="give every feature length 1 first")
    add("--seed", type=int, default=0, help="of all draws (0)")
    text = "use cases that a known split holds out, too; evaluation on them is then no test"
    add("--keep-held-out", action="store_true", help=text)
    given = vars(parser.parse_args(arguments))
    size = given.pop("sample_size")
    names = {field.name for field in dataclasses.fields(Recipe)} - {"sample_size"}
    recipe = Recipe(
        sample_size=_sample_sizes(size, len(given["clusters"])),
        **{name: given.pop(name) for name in names},
    )
    curate(given.pop("features"), given.pop("out"), recipe, **given)
    return 0


def curate(
    folder: str | Path,
    out: str | Path,
    recipe: Recipe,
    *,
    budget: float = 0.1,
    pick: str = "nearest",
    copies: int = 1,
    method: str = "hierarchical",
    normalise: bool = False,
    keep_held_out: bool = False,
) -> dict[str, Any]:
    """Curate a folder of features into `out`.

    Args:
      budget: share of the clips up to 1, their number above.
      pick, copies: of hierarchy.sample.
      method: "hierarchical", or the same budget without clusters: "random" clips, or
        "source_proportional", random ones with the share of each dataset kept.

    Returns:
      Content of curation.json.

    Raises:
      UserError: settings out of range, features that cannot be used, `out` of something else.
      Stopped: after SIGTERM or Ctrl-C; the same command continues.
    """
    folder, out = Path(folder), Path(out)
    _check_settings(recipe, budget, copies, method)
    _check_out(out, method)
    features = read_features(folder, keep_held_out=keep_held_out)
    count = len(features.values)
    print(
        f"{folder}: {count:,} clips, {features.values.shape[1]} numbers each"
        + (f"; {features.held_out:,} clips of held-out cases left out" * bool(features.held_out)),
        flush=True,
    )
    if normalise:
        _normalise(features.values)
    wanted = min(int(budget * count + 0.5) if budget <= 1 else int(budget), copies * count)
    if wanted < 1:
        raise UserError(
            f"--budget {budget:g} of {count:,} clips is less than one clip; give a larger one"
        )
    dataset = features.clips["dataset"].to_numpy().astype(str)
    baselines = {
        name: choose(count if name == "random" else dataset, min(wanted, count), recipe.seed)
        for name in METHODS[1:]
    }
    levels: list[kmeans.Clustering] = []
    if method == "hierarchical":
        levels = _levels(out, features, recipe, normalise, keep_held_out)
        taken = hierarchy.sample(levels, wanted, pick=pick, copies=copies, seed=recipe.seed)
    else:
        taken = baselines[method]
    result = {
        "method": method,
        "features": {
            k: features.meta[k] for k in ("model", "dim", "count", "stores") if k in features.meta
        },
        "settings": {
            **dataclasses.asdict(recipe),
            **{"budget": budget, "pick": pick, "copies": copies, "normalise": normalise},
            "keep_held_out": keep_held_out,
        },
        "clips": count,
        "held_out": features.held_out,
        "budget": wanted,
        "taken": int(np.sum(taken > 0)),
        "copies": int(taken.sum()),
        "levels": _level_figures(levels, taken, baselines, recipe, count),
        **_dataset_figures(dataset, taken),
    }
    _write(out, features, levels, taken, result)
    _print(out, result)
    return result


def choose(groups: int | np.ndarray, budget: int, seed: int) -> Int[np.ndarray, "n"]:
    """A baseline: 1 for each of `budget` random clips, 0 for the others, int64.

    Args:
      groups: number of clips, or the dataset of each: each then keeps its share of the sample, up
        to one clip (largest remainders, Hamilton's method).
    """
    if isinstance(groups, int):
        groups = np.zeros(groups, np.int64)
    rng = np.random.default_rng([seed, 2])
    _, labels, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    quota, rest = np.divmod(sizes * budget, len(labels))
    more = np.lexsort((rng.random(len(sizes)), -rest))[: budget - quota.sum()]
    quota[more] += 1
    taken = np.zeros(len(labels), np.int64)
    taken[hierarchy.nearest_members(labels, rng.random(len(labels)), quota)] = 1
    return taken


def plot(
    before: list[np.ndarray], after: list[np.ndarray], datasets: dict[str, dict[str, Any]]
) -> Figure:
    """Shares of the clusters of each level, largest first, and of the datasets; all and taken.

    Args:
      before, after: clips of every cluster, and copies taken, a level each.
      datasets: {name: {"share_before", "share_after"}}.
    """
    panels = len(before) + 1
    figure = Figure(figsize=(4.2 * panels, 3.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for number, (axis, *counts) in enumerate(zip(axes, before, after, strict=False), 1):
        for index, (name, of) in enumerate(zip(("all", "taken"), counts, strict=True)):
            share = np.sort(of / max(of.sum(), 1))[::-1]
            label = f"{name}: as {effective_number(of):,.0f} equal ones"
            # Clusters without clips have no place on a logarithmic axis.
            axis.plot(
                np.arange(1, len(share) + 1),
                np.where(share > 0, share, np.nan),
                color=pictures.PALETTE[index],
                linewidth=1.6,
                marker="." if len(share) < 40 else "",
                label=label,
            )
        axis.set_yscale("log")
        axis.set_title(f"level {number}: {len(counts[0]):,} clusters", fontsize=9, loc="left")
        axis.set_xlabel("cluster, by size", fontsize=8)
        axis.set_ylabel("share of the clips", fontsize=8)
        axis.legend(fontsize=7)
    axis = axes[-1]
    names = sorted(datasets, key=lambda name: datasets[name]["share_before"])[-30:]
    place = np.arange(len(names))
    for index, key in enumerate(("share_before", "share_after")):
        shares = [100 * datasets[name][key] for name in names]
        label, offset = ("all", "taken")[index], (0.2, -0.2)[index]
        axis.barh(place + offset, shares, height=0.38, color=pictures.colour(index), label=label)
    axis.set_yticks(place, names)
    axis.set_xlabel("% of the clips", fontsize=8)
    axis.set_title("datasets", fontsize=9, loc="left")
    axis.legend(fontsize=7, loc="lower right")
    for axis in axes:
        axis.tick_params(labelsize=7)
    return figure


def _levels(
    out: Path, features: Features, recipe: Recipe, normalise: bool, keep_held_out: bool
) -> list[kmeans.Clustering]:
    """The levels, made or taken from OUT/levels."""
    identity = {
        "features": _digest(features),
        **dataclasses.asdict(recipe),
        **{"normalise": normalise, "keep_held_out": keep_held_out},
    }
    identity = json.loads(json.dumps(identity))  # tuples as they will be read
    saved = out / "levels"
    _check_levels(saved, identity)
    write_whole(saved / "recipe.json", json.dumps(identity, indent=1) + "\n")
    last = time.monotonic()
    with StopSignal() as stop:

        def report(where: str, what: str, done: int, of: int, inertia: float | None) -> None:
            nonlocal last
            if stop.code:
                raise Stopped(
                    f"stopped in {where}; all runs before it are saved, give the same command "
                    f"again to continue",
                    stop.code,
                )
            if time.monotonic() - last >= EVERY_S:
                last = time.monotonic()
                value = "" if inertia is None else f", inertia {inertia:.6g}"
                print(f"{where}: {what} {done:,} of {of:,}{value}", flush=True)

        say = lambda line: print(line, flush=True)  # noqa: E731
        return hierarchy.build(features.values, recipe, saved=saved, say=say, report=report)


def _normalise(values: np.ndarray) -> None:
    """In place; a vector of zeros stays."""
    zeros = 0
    for first in range(0, len(values), 65536):
        block = values[first : first + 65536]
        length = np.linalg.norm(block, axis=1, keepdims=True)
        zeros += int(np.sum(length == 0))
        block /= np.where(length > 0, length, 1)
    if zeros:
        print(f"{zeros:,} features are all zeros and have no direction; they stay so")


def _digest(features: Features) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(features.values))
    for name in PLACE:
        digest.update("\n".join(map(str, features.clips[name].to_pylist())).encode())
    return digest.hexdigest()


def _level_figures(levels, taken, baselines, recipe: Recipe, count: int) -> list[dict[str, Any]]:
    figures, inputs = [], count
    cluster = hierarchy.members(levels).T if levels else []
    for number, (level, labels) in enumerate(zip(levels, cluster, strict=True), 1):
        k = len(level.centroids)
        samples = {"all": np.ones(count, np.int64), "taken": taken, **baselines}
        counts = {name: _counts(labels, of, k) for name, of in samples.items()}
        size = hierarchy.sample_size(recipe, number, inputs, k)
        figures.append(
            {
                "clusters": k,
                "empty": int(np.sum(counts["all"] == 0)),
                "sample_size": size,
                "resampling": recipe.resampling if size > 1 else 0,
                "inertia": level.inertia,
                "effective_clusters": {n: effective_number(c) for n, c in counts.items()},
                "covered_clusters": {n: int(np.sum(c > 0)) for n, c in counts.items()},
                "largest_share": {n: float(c.max() / c.sum()) for n, c in counts.items()},
            }
        )
        inputs = k
    return figures


def _dataset_figures(dataset: np.ndarray, taken: np.ndarray) -> dict[str, Any]:
    names, labels = np.unique(dataset, return_inverse=True)
    before = np.bincount(labels, minlength=len(names))
    after = _counts(labels, taken, len(names))
    rows = zip(names, before, after, before / before.sum(), after / after.sum(), strict=True)
    keys = ("clips", "copies", "share_before", "share_after")
    return {
        "datasets": {
            str(name): dict(zip(keys, (int(a), int(b), float(c), float(d)), strict=True))
            for name, a, b, c, d in rows
        },
        "effective_datasets": {"all": effective_number(before), "taken": effective_number(after)},
    }


def _counts(labels: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(labels, weights=weights, minlength=k).astype(np.int64)


def _write(
    out: Path, features: Features, levels: list, taken: np.ndarray, result: dict[str, Any]
) -> None:
    """All files; curation.json is the last, and is never beside clips of other settings."""
    (out / "curation.json").unlink(missing_ok=True)
    chosen = np.flatnonzero(taken)
    clips = features.clips.select(list(PLACE))
    weight = pa.array(taken[chosen].astype(np.float64))
    _write_table(out / "clips.parquet", clips.take(chosen).append_column("weight", weight))
    before, after = [], []
    if levels:
        cluster = hierarchy.members(levels)
        for number, level in enumerate(levels):
            clips = clips.append_column(f"level_{number + 1}", pa.array(cluster[:, number]))
            k = len(level.centroids)
            before.append(np.bincount(cluster[:, number], minlength=k))
            after.append(_counts(cluster[:, number], taken, k))
        distance = pa.array(np.sqrt(levels[0].distances))
        _write_table(out / "clusters.parquet", clips.append_column("distance", distance))
    pictures.save(plot(before, after, result["datasets"]), out / "curation.png")
    write_whole(out / "curation.json", json.dumps(result, indent=1) + "\n")


def _write_table(path: Path, table: pa.Table) -> None:
    with whole(path) as part:
        pq.write_table(table, part)


def _print(out: Path, result: dict[str, Any]) -> None:
    for number, level in enumerate(result["levels"], 1):
        even = level["effective_clusters"]
        print(
            f"level {number}: as even as {even['all']:,.0f} equal clusters before, "
            f"{even['taken']:,.0f} after, {even['random']:,.0f} in a random sample "
            f"(of {level['clusters']:,})"
        )
    even = result["effective_datasets"]
    print(f"datasets: as even as {even['all']:.1f} equal ones before, {even['taken']:.1f} after")
    more = f", {result['copies']:,} copies" if result["copies"] != result["taken"] else ""
    print(
        f"{result['taken']:,} of {result['clips']:,} clips taken{more}; {out / 'clips.parquet'} "
        f"lists them"
    )


def _check_settings(recipe: Recipe, budget: float, copies: int, method: str) -> None:
    clusters = recipe.clusters
    if not clusters or min(clusters) < 1 or list(clusters) != sorted(set(clusters), reverse=True):
        raise UserError(
            f"--clusters is {','.join(map(str, clusters))}; expected numbers that fall from level "
            f"to level, such as 25000,5000,1000"
        )
    if recipe.sample_size is not None and len(recipe.sample_size) != len(clusters):
        raise UserError(
            f"--sample-size has {len(recipe.sample_size)} numbers for {len(clusters)} levels; "
            f"give auto, one number, or one a level"
        )
    least = {"--iterations": (recipe.iterations, 1), "--resampling": (recipe.resampling, 0)}
    least |= {"--copies": (copies, 1), "--seed": (recipe.seed, 0)}
    for name, (value, low) in least.items():
        if value < low:
            raise UserError(f"{name} is {value}; expected a whole number from {low} on")
    if not 0 < budget < float("inf") or (budget > 1 and budget % 1):
        raise UserError(
            f"--budget is {budget:g}; expected a share of the clips up to 1, or a whole number of "
            f"clips above"
        )
    if method not in METHODS:
        raise UserError(f"--method is {method!r}; expected one of {', '.join(METHODS)}")


def _check_out(out: Path, method: str) -> None:
    """Raises UserError where `out` holds what this command would not replace."""
    held = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    foreign = {name for name in held if not name.startswith(".")} - FILES
    if foreign or (out.exists() and not out.is_dir()):
        raise UserError(
            f"{out} exists and is no curation (holds {', '.join(sorted(foreign))[:80] or 'a file'})"
            f"; choose another --out"
        )
    before = "hierarchical" if "levels" in held else None
    if "curation.json" in held:
        try:
            before = parse_json((out / "curation.json").read_text(encoding="utf-8"))["method"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{out / 'curation.json'} cannot be read; delete it or choose another --out"
            ) from error
    if before not in (None, method):
        raise UserError(
            f"{out} holds a {before} curation, not a {method} one; choose another --out"
        )


def _check_levels(saved: Path, identity: dict[str, Any]) -> None:
    """Raises UserError where the kept levels are of other features or settings."""
    path = saved / "recipe.json"
    if not path.exists() or not any(saved.glob("level-*.npz")):
        return
    try:
        before = parse_json(path.read_text(encoding="utf-8"))
        other = [k for k in identity if before.get(k) != identity[k]]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read; delete {saved} to cluster again") from error
    if not other:
        return
    name = other[0]
    what = "are of other features"
    if name != "features":
        what = f"have {name} {before.get(name)} and this command {identity[name]}"
    raise UserError(
        f"the clusters in {saved} {what}; give what made them, choose another --out, or delete "
        f"{saved} to cluster again"
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not whole numbers with commas between"
        ) from error


def _sample_sizes(text: str, levels: int) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    try:
        sizes = _numbers(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--sample-size: {error}, nor auto") from error
    if min(sizes) < 1:
        raise UserError(f"--sample-size is {text}; expected numbers from 1 on (1: no resampling)")
    return sizes * levels if len(sizes) == 1 else sizes


class _Parser(argparse.ArgumentParser):
    """argparse whose mistakes are one line that names the nearest option."""

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        word = message.split(": ")[-1].split("=")[0].split(" ")[0]
        hint = nearest(word, options) if word.startswith("--") and word not in options else ""
        raise UserError(f"{message}{hint}; python -m surgjax.curate --help shows the options")


if __name__ == "__main__":
    run(main)
