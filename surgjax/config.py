"""The one list of configuration fields, their types and defaults; configs/ fill it in.

A config file calls `defaults()`, sets what its experiment needs and returns it. `check` runs
before anything is built: unknown fields, wrong types and impossible sizes are one clear line.
"""

import json
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from surgjax.errors import UserError, nearest

# Fields that may differ when a run is continued; every other change is refused by name.
MAY_DIFFER = ("total_steps", "epochs", "stop_at_step", "log", "checkpoint", "data.workers", "mesh")


def defaults() -> ConfigDict:
    """Every field a config may set. Zero or empty means off unless a comment says otherwise."""
    cfg = ConfigDict()
    cfg.seed = 0
    cfg.total_steps = 1000  # length of the schedules, in global batches; 0: `epochs`
    cfg.epochs = 0.0  # length in passes over the samples, with total_steps 0
    cfg.warmup_epochs = 0.0  # with epochs; else optim.warmup_steps
    cfg.stop_at_step = 0  # stop earlier without bending the schedules; 0: at total_steps
    cfg.batch_size = 256  # clips a step over all devices
    cfg.accumulation = 1  # micro-batches a step
    cfg.init_from = ""  # run folder, Hugging Face folder or weight file; or several, with commas
    cfg.init_allow = ""  # comma-separated globs of its tensors that may be unused or missing
    cfg.data = ConfigDict()
    cfg.data.stores = ""  # comma-separated store folders
    cfg.data.weights = ""  # comma-separated shares, one a store; empty: by number of clips
    cfg.data.clips = ""  # clips.parquet of surgjax.curate; empty: all of the stores
    cfg.data.frames = 16
    cfg.data.stride = "4"  # in stored frames; in seconds: "0.16s"; "spread": over the whole video
    cfg.data.size = 224  # pixels a side
    cfg.data.workers = 0  # loading processes; 0: threads
    cfg.data.clips_per_window = 1  # clips made of one decoded window of frames
    cfg.data.repeats = 1  # rows of a batch that show one clip, each with its own crop
    cfg.data.crop = "multiscale"  # or resized, centre; see Augmentation in data/transforms.py
    cfg.data.crop_area = "0.08,1"  # of resized: share of the frame, from, to
    cfg.data.crop_aspect = "0.75,1.3333"  # of resized: width / height, from, to
    cfg.data.flip = 0.0  # chance of a mirrored clip
    cfg.data.rand_augment = ""  # "m7-n4": magnitude of 10, number of operations
    cfg.data.held_out = "every"  # splits whose val and test cases pretraining drops; none, or names
    cfg.data.split = "official"  # supervised: whose training part is learnt from
    cfg.data.anchor = "last"  # supervised: where in a clip the labelled frame lies; or middle
    cfg.data.unit = "frame"  # supervised: an epoch has each labelled frame; or video, each once
    cfg.data.captions = ConfigDict()  # video-text: see Captions in data/captioned.py
    cfg.data.captions.levels = "coarse,mid,fine"  # or SurgLaVi's level ids: 3,2,1
    cfg.data.captions.quotas = ""  # share of each of these levels in a batch; empty: by number
    cfg.data.captions.filter_pairs = True  # only surgical and descriptive ones
    cfg.data.captions.enhanced_captions = True  # text; else raw_text
    cfg.data.captions.text_preprocess = True  # SurgLaVi's clean-up
    cfg.data.captions.min_duration = 0.0  # seconds; longer than this
    cfg.data.captions.max_duration = 500.0  # and at most this
    cfg.data.captions.clips = "spread"  # over the span; or centred, at data.stride
    cfg.encoder = ConfigDict()
    cfg.encoder.size = "B"  # empty: size, positions and qkv_bias are those of init_from
    cfg.encoder.positions = "sincos_1d"
    cfg.encoder.qkv_bias = "qv"  # VideoMAE's; "all": also the keys', as V-JEPA
    cfg.encoder.remat = "none"
    cfg.encoder.drop_path = 0.0
    cfg.objective = ConfigDict()  # name and the arguments of surgjax/objectives/<name>.py
    cfg.optim = ConfigDict()
    cfg.optim.peak_lr = 1e-3
    cfg.optim.final_lr = 0.0
    cfg.optim.warmup_steps = 0
    cfg.optim.warmup_lr = 0.0  # where the warm-up starts
    cfg.optim.schedule_stretch = 1.0  # length of the schedules in total_steps
    cfg.optim.weight_decay = 0.05
    cfg.optim.final_weight_decay = 0.0  # a cosine from weight_decay to it; 0: constant
    cfg.optim.layer_decay = 1.0  # 1: off
    cfg.optim.clip_norm = 0.0
    cfg.optim.b1 = 0.9
    cfg.optim.b2 = 0.95
    cfg.optim.frozen = ""  # regular expression over parameter paths
    cfg.checkpoint = ConfigDict()
    cfg.checkpoint.every = 1000
    cfg.checkpoint.keep = 2  # the newest ones
    cfg.checkpoint.keep_every = 0  # and those whose step it divides
    cfg.log = ConfigDict()
    cfg.log.every = 50
    cfg.log.watchdog_s = 1800.0  # seconds without a step after which a run is ended; 0: never
    cfg.log.wandb = ""  # Weights & Biases project that mirrors metrics.jsonl
    cfg.mesh = ConfigDict()
    cfg.mesh.data = -1  # -1: all devices left
    cfg.mesh.fsdp = 1
    # <name>: {every: steps (0: only at the end), store: "" (off), arguments of evals/<name>.py}
    cfg.evals = ConfigDict()
    return cfg


