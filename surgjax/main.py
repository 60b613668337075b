"""Train or evaluate what a config describes.

    python -m surgjax.main --config=configs/surgrec_mae.py --workdir=RUN --config.data.stores=STORE
    python -m surgjax.main --config=configs/surgrec_mae.py --workdir=RUN --mode=evaluate
    python -m surgjax.main --config=configs/benchmark.py --workdir=OUT --mode=evaluate \\
        --config.init_from=MODEL --config.evals.linear_probe.store=STORE
    python -m surgjax.main --config=configs/surgrec_mae.py --plan --devices=8 --memory=80

The same command again continues. Any field of the config can be set: --config.optim.peak_lr=1e-4
"""

import argparse
import ast
import importlib.util
import logging
import os
import sys
from pathlib import Path

from ml_collections import ConfigDict

from surgjax.errors import UserError, nearest, run
from surgjax.files import is_remote, to_path
from surgjax.starting import collect_again, collect_nothing

log = logging.getLogger("surgjax")


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = _parse(argv)
    _log_to_stderr()
    if flags.plan:
        from surgjax.resources import show

        return show(flags.config, flags.devices, flags.memory, flags.peak)
    if flags.private:
        _keep_private(flags.workdir)
    _private_compilation_cache()
    from surgjax import multihost

    with multihost.job(flags.multihost) as joined:
        log.info("%s", joined)
        _work(flags)
    return 0


def _work(flags: argparse.Namespace) -> None:
    import jax

    if jax.process_index():
        log.setLevel(logging.WARNING)
    workdir = to_path(flags.workdir)
    if flags.mode == "evaluate":
        from surgjax.evaluate import evaluate

        collect_again()
        evaluate(workdir, flags.config)
    else:
        from surgjax.train import train

        train(flags.config, workdir, strict=flags.strict)


