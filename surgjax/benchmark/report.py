"""`python -m surgjax.benchmark report SOURCE... --out DIR`: one page, DIR/report.html.

A SOURCE is one of

    a folder of results    that `run` filled: tables, heat tables, and of every job its numbers
                           with intervals and floors, and its pictures
    a run                  or any folder with runs: evaluations, curves, pictures
    a predictions.parquet  of ours or anybody's: numbers and pictures
    a features.parquet     with --stores: a map by procedure and source, nearest neighbours

Everything is inlined, so that the page opens from a disk without a network and can be sent as one
file. Pictures made for it are in DIR/report_pictures too, each as PNG, SVG and a csv of the numbers
behind it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from surgjax.benchmark import page, predictions, report_jobs, report_run, results, score, suites
from surgjax.benchmark.curves import Sizes, read_sizes
from surgjax.benchmark.page import Picture, Section
from surgjax.data.store import Store
from surgjax.errors import UserError
from surgjax.files import write_whole
from surgjax.verbs import between_commas

MAX_BYTES = page.MAX_BYTES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--title", default="surgjax report")
    parser.add_argument("--task", choices=score.PROTOCOLS, help="of a predictions.parquet")
    parser.add_argument("--protocol", help="to score it with; default: the first of the task")
    parser.add_argument("--stores", help="folders of stores that features are of, with commas")
    parser.add_argument(
        "--sizes",
        type=Path,
        metavar="FILE",
        help="csv: model,series,hours (or videos, ...) for scaling curves; without it models named "
        "SERIES-A to SERIES-E are taken as SurgVISTA's settings",
    )


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    path = write_report(
        args.sources,
        args.out / "report.html",
        args.title,
        task=args.task,
        protocol=args.protocol,
        stores=suites.open_stores(between_commas(args.stores or "")),
        sizes=read_sizes(args.sizes) if args.sizes else None,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def write_report(
    sources: Path | Sequence[Path],
    out: Path | None = None,
    title: str = "surgjax report",
    *,
    task: str | None = None,
    protocol: str | None = None,
    stores: Sequence[Store] = (),
    sizes: Sizes | None = None,
) -> Path:
    """Writes the page; returns its path.

    Args:
      sources: as above, one or several.
      out: the page; report.html in the (first) folder by default. Pictures lie beside it.
      task, protocol: of predictions; by default phase for one class a row, triplet for
        instrument,verb,target, tool for other lists, and clip without times.
      stores: that features are of.
      sizes: how much data models were pretrained on, for scaling curves.

    Raises:
      UserError: a source is missing or holds nothing to show, or files that cannot be read.
    """
    sources = [Path(sources)] if isinstance(sources, (str, Path)) else [*map(Path, sources)]
    first = sources[0]
    out = Path(out) if out else (first if first.is_dir() else first.parent) / "report.html"
    folder = out.parent / f"{out.stem}_pictures"
    sections = []
    for number, source in enumerate(sources):
        at = folder if len(sources) == 1 else folder / f"{number}_{source.stem}"
        if source.is_dir():
            found = results.read(source)
            if found:
                sections += report_jobs.of_results(found, at, sizes)
            else:
                sections += report_run.of_folder(source, at)
        elif not source.is_file():
            raise UserError(f"{source} is no folder and no file; expected a run or results")
        elif "vector" in _columns(source):
            sections += _features(source, stores, at)
        else:
            asked = task or _task(source)
            known = protocol or score.PROTOCOLS[asked][0]
            sections += report_jobs.of_predictions(source, asked, known, at)
    if not sections:
        raise UserError(
            f"{', '.join(map(str, sources))} holds no metrics.jsonl, metrics.json, job.json or "
            f"pictures; train or evaluate first"
        )
    write_whole(out, page.page(title, sections, MAX_BYTES))
    return out


def _features(file: Path, stores: Sequence[Store], out: Path) -> list[Section]:
    from surgjax.benchmark import embedding, pictures, vectors  # reads frames: needs codecs

    if not stores:
        raise UserError(f"{file} holds features; give the stores they are of as --stores")
    found, shown = vectors.read(file), []
    for name, plot, alt in (
        (
            "embedding",
            embedding.plot_embedding,
            "Two principal components, by procedure and source",
        ),
        ("neighbours", embedding.plot_neighbours, "Frames and their nearest of other cases"),
    ):
        try:
            made = pictures.save_with_data(*plot(found, stores), out / name)
        except ValueError as error:
            raise UserError(f"{file}: {error}; give more features") from error
        shown.append(Picture(made[0], alt))
    return [Section(f"Features: {file.name}", pictures=tuple(shown))]


def _columns(file: Path) -> list[str]:
    try:
        return pq.read_schema(file).names
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is no Parquet file of predictions or features") from error


def _task(file: Path) -> str:
    names = predictions.classes_of(file)
    columns = pq.read_schema(file)
    if pa.types.is_integer(columns.field("target").type):
        return "phase" if "t_ms" in columns.names else "clip"
    return "triplet" if all(name.count(",") == 2 for name in names) else "tool"