def check(cfg: ConfigDict, file: str = "the config") -> None:
    """Raise UserError for the first thing wrong with a config; touches no device and no data."""
    from surgjax.models.video_vit import token_grid

    _same_fields(cfg, defaults(), "", file)
    if "name" not in cfg.objective:
        raise UserError(
            f"{file} sets no objective.name, and trains nothing; see surgjax/objectives for the "
            f"names, or add --mode=evaluate"
        )
    if cfg.epochs < 0 or (cfg.total_steps > 0) == (cfg.epochs > 0):
        raise UserError(
            f"total_steps={cfg.total_steps} and epochs={cfg.epochs:g}; expected one of them above "
            f"0, and 0 for the other"
        )
    if cfg.warmup_epochs and (not cfg.epochs or cfg.optim.warmup_steps):
        raise UserError(
            f"warmup_epochs={cfg.warmup_epochs:g} with epochs={cfg.epochs:g} and "
            f"optim.warmup_steps={cfg.optim.warmup_steps}; it goes with epochs, in the place of "
            f"optim.warmup_steps: set one of both to 0"
        )
    for name in ("batch_size", "accumulation"):
        _positive(cfg, name)
    for name in ("data.frames", "data.size", "log.every", "checkpoint.every", "checkpoint.keep"):
        _positive(cfg, name)
    if cfg.batch_size % cfg.accumulation:
        raise UserError(
            f"batch_size={cfg.batch_size} is not divisible by accumulation={cfg.accumulation}"
        )
    if not cfg.optim.schedule_stretch >= 1:
        raise UserError(
            f"optim.schedule_stretch is {cfg.optim.schedule_stretch}; schedules last at least as "
            f"long as the run, choose 1 or more"
        )
    if not cfg.data.stores:
        raise UserError("data.stores is empty; give --config.data.stores=STORE[,STORE2]")
    if cfg.objective.get("network", "video") == "video":
        token_grid(cfg.data.frames, cfg.data.size, (2, 16, 16))
    _check_arguments(cfg.objective, "objective", "surgjax.objectives", "Objective", file)
    for name, block in cfg.evals.items():
        for needed in ("every", "store"):
            if needed not in block:
                raise UserError(f"evals.{name}.{needed} must be given")
        _check_arguments(
            {"name": name} | dict(block), f"evals.{name}", "surgjax.evals", "Evaluator", file
        )


def active_evals(cfg: ConfigDict) -> dict[str, ConfigDict]:
    """The evaluations that have a store to run on."""
    return {name: block for name, block in cfg.evals.items() if block.store}


def component(package: str, name: str, attribute: str) -> Any:
    """`attribute` of <package>/<name>.py; a component is found by its file name."""
    folder = Path(import_module(package).__file__).parent
    if not (folder / f"{name}.py").is_file():
        known = [f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")]
        raise UserError(
            f"{package.replace('.', '/')} has no {name}.py{nearest(name, known)}; "
            f"found: {', '.join(sorted(known))}"
        )
    module = import_module(f"{package}.{name}")
    if not hasattr(module, attribute):
        raise UserError(f"{package.replace('.', '/')}/{name}.py defines no {attribute}")
    return getattr(module, attribute)


def to_dict(cfg: ConfigDict) -> dict[str, Any]:
    """Plain dicts and scalars, as written to config.json."""
    return json.loads(cfg.to_json_best_effort())


def refuse_changes(saved: dict[str, Any], new: dict[str, Any], run: str) -> None:
    """Raise UserError naming the first field that differs where a continuation may not.

    A field that did not exist when the run was started had its default.
    """
    old_flat, new_flat = _flat(to_dict(defaults())) | _flat(saved), _flat(new)
    for path in sorted(old_flat | new_flat):
        if path in MAY_DIFFER or path.split(".")[0] in MAY_DIFFER:
            continue
        before, after = old_flat.get(path, "(not set)"), new_flat.get(path, "(not set)")
        if before != after:
            raise UserError(
                f"{run} was started with {path}={before!r}, now it is {after!r}; "
                f"put it back or use a new --workdir"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def _same_fields(cfg: ConfigDict, known: ConfigDict, prefix: str, file: str) -> None:
    for name, value in cfg.items():
        path = f"{prefix}{name}"
        if name not in known:
            raise UserError(f"{file} has no field {path!r}{nearest(name, known)}")
        expected = known[name]
        if isinstance(expected, ConfigDict):
            if not isinstance(value, ConfigDict):
                raise UserError(f"{path} must be a group of fields, found {value!r}")
            if name not in ("objective", "evals"):
                _same_fields(value, expected, f"{path}.", file)
        else:
            _check_type(path, value, type(expected))


def _positive(cfg: ConfigDict, path: str) -> None:
    value = cfg
    for name in path.split("."):
        value = value[name]
    if value < 1:
        raise UserError(f"{path} must be at least 1, found {value}")


def _check_arguments(block, path: str, package: str, attribute: str, file: str) -> None:
    """The fields of `block` against the typed signature of the component it names."""
    given = {k: v for k, v in dict(block).items() if k not in ("name", "module", "every")}
    made = component(package, block.get("module", block["name"]), attribute)
    parameters = signature(made.__init__).parameters
    supplied = {"self", "frames", "size", "encoder", "dtype", "rngs"}
    known = [name for name in parameters if name not in supplied]
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{file} has no field '{path}.{name}'{nearest(name, known)}")
        _check_type(f"{path}.{name}", value, parameters[name].annotation)
    for name in known:
        required = parameters[name].default is parameters[name].empty
        if required and name not in given:
            raise UserError(f"{path}.{name} must be given")


def _check_type(path: str, value: Any, annotation: Any) -> None:
    plain = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}.get(annotation)
    if plain and (not isinstance(value, plain) or isinstance(value, bool) != (annotation is bool)):
        raise UserError(
            f"{path} must be {annotation.__name__}, found {value!r} ({type(value).__name__})"
        )