def _parse(argv: list[str]) -> argparse.Namespace:
    """The flags, with `config` the loaded ConfigDict and every --config.FIELD=VALUE set in it."""
    parser = argparse.ArgumentParser(
        prog="python -m surgjax.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="a file of configs/")
    parser.add_argument("--workdir", metavar="RUN", help="folder of the run")
    parser.add_argument("--mode", choices=("train", "evaluate"), default="train")
    parser.add_argument(
        "--strict", action="store_true", help="stop when the newest checkpoint is damaged"
    )
    parser.add_argument(
        "--multihost", default="auto", help="auto, on or off: join the processes of a job"
    )
    parser.add_argument(
        "--private", action="store_true", help="only you can read what the run writes"
    )
    planning = parser.add_argument_group("planning, without hardware or data")
    planning.add_argument(
        "--plan", action="store_true", help="print memory, disk and time instead of training"
    )
    planning.add_argument("--devices", type=int, default=0, help="how many; default: those here")
    planning.add_argument(
        "--memory",
        type=int,
        default=0,
        metavar="GB",
        help="of a device; leaves with 1 if too little",
    )
    planning.add_argument("--peak", type=float, default=0.0, metavar="TFLOP/S", help="of a device")
    fields = [a for a in argv if a.startswith("--config.")]
    flags, unknown = parser.parse_known_args([a for a in argv if a not in fields])
    if unknown:
        name = unknown[0].split("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        raise UserError(f"unknown flag {name}{nearest(name, known)}; every flag is --name=value")
    for name in ("devices", "memory", "peak"):
        if getattr(flags, name) and not flags.plan:
            raise UserError(f"--{name} goes with --plan; add it to plan, or drop --{name}")
    for needed, example in (("config", "configs/surgrec_mae.py"), ("workdir", "RUN")):
        if getattr(flags, needed) is None and not (flags.plan and needed == "workdir"):
            raise UserError(f"--{needed} is missing; as in --{needed}={example}")
    file = flags.config.partition(":")[0]
    flags.config = _load_config(flags.config)
    for field in fields:
        _override(flags.config, field, file)
    return flags


def _load_config(given: str) -> ConfigDict:
    """get_config(variant) of a config file. The file is Python and is executed."""
    file, _, variant = given.partition(":")
    if not Path(file).is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py"))
        raise UserError(
            f"config file {file} does not exist{nearest(file, known)}; "
            f"found: {', '.join(known) or 'no configs/ folder here'}"
        )
    ours = (Path(__file__).parent.parent, Path("configs"))
    if not any(Path(file).resolve().is_relative_to(folder.resolve()) for folder in ours):
        print(
            f"note: {file} is no config of this project; it is executed as Python", file=sys.stderr
        )
    spec = importlib.util.spec_from_file_location("surgjax_config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"config file {file} defines no get_config(variant)")
    try:
        return module.get_config(variant)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error


def _override(cfg: ConfigDict, argument: str, file: str) -> None:
    """Set one --config.a.b=value in the type the field has; anything but scalars as Python."""
    path, equals, text = argument.removeprefix("--config.").partition("=")
    if not equals:
        raise UserError(f"{argument} has no value; as in --config.{path}=VALUE")
    *groups, name = path.split(".")
    _admit(cfg, groups, name)
    node, done = cfg, ""
    for part in [*groups, name]:
        if not isinstance(node, ConfigDict) or part not in node:
            known = [f"{done}{key}" for key in node] if isinstance(node, ConfigDict) else []
            raise UserError(f"{file} has no field {path!r}{nearest(path, known)}")
        parent, node, done = node, node[part], f"{done}{part}."
    kind = type(node)
    try:
        if kind is bool:
            value = {"true": True, "false": False}[text.lower()]
        else:
            value = kind(text) if kind in (int, float, str) else ast.literal_eval(text)
        parent[name] = value
    except (KeyError, ValueError, TypeError, SyntaxError):
        raise UserError(f"config.{path} must be {kind.__name__}, found {text!r}") from None


def _admit(cfg: ConfigDict, groups: list[str], name: str) -> None:
    """Let an argument of an evaluation be set that its block leaves at the default."""
    if len(groups) != 2 or groups[0] != "evals" or groups[1] not in cfg.evals:
        return
    block = cfg.evals[groups[1]]
    if name in block:
        return
    from inspect import signature

    from surgjax.config import component

    made = component("surgjax.evals", block.get("module", groups[1]), "Evaluator")
    parameter = signature(made).parameters.get(name)
    if parameter is not None and parameter.default is not parameter.empty:
        with block.unlocked():
            block[name] = parameter.default


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what they report is raised as well


def _keep_private(workdir: str) -> None:
    """Folders of mode 0700 and files of 0600 from now on, and so the run's folder."""
    os.umask(0o077)
    folder = to_path(workdir)
    if not is_remote(folder) and folder.is_dir():
        folder.chmod(0o700)


def _private_compilation_cache() -> None:
    """Keep compiled programs between runs, in a folder of the user's own: they are trusted code."""
    import jax

    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = to_path(given) if given else Path(base) / "surgjax" / "compiled"
    if is_remote(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError:
        return  # a read-only home: compile anew each time
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        log.warning(
            f"{folder} holds compiled programs that other users can change; they are not used: "
            f"make it yours alone with chmod 700, or set JAX_COMPILATION_CACHE_DIR"
        )
        jax.config.update("jax_compilation_cache_dir", None)
    elif not given:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _use_huge_pages() -> None:
    """Start this program over with malloc on huge pages, where Linux leaves that to programs.

    XLA allocates the arrays of a CPU step anew each time, and touching them in pages of 4 KiB takes
    much of a small network's step.
    """
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if "GLIBC_TUNABLES" in os.environ or not setting.is_file():
        return
    if "[madvise]" in setting.read_text():
        os.environ["GLIBC_TUNABLES"] = (
            "glibc.malloc.hugetlb=1"  # glibc reads it as a program starts
        )
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    _use_huge_pages()
    collect_nothing()
    run(main)
