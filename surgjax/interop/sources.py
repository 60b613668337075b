"""Weights to start from: a run of ours, a Hugging Face folder or a weight file, read alike."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from surgjax.digests import find_step, is_run, read_meta
from surgjax.errors import UserError
from surgjax.files import parse_json, sha256, to_path
from surgjax.interop import files, find_format, formats, licence
from surgjax.interop.keys import Reading, shortened, to_ours
from surgjax.interop.licence import UNKNOWN_DATA, licences, pretrained_on
from surgjax.state import Params, flatten, unflatten


@dataclass(frozen=True)
class Loaded:
    """Parameters found in a source, and what must travel with them.

    Attributes:
      params: nested dict of float32 arrays, keyed like the wanted parameters; a subset of them.
      missing: wanted paths ("decoder/head/bias") the source does not give; they stay fresh.
      provenance: {source: name, format, licence: SPDX id or unknown, pretrained_on: ["cholec80
        (train)"] or ["unknown"], used_cases: [case id] or None where not known, sha256}.
      notes: one line for everything left out, left fresh or different.
    """

    params: Params
    missing: list[str]
    provenance: dict[str, Any]
    notes: list[str]

    def report(self) -> str:
        """A few lines for the log: what was loaded, what is fresh and why."""
        count = len(flatten(self.params))
        about = self.provenance
        first = (
            f"loaded {count} tensors from {about['source']} ({about['format']}), "
            f"{len(self.missing)} stay fresh; licence {about['licence']}, "
            f"pretrained on {', '.join(about['pretrained_on'])}"
        )
        return "\n  ".join([first, *self.notes])


def init_all(paths: Sequence[str | Path], **options: Any) -> Loaded:
    """`init_params` of several sources, each for the networks it has, as a video tower's run and a
    text tower's folder.

    Raises:
      UserError: as `init_params`, or two sources with the same network.
    """
    parts = [init_params(path, **options) for path in paths]
    if len(parts) == 1:
        return parts[0]
    given: dict[str, np.ndarray] = {}
    for path, part in zip(paths, parts, strict=True):
        both = sorted({name.split("/")[0] for name in given.keys() & flatten(part.params).keys()})
        if both:
            raise UserError(
                f"{path} has the {both[0]} that an earlier source of init_from has too; name "
                f"sources with different networks"
            )
        given |= flatten(part.params)
    about = [part.provenance for part in parts]
    cases = [one["used_cases"] for one in about]
    together = {
        "source": "; ".join(one["source"] for one in about),
        "format": ", ".join(dict.fromkeys(one["format"] for one in about)),
        "licence": licence.combined([one["licence"] for one in about]),
        "pretrained_on": list(
            dict.fromkeys(name for one in about for name in one["pretrained_on"])
        ),
        "used_cases": None if None in cases else sorted({c for some in cases for c in some}),
        "sha256": hashlib.sha256("".join(one["sha256"] for one in about).encode()).hexdigest(),
    }
    missing = sorted(set.intersection(*(set(part.missing) for part in parts)))
    notes = [note for part in parts for note in part.notes if not note.startswith("fresh: ")]
    fresh = sorted({path.split("/")[0] for path in missing})
    notes += [f"fresh: {name} (in none of them)" for name in fresh]
    return Loaded(unflatten(given), missing, together, notes)


def init_params(
    path: str | Path,
    *,
    expected: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
) -> Loaded:
    """Parameters of ours from a run (or its step folder), a Hugging Face folder, or a weight file.

    A source that holds an encoder alone leaves the other networks fresh, and so does a run of ours
    with another objective.

    Args:
      expected: nested dict of the shapes wanted, as tuples, keyed like our parameters.
      config: the configuration that will be trained; tells whether objective and positions differ.
      allow: globs over tensor names of the source and paths of ours that may be unused or missing.

    Raises:
      UserError: nothing there, another model family or size, missing or unused tensors (by name),
        content that could run code, PyTorch needed but absent.
    """
    path = to_path(path)
    shapes = {name: tuple(shape) for name, shape in flatten(expected).items()}
    if is_run(path):
        reading, provenance = _from_run(path, shapes, config or {}, allow)
    else:
        reading, provenance = _from_outside(path, shapes, config or {}, allow)
    return Loaded(unflatten(reading.params), reading.fresh, provenance, reading.notes)


def _from_run(
    path: Path, shapes: Mapping, config: Mapping, allow: Sequence[str]
) -> tuple[Reading, dict[str, Any]]:
    from surgjax.checkpoint import read_model

    folder = find_step(path)
    theirs, notes, below = read_meta(folder).get("config", {}), [], ()
    before, now = (c.get("objective", {}).get("name") for c in (theirs, config))
    if before and now and before != now:
        below = ("encoder",)
        notes.append(f"encoder alone: that run's objective is {before!r}, this one's {now!r}")
    before, now = (c.get("encoder", {}).get("positions") for c in (theirs, config))
    if before and now and before != now:
        notes.append(f"positions differ: that run has {before!r}, this one {now!r}")
    tree, meta = read_model(folder, below)
    params = {name: np.asarray(array, np.float32) for name, array in flatten(tree).items()}
    reading = _same_paths(params, shapes, allow, str(path))
    check_shapes(reading.params, shapes, path)
    digest = sha256(folder / "DIGESTS.json")
    pretrained = pretrained_on(meta)
    provenance = {
        "source": f"{folder.parent.parent.name}, step {folder.name}",
        "format": "surgjax run",
        "licence": licence.combined(licences(meta).values()),
        "pretrained_on": pretrained,
        "used_cases": None if "unknown" in pretrained else list(meta.get("used_cases") or []),
        "sha256": digest,
    }
    return Reading(reading.params, reading.fresh, notes + reading.notes), provenance


def _same_paths(
    params: dict[str, np.ndarray], shapes: Mapping, allow: Sequence[str], source: str
) -> Reading:
    """A run's parameters through a table of identical names: the same rules as for other files."""
    from surgjax.interop.keys import Row, Table

    paths = sorted(set(params) | set(shapes))
    return to_ours(
        Table(tuple(Row(p, p) for p in paths)), params, shapes, source=source, allow=allow
    )


@dataclass(frozen=True)
class Outside:
    """A folder or file that somebody else's program wrote.

    Attributes:
      module: its format, a module of this package.
      config: config.json, empty where there is none.
      weights: its tensors, in its own names.
    """

    module: ModuleType
    config: dict[str, Any]
    weights: files.Weights


def open_outside(path: Path) -> Outside:
    """What lies at `path`, told by its config.json or else by its tensor names.

    Raises:
      UserError: nothing there, or a family or layout that no format module knows.
    """
    if not path.exists():
        hub = len(path.parts) == 2 and not path.is_absolute()
        fix = "check the path"
        if hub:
            fix += f"; a name on the hub: download it first: hf download {path} --local-dir DIR"
        raise UserError(
            f"{path} does not exist; expected a run, a Hugging Face folder or a weight file; {fix}"
        )
    config = _config_beside(path)
    module = _format_by_type(config, path) if config.get("model_type") else None
    weights = files.read(path)
    return Outside(module or _format_by_names(weights.tensors, path), config, weights)


def _from_outside(
    path: Path, shapes: Mapping, config: Mapping, allow: Sequence[str]
) -> tuple[Reading, dict[str, Any]]:
    outside = open_outside(path)
    module, theirs = outside.module, outside.config
    _check_family(path, outside, {name.split("/")[0] for name in shapes})
    with describing(path):
        notes = module.check_config(theirs, str(path)) if module.MODEL_TYPE else []
        heads = module.heads(theirs) if theirs else {}
    tensors = module.canonical(outside.weights.tensors)
    reading = to_ours(module.TABLE, tensors, shapes, source=str(path), allow=allow)
    if hasattr(module, "fitted"):
        notes += module.fitted(reading.params, shapes)
    check_shapes(reading.params, shapes, path)
    if theirs:
        _check_heads(heads, reading.params, config, path)
    had = getattr(module, "POSITIONS", "sincos_1d")
    positions = config.get("encoder", {}).get("positions", had)
    if positions != had:
        notes.append(f"positions differ: these weights had {had!r}, this run has {positions!r}")
    return Reading(reading.params, reading.fresh, notes + reading.notes), provenance(path, outside)


@contextmanager
def describing(path: Path) -> Iterator[None]:
    """What a config.json of odd values raises where it is read, as one UserError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{path}/config.json describes no network ({type(error).__name__} {reason:.120}); "
            f"expected what the public class writes; get the folder again"
        ) from error


def _check_family(path: Path, outside: Outside, wanted: set[str]) -> None:
    """Raise UserError for a family that has none of the networks wanted."""
    held = {row.part for row in outside.module.TABLE.rows}
    if not held & wanted:
        name = outside.module.__name__.rsplit(".", 1)[-1]
        raise UserError(
            f"{path} looks like a {outside.config.get('model_type', name)!r} model, which has "
            f"{', '.join(sorted(held))}; expected one with {' or '.join(sorted(wanted))}; give "
            f"another folder or file"
        )


def _config_beside(path: Path) -> dict[str, Any]:
    """config.json of a folder, or of the folder a Hugging Face weight file lies in; else empty."""
    folder = path if path.is_dir() else path.parent
    belongs = path.is_dir() or path.name in files.FOLDER_FILES
    file = folder / "config.json"
    return files.read_json(file) if belongs and file.is_file() else {}


def _format_by_type(config: Mapping[str, Any], path: Path):
    modules = {name: find_format(name) for name in formats()}
    found = [m for m in modules.values() if config["model_type"] in model_types(m)]
    if not found:
        folders = [name for m in modules.values() for name in model_types(m)]
        layouts = [name for name, m in modules.items() if not m.MODEL_TYPE]
        named = config.get("architectures") or "no class named"
        raise UserError(
            f"{path} looks like a {config['model_type']!r} model "
            f"({', '.join(map(str, named)) if isinstance(named, list) else named}); expected "
            f"{' or '.join(folders)}, or a weight file in the names of {' or '.join(layouts)}; "
            f"give another folder or file"
        )
    return found[0]


def model_types(module: ModuleType) -> tuple[str, ...]:
    """What config.json may say of a format's folders; a family of towers has several."""
    kind = module.MODEL_TYPE or ()
    return (kind,) if isinstance(kind, str) else kind


def _format_by_names(names: Mapping[str, Any], path: Path):
    for name in formats():
        module = find_format(name)
        if module.recognises(names):
            return module
    raise UserError(
        f"{path} holds tensors of no known layout, such as {shortened(sorted(names), 4)}; expected "
        f"{', '.join(formats())}; give another file"
    )


def check_shapes(params: Mapping[str, np.ndarray], shapes: Mapping, path: Path) -> None:
    """Raise UserError naming the config field behind the first shape that differs."""
    wrong = [name for name in params if params[name].shape != shapes[name]]
    if not wrong:
        return
    wrong.sort(key=lambda name: not name.startswith("encoder/"))  # a decoder follows its encoder
    part = wrong[0].split("/")[0]
    found, wanted = (_describe(s, part) for s in ({n: a.shape for n, a in params.items()}, shapes))
    field = {
        "encoder": "encoder.size",
        "decoder": "objective.decoder_width and decoder_depth",
        "predictor": "objective.predictor_width and predictor_depth",
        "image_encoder": "objective.teacher.size",
    }
    if found == wanted or None in (found, wanted):
        found, wanted = params[wrong[0]].shape, shapes[wrong[0]]
        field = {part: f"tensor {wrong[0]}"}
    raise UserError(
        f"{path} has another model size: {field.get(part, part)} found {found}, expected {wanted}; "
        f"set the config to the checkpoint's size or use another checkpoint"
    )


def _describe(shapes: Mapping[str, tuple[int, ...]], part: str) -> str | None:
    """'B (width 768, 12 blocks)' for a network of stacked blocks; None for another kind."""
    from surgjax.models.video_vit import SIZES

    norm = shapes.get(f"{part}/blocks/norm1/scale")
    if norm is None:
        return None
    depth, width = norm
    name = next((n for n, size in SIZES.items() if (size.width, size.depth) == (width, depth)), "")
    text = f"width {width}, {depth} blocks"
    return f"{name} ({text})" if name and part == "encoder" else text


def _check_heads(found: Mapping[str, tuple[str, int]], params, config: Mapping, path: Path) -> None:
    """Raise UserError when a checkpoint splits the same width into other attention heads."""
    from surgjax.models.video_vit import SIZES

    objective = config.get("objective", {})
    for part, (field, heads) in found.items():
        if f"{part}/blocks/norm1/scale" not in params:
            continue
        width = params[f"{part}/blocks/norm1/scale"].shape[1]
        published = {s.width: s.heads for s in SIZES.values()}
        if part == "text_encoder":
            wanted = config.get("objective", {}).get("text", {}).get("heads")
            published = {width: wanted} if wanted else {}
        if part == "decoder":
            published = {s.decoder_width: s.decoder_heads for s in SIZES.values()}
        if part == "predictor":
            published = {width: 12}
        if objective.get(f"{part}_heads"):
            published = {width: objective[f"{part}_heads"]}
        if heads != published.get(width, width // 64):
            raise UserError(
                f"{path}/config.json has {field}={heads}; expected "
                f"{published.get(width, width // 64)} for width {width}: equal shapes, another "
                f"network; use a checkpoint with that many heads"
            )


def provenance(path: Path, outside: Outside) -> dict[str, Any]:
    """What the source says of itself: our own metadata first, then its model card, else unknown.

    The fields are those of `Loaded.provenance`.
    """
    hub = str(outside.config.get("_name_or_path"))  # may be a path of somebody's machine
    stated = _object(outside.weights.metadata.get("surgjax") or "{}")
    card = front_matter((path if path.is_dir() else path.parent) / "README.md")
    field = "license_name" if card.get("license") == "other" else "license"
    terms = _texts(stated.get("licence")) or _texts(card.get(field)) or [outside.module.LICENCE]
    from_card = _texts(card.get("pretrained_on"))
    from_card = from_card or [f"{name} (split unknown)" for name in _texts(card.get("datasets"))]
    return {
        "source": hub if re.fullmatch(r"[\w.-]+/[\w.-]+", hub) else path.absolute().name,
        "format": outside.module.__name__.rsplit(".", 1)[-1],
        "licence": licence.normalised(terms[0]) if len(terms) == 1 else licence.combined(terms),
        "pretrained_on": _texts(stated.get("pretrained_on")) or from_card or UNKNOWN_DATA,
        "used_cases": None,
        "sha256": outside.weights.sha256,
    }


def front_matter(card: Path) -> dict[str, Any]:
    """YAML head of a model card; empty where there is none."""
    import yaml

    try:
        head = card.read_text(encoding="utf-8").split("---\n", 2)
        values = yaml.safe_load(head[1]) if len(head) == 3 and not head[0].strip() else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _object(text: str) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    """A text, or those of a list; a few lines of YAML can make other values of any size."""
    return [text for text in (value if isinstance(value, list) else [value]) if _is_text(text)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
