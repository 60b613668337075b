"""Write a trained model as a folder that other programs load.

    python -m surgjax.export --run=RUN --format=videomae --out=OUT [--step=N]
    python -m surgjax.export --from=FOLDER --out=OUT [--format=videomae_official]

`--from` takes a public model that surgjax can load instead of a run, and writes it as the class its
config.json names, or in another layout of the same network. The folder appears whole or not at all.
With PyTorch installed, the public class opens it before it appears and must give our outputs; the
differences are in parity.json.
"""

import argparse
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from surgjax.errors import UserError, nearest, run

log = logging.getLogger("surgjax")
LIMIT = 1e-4  # largest difference to the public class, in units of max(1, largest output)
# Settings of a public model that travel with it unchanged.
BESIDE = {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}
BESIDE |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}
BESIDE |= {"vocab.json", "merges.txt", "spiece.model", "added_tokens.json"}
UNWRITTEN = ("_name_or_path", "transformers_version")  # of somebody's machine; of another program
FILES = {"config.json", "README.md", "parity.json"} | BESIDE
UNWRITABLE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST")
}


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, export, print where the folder is."""
    parser = _Parser(prog="python -m surgjax.export", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="run folder, or one of its steps")
    what.add_argument("--from", type=Path, dest="folder", help="folder of a public model")
    parser.add_argument("--format", help="outside format (default: videomae; --from: the same)")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument(
        "--step", type=int, help="checkpoint to take (default: the newest whole one)"
    )
    given = parser.parse_args(arguments)
    if given.folder is not None:
        parity = reexport(given.folder, given.out, format=given.format)
    else:
        parity = export(given.run, given.out, format=given.format or "videomae", step=given.step)
    print(f"exported to {given.out}\n{_parity_sentence(parity)}")
    return 0


def export(
    source: str | Path, out: str | Path, *, format: str = "videomae", step: int | None = None
) -> dict[str, Any] | None:
    """Export a checkpoint of a run.

    Args:
      source: run folder or step folder.
      out: folder to make; an earlier export there is replaced.
      format: a file name of surgjax/interop.

    Returns:
      Content of parity.json, or None where nothing could be compared.

    Raises:
      UserError: no whole checkpoint, unknown format, a model the format cannot hold, `out` taken.
      RuntimeError: the public class computes something else from the exported files.
    """
    from surgjax import words
    from surgjax.checkpoint import read_model
    from surgjax.digests import find_step
    from surgjax.files import to_path
    from surgjax.interop import card, find_format
    from surgjax.state import flatten

    source, out, module = to_path(source), Path(out), find_format(format)
    _check_out(out)
    if not source.exists():
        raise UserError(f"{source} does not exist; expected a run folder; check --run")
    folder = find_step(source, step)
    tree, meta = read_model(folder)
    params = {path: np.asarray(array, np.float32) for path, array in flatten(tree).items()}
    meta = {**meta, "step": int(folder.name) if folder.name.isdigit() else 0}
    objective, graphdef = _abstract_objective(meta["config"], params, folder)
    params = _what_fits(params, module, format)
    contents = module.json_files(objective, params)
    tensors = _outside_tensors(module, params, contents.get("config.json", {}))
    if hasattr(module, "fixed_tensors"):
        tensors |= module.fixed_tensors(objective, params)
    metadata = {"surgjax": json.dumps(card.provenance(meta), sort_keys=True)}

    def fill(partial: Path) -> dict[str, Any] | None:
        _write_tensors(partial, module, tensors, metadata)
        for name, content in contents.items():
            (partial / name).write_text(json.dumps(content, indent=2) + "\n")
        parts = {path.split("/")[0] for path in params}
        kept = folder.parent.parent / words.FOLDER
        if "text_encoder" in parts and kept.is_dir():
            shutil.copytree(kept, partial, dirs_exist_ok=True)
        parity = _compare(module, partial, graphdef, tree, objective, parts)
        has_head = {"has_head": True} if "head" in parts else {}
        usage = module.usage(meta["config"]["data"]["frames"], **has_head)
        text = card.card(meta, usage, _parity_sentence(parity))
        (partial / "README.md").write_text(text, encoding="utf-8")
        return parity

    return _appear_whole(out, fill)


def reexport(
    source: str | Path, out: str | Path, *, format: str | None = None
) -> dict[str, Any] | None:
    """Write a public model again, from what surgjax made of it.

    Args:
      source: folder with config.json, or a weight file whose format needs none.
      out: folder to make; an earlier export there is replaced.
      format: another layout of the same network; None for the source's own.

    Returns:
      Content of parity.json, or None where nothing could be compared.

    Raises:
      UserError: as `interop.load`; a format that cannot hold the network; `out` taken.
      RuntimeError: the public class computes something else from the written files.
    """
    from surgjax import interop
    from surgjax.interop import card
    from surgjax.interop.sources import model_types
    from surgjax.state import flatten

    source, out = Path(source), Path(out)
    _check_out(out)
    model = interop.load(source)
    module = interop.find_format(format or model.family)
    if module.MODEL_TYPE and model.config.get("model_type") not in model_types(module):
        raise UserError(
            f"{source} is a {model.family} model and cannot become {format}; leave --format out, "
            f"or name a layout of the same network"
        )
    tensors = _outside_tensors(module, flatten(model.params), model.config)
    own = ("licence", "pretrained_on")
    metadata = {"surgjax": json.dumps({k: model.provenance[k] for k in own}, sort_keys=True)}

    def fill(partial: Path) -> dict[str, Any] | None:
        _write_tensors(partial, module, tensors, metadata)
        parity = None
        if module.MODEL_TYPE:
            config = {k: v for k, v in model.config.items() if k not in UNWRITTEN}
            (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            found = {f.name for f in source.iterdir()} if source.is_dir() else set()
            for name in sorted(BESIDE & found):
                shutil.copyfile(source / name, partial / name)
            parity = _compare_example(module, partial, model.config, model.apply)
        text = card.public_card(model, _parity_sentence(parity))
        (partial / "README.md").write_text(text, encoding="utf-8")
        return parity

    return _appear_whole(out, fill)


def _outside_tensors(
    module: ModuleType, params: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    from surgjax.interop.keys import from_ours

    tensors = from_ours(module.TABLE, params)
    if hasattr(module, "outside_names"):  # names that depend on the class
        tensors = module.outside_names(tensors, config)
    return tensors


def _write_tensors(
    folder: Path, module: ModuleType, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    from surgjax.interop import files

    path = folder / module.WEIGHTS
    if path.suffix == ".safetensors":
        files.write_safetensors(path, tensors, metadata)
    else:
        own = {"content": module.content} if hasattr(module, "content") else {}
        files.write_torch(path, tensors, metadata, **own)


def _appear_whole(
    out: Path, fill: Callable[[Path], dict[str, Any] | None]
) -> dict[str, Any] | None:
    """Make `out` by `fill`, which returns the comparison; nothing is left behind by a failure."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        parity = fill(partial)
        if parity is not None:
            (partial / "parity.json").write_text(json.dumps(parity, indent=2) + "\n")
        _move(partial, out)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(
            f"cannot write {out} ({error.strerror or error}); expected free space and the right "
            f"to write there; nothing was left behind, choose another --out or free space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return parity


def _abstract_objective(config: dict[str, Any], params: dict[str, np.ndarray], folder: Path):
    """(the run's objective without numbers, its definition), in the shapes of the checkpoint."""
    import jax.numpy as jnp
    from flax import nnx

    from surgjax import objectives
    from surgjax.state import flatten, split

    objective = nnx.eval_shape(
        lambda: objectives.build(
            **config["objective"],
            frames=config["data"]["frames"],
            size=config["data"]["size"],
            encoder=config["encoder"],
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )
    )
    graphdef, shapes = split(objective)
    wanted = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    wrong = sorted(
        p for p in wanted | params if getattr(params.get(p), "shape", 0) != wanted.get(p)
    )
    if wrong:
        found = params[wrong[0]].shape if wrong[0] in params else "nothing"
        raise UserError(
            f"{folder} does not fit its own config: {wrong[0]} found {found}, expected "
            f"{wanted.get(wrong[0], 'nothing')}; use the version of surgjax that wrote it"
        )
    return objective, graphdef


def _what_fits(
    params: dict[str, np.ndarray], module: ModuleType, format: str
) -> dict[str, np.ndarray]:
    """All parameters, or those of the networks that the format takes out of a larger run."""
    places = {row.ours for row in module.TABLE.rows}
    parts = {path.split("/")[0] for path in params}
    of_part = lambda paths, part: {p for p in paths if p.startswith(f"{part}/") or p == part}  # noqa: E731
    odd = {part for part in parts if of_part(params, part) != of_part(places, part)} - {"encoder"}
    if not odd:
        return params
    taken = getattr(module, "FROM_RUN", ("encoder",))
    left_out = getattr(module, "LEFT_OUT", ())
    inside = {
        path: value
        for path, value in params.items()
        if path.split("/")[0] in taken and not path.startswith(left_out)
    }
    if not inside:
        remedy = "choose a format of these networks"
        if "image_encoder" in parts:
            remedy = "image classifiers have no --format yet"
        raise UserError(
            f"--format={format} takes the {' and '.join(taken)} of a run and this one has "
            f"{', '.join(sorted(parts))}; {remedy}"
        )
    kept, lost = " and ".join(taken), ", ".join(sorted(odd))
    log.warning("exporting %s alone: %s cannot hold all of %s", kept, format, lost)
    return inside


def _compare(
    module: ModuleType, folder: Path, graphdef, params, objective, parts: set[str]
) -> dict[str, Any] | None:
    """Our outputs on a seeded clip against the public class's; None where there is none to ask."""
    import jax

    from surgjax.state import rebuild

    if hasattr(module, "ask"):  # one network of a run, asked as the public class is
        config = json.loads((folder / "config.json").read_text())
        ask = jax.jit(lambda params, inputs: module.ask(rebuild(graphdef, params), inputs))
        with jax.default_matmul_precision("highest"):
            return _compare_example(
                module, folder, config, lambda **inputs: jax.device_get(ask(params, inputs))
            )
    if not module.has_reference():
        return None
    grid, patch = objective.encoder.grid, objective.encoder.patch
    shape = (1, *(n * p for n, p in zip(grid, patch, strict=True)), 3)
    clip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    @jax.jit
    def outputs(params, batch):
        module = rebuild(graphdef, params)
        if "head" in parts:
            return {"logits": module.logits(batch["video"])}
        made = {"tokens": module.encode(batch["video"])}
        if "predictor" in parts:
            made["predictions"] = module.predict_everything(batch["video"])
        if "decoder" in parts:
            pictures = module.reconstruct(batch, jax.random.key(0))
            loss = ((pictures["prediction"] - pictures["target"]) ** 2).mean()
            made |= {"masked": pictures["masked"], "logits": pictures["prediction"], "loss": loss}
        return made

    with jax.default_matmul_precision("highest"):
        made = jax.device_get(outputs(params, {"video": clip, "index": np.zeros(1, np.int32)}))
    masked = np.asarray(made["masked"], np.int64) if "masked" in made else None
    theirs = module.reference(folder, clip, masked)
    described = f"numpy default_rng(0).integers(0, 256, {list(shape)}, uint8)"
    return _parity(made, theirs, described)


def _compare_example(
    module: ModuleType, folder: Path, config: Mapping[str, Any], answer: Callable[..., Mapping]
) -> dict[str, Any] | None:
    """`answer(**inputs)` to the format's own inputs against the public class's; None without it."""
    import importlib.util

    from surgjax.interop import public

    if importlib.util.find_spec("torch") is None:
        return None
    inputs = module.example(config, np.random.default_rng(0))
    theirs = public.reference(folder, config, inputs)
    return _parity(answer(**inputs), theirs, "the format's example(), numpy default_rng(0)")


def _parity(
    made: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], inputs: str
) -> dict[str, Any]:
    """Content of parity.json. Raises RuntimeError for a difference beyond LIMIT."""
    import importlib.metadata

    common = sorted(set(made) & set(theirs))
    differences = {name: float(np.abs(made[name] - theirs[name]).max()) for name in common}
    for name, difference in differences.items():
        if not difference <= LIMIT * max(1.0, float(np.abs(theirs[name]).max())):
            raise RuntimeError(
                f"the exported {name} differ by {difference:.2e} from ours; nothing was exported"
            )
    if not differences:
        raise RuntimeError(f"no output to compare: ours {sorted(made)}, theirs {sorted(theirs)}")
    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch", "transformers")}
    return {
        "max_abs_difference": differences,
        "limit": LIMIT,
        "clip": inputs,
        "versions": versions,
    }


def _parity_sentence(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return (
            "Not compared with the public class: PyTorch was not installed, or the format has none."
        )
    worst = ", ".join(f"{k} {v:.1e}" for k, v in parity["max_abs_difference"].items())
    return f"Largest difference between the public class and the trained network: {worst}."


def _check_out(out: Path) -> None:
    """Raise UserError where `out` holds anything but an earlier export."""
    from surgjax.interop import find_format, formats
    from surgjax.interop.card import TAG
    from surgjax.interop.sources import front_matter

    if not out.exists():
        return
    held = {entry.name for entry in out.iterdir()} if out.is_dir() else {"a file"}
    foreign = sorted(held - FILES - {find_format(name).WEIGHTS for name in formats()})
    if foreign or (held and TAG not in (front_matter(out / "README.md").get("tags") or [])):
        raise UserError(
            f"{out} exists and is no export of ours (holds "
            f"{', '.join(foreign or sorted(held))[:80]}); "
            f"expected a new folder, or an earlier export, which is replaced; choose another --out"
        )


def _move(partial: Path, out: Path) -> None:
    """Put the finished folder in its place; an earlier export leaves only then."""
    for file in partial.iterdir():
        with open(file, "rb+") as stream:
            os.fsync(stream.fileno())
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)


class _Parser(argparse.ArgumentParser):
    """argparse whose mistakes are one line that names the nearest option."""

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        word = message.split(": ")[-1].split("=")[0].split(" ")[0]
        hint = nearest(word, options) if word.startswith("--") and word not in options else ""
        raise UserError(f"{message}{hint}; python -m surgjax.export --help shows the options")


if __name__ == "__main__":
    run(main)
