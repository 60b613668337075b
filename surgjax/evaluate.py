"""Run a config's evaluations: while training, afterwards on a finished run, or on any encoder.

An objective that keeps an average of its encoder is evaluated with the average. A config without an
objective (configs/benchmark.py) evaluates what `init_from` names: a run, a public model, or
features made elsewhere. Without training features are kept until all is done, so that after a stop
the same command goes on with the first video that is missing.

An evaluation is a block `evals.<name>` of a config; it names a file of surgjax/evals (by its own
name or by `module`) and that file's arguments. Scalars are logged as <name>/<scalar>.
"""

import hashlib
import inspect
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from surgjax import build, config
from surgjax.benchmark import vectors
from surgjax.checkpoint import read_model
from surgjax.data.captioned import Tokenizer
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.data.tokenizers import load as load_tokenizer
from surgjax.digests import find_step, is_run
from surgjax.encoder import Encoder, about_run, open_encoder
from surgjax.errors import Stopped, UserError, nearest
from surgjax.files import absolute
from surgjax.preemption import StopSignal
from surgjax.sharding import to_host
from surgjax.state import Params, TrainState, flatten, join, rebuild, split, with_average
from surgjax.testing import fault
from surgjax.words import words_of
from surgjax.writers import Metrics, RunFolder

TEXTS = 64  # sentences embedded at once
KEPT = "kept"  # folder of features that outlive a stop
WITH_TEXT = ("zero_shot", "coop", "retrieval")  # evaluations that read sentences
STRIDE = "4"  # of a public model, which does not say how far its frames are apart

log = logging.getLogger("surgjax")


class Evaluators:
    """The evaluations of a run.

    Args:
      cfg, learner, clip: of the run.
      used_cases: case ids seen in pretraining, None where imported weights do not tell; tables say
        saw-test yes, no or unknown.
      workdir: pictures and predictions go to eval/<name>/, reconstructions to reconstruction/.
      signal: evaluation ends early when a stop was asked for; it is repeated on the next start.
      tokenizer: of objectives with a text tower.
      kept: folder where features outlive a stop; None while training.
      about: of the weights, for metrics.json.
      moved: called with the step whenever an evaluation gets further.
    """

    def __init__(
        self,
        cfg: ConfigDict,
        learner: build.Learner,
        clip: ClipShape,
        used_cases: list[str] | None,
        workdir: Path,
        signal: StopSignal,
        tokenizer: Tokenizer | None = None,
        kept: Path | None = None,
        about: Mapping[str, Any] | None = None,
        moved: Callable[[int], None] = lambda step: None,
    ):
        self._moved, self._step = moved, 0
        self._tokenizer, self._kept, self._about = tokenizer, kept, about or {}
        self._network = config.to_dict(cfg.objective) | config.to_dict(cfg.encoder)
        self._learner, self._clip, self._used_cases = learner, clip, used_cases
        self._workdir, self._signal, self._seed = workdir, signal, cfg.seed
        active = config.active_evals(cfg)
        self._every = {name: int(block.every) for name, block in active.items()}
        self._made = make_evaluators(cfg)
        objective = config.component("surgjax.objectives", cfg.objective.name, "Objective")
        self._reconstructs = hasattr(objective, "reconstruct")
        for name, block in active.items():
            if block.get("module", name) == "reconstruction" and not self._reconstructs:
                raise UserError(
                    f"evals.{name} has a store, but the objective {cfg.objective.name} fills in no "
                    f"pixels; leave evals.{name}.store empty"
                )
        tokens = lambda params, video: _tokens(learner, params, video)  # noqa: E731
        encode = lambda params, video: tokens(params, video).mean(axis=1)  # noqa: E731
        self._tokens, self._encode = jax.jit(tokens), jax.jit(encode)
        self._reconstruct = jax.jit(lambda params, batch: _reconstruct(learner, params, batch))
        self._classify = None
        if hasattr(objective, "logits"):
            predict = lambda params, video: rebuild(learner.graphdef, params).predict(video)  # noqa: E731
            self._classify = jax.jit(predict)
        self._labels = config.to_dict(cfg.objective).get("labels", {})
        check_evaluators(self._made, self._labels)
        self._embed = {
            "video": jax.jit(lambda params, x: _whole(learner, params).encode_video(x)),
            "text": jax.jit(lambda params, x: _whole(learner, params).encode_text(*x)),
        }
        # One object for trained and fresh weights, so that what is built on it is compiled once.
        self._encode_text = lambda params, ids, mask, context: _whole(learner, params).encode_text(
            ids, mask, context=context
        )
        self._random: Params | None = None

    def due(self, step: int, last: int) -> set[str]:
        """Names to run at a step: every so many steps, and all at the end."""
        return {n for n, e in self._every.items() if step == last or (e and step % e == 0)}

    def run(
        self, state: TrainState, step: int, metrics: Metrics | None, *, only: set[str]
    ) -> dict[str, float]:
        """Run the named evaluations on rank 0 and log their scalars; all processes must call it."""
        params = join(state.params, state.frozen)
        params = to_host(with_average(params, state.ema, self._learner.ema_of))
        if metrics is None or not only:
            return {}
        return self.run_params(params, step, metrics, only=only)

    def run_params(
        self, params: Params, step: int, metrics: Metrics | None, *, only: set[str]
    ) -> dict[str, float]:
        """The same from parameters on the host."""
        from surgjax.evals.model import Model

        self._step = step
        if self._random is None:
            key = jax.random.key(self._seed + 1)  # never the key the run itself started from
            draw = build.jit_once(lambda key: split(self._learner.fresh(key))[1])
            self._random = jax.device_get(draw(key))
        device = jax.local_devices()[0]
        trained, fresh = jax.device_put((params, self._random), device)
        model = Model(
            encode=lambda video: self._call(self._encode, trained, video),
            tokens=lambda video: self._call(self._tokens, trained, video),
            random_encode=lambda video: self._call(self._encode, fresh, video),
            random_tokens=lambda video: self._call(self._tokens, fresh, video),
            reconstruct=(lambda batch: self._call(self._reconstruct, trained, batch))
            if self._reconstructs
            else None,
            classify=self._classify and (lambda video: self._call(self._classify, trained, video)),
            labels=self._labels,
            clip=self._clip,
            used_cases=self._used_cases,
            space=self._space(trained),
            random_space=self._space(fresh),
            about=self._about,
            kept=self._kept,
            go_on=self._go_on,
        )
        if self._kept is not None:
            model = replace(
                model,
                identity=identity_of(params, self._network),
                random_identity=identity_of(self._random, self._network),
            )
        made = {name: one for name, one in self._made.items() if name in only}
        return run_evaluators(made, model, self._workdir, step, metrics)

    def _space(self, params: Params):
        """Clips and texts in one space; None for objectives without a text tower."""
        from surgjax.evals.model import Space, TextTower

        if self._tokenizer is None:
            return None

        def text(texts: Sequence[str]) -> np.ndarray:
            found = []
            for first in range(0, len(texts), TEXTS):
                some = [*texts[first : first + TEXTS]]
                filled = some + [""] * (TEXTS - len(some))  # one shape, so one compilation
                words = self._tokenizer(filled)
                made = self._call(self._embed["text"], params, (words["ids"], words["mask"]))
                found.append(made[: len(some)])
            return np.concatenate(found)

        objective = _whole(self._learner, params)
        tower = TextTower(
            tokenizer=self._tokenizer,
            encode=self._encode_text,
            call=lambda function, argument: self._call(function, params, argument),
            starts=objective.text_encoder.starts,
            width=objective.text_encoder.width,
            scale=float(objective.scale()),
        )
        return Space(lambda video: self._call(self._embed["video"], params, video), text, tower)

    def _call(self, function, params: Params, argument):
        self._go_on()
        return jax.tree.map(np.asarray, function(params, argument))

    def _go_on(self) -> None:
        self._moved(self._step)
        fault("evaluation", self._step)
        if self._signal.code:
            raise Stopped("evaluation interrupted", self._signal.code)


def make_evaluators(cfg: ConfigDict) -> dict[str, Any]:
    """The evaluations of a config that have a store, by name."""
    made = {}
    for name, block in config.active_evals(cfg).items():
        arguments = config.to_dict(block)
        module = arguments.pop("module", name)
        del arguments["every"]
        made[name] = config.component("surgjax.evals", module, "Evaluator")(**arguments)
    return made


def check_evaluators(made: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
    """Look at what evaluations will need, now and not after the training.

    Args:
      labels: of the heads of a classifier.

    Raises:
      UserError: a store that cannot be opened, or has not the task, or not with the head's classes.
    """
    for name, one in made.items():
        tasks, task = open_store(one.store).meta.get("tasks", {}), getattr(one, "task", "")
        if task and task not in tasks:
            raise UserError(
                f"evals.{name}: {one.store} has no task {task!r}{nearest(task, tasks)}; it has "
                f"{', '.join(sorted(tasks)) or 'none'}; set evals.{name}.task"
            )
        if hasattr(one, "check"):
            one.check(labels, tasks)


def run_evaluators(
    made: Mapping[str, Any], model, workdir: Path, step: int, metrics: Metrics | None
) -> dict[str, float]:
    """Run evaluations one after the other; a stop ends them, and what was done stays."""
    results: dict[str, float] = {}
    for name, evaluator in made.items():
        folder = "reconstruction" if name == "reconstruction" else f"eval/{name}"
        try:
            found = evaluator.run(model, out=workdir / folder, step=step)
        except Stopped:
            log.info("evaluation %s interrupted; it will be repeated", name)
            break
        scalars = {f"{name}/{key}": value for key, value in found.items()}
        results |= scalars
        if metrics is not None:
            metrics.write(step, scalars | {f"{name}/done": 1.0})
        shown = " ".join(f"{key} {value:.4f}" for key, value in scalars.items())
        log.info("step %d %s", step, shown or f"{name} done")
    return results


def evaluate(workdir: Path, cfg: ConfigDict | None = None) -> dict[str, float]:
    """Run evaluations without training, on the newest whole checkpoint of a run or on any encoder.

    Args:
      workdir: the run, or where the results of `init_from` go.
      cfg: a config whose `evals` to run; the run's own when None. One without an objective
        evaluates its `init_from`.

    Raises:
      UserError: no run or encoder there, no evaluation with a store, or what an evaluation raises.
      Stopped: after SIGTERM or Ctrl-C; the same command goes on.
    """
    if jax.process_index():  # of a job of several, process 0 evaluates
        return {}
    is_of_encoder = cfg is not None and "name" not in cfg.objective
    if not is_of_encoder and not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir} is no run: it has no config.json; train with --mode=train first"
        )
    if is_of_encoder and not cfg.init_from:
        raise UserError(
            "init_from is empty; expected a run, a public model's folder or weight file, or a "
            "features.parquet; give --config.init_from=MODEL"
        )
    asked = cfg if cfg is not None else build.read_config(workdir)
    names = set(config.active_evals(asked))
    if not names:
        raise UserError("no evaluation has a store; as in --config.evals.knn.store=STORE")
    source = Path(asked.init_from) if is_of_encoder else workdir
    open_evaluators = _of_run if not is_of_encoder or is_run(source) else _of_encoder
    run = RunFolder(workdir)
    try:
        with StopSignal() as signal:
            evaluators = open_evaluators(source, asked, workdir, signal)
            results = evaluators(names)
            if signal.code:
                raise Stopped("stopped; the same command goes on from here", signal.code)
    finally:
        run.close()
    shutil.rmtree(workdir / KEPT, ignore_errors=True)
    return results


def _of_run(
    run: Path, cfg: ConfigDict, workdir: Path, signal: StopSignal
) -> Callable[[set[str]], dict[str, float]]:
    folder = find_step(run)
    params, meta = read_model(folder)
    is_other = absolute(workdir) not in folder.parents
    own = ConfigDict(meta["config"]) if is_other else build.read_config(workdir)
    data = own.data.copy_and_resolve_references()
    if is_other:
        for name in ("frames", "size"):
            if cfg.data[name] not in (0, data[name]):
                raise UserError(
                    f"data.{name} is {cfg.data[name]}, but {run} was made for {data[name]}; give "
                    f"--config.data.{name}={data[name]}, or leave it out"
                )
        data.stride = cfg.data.stride or data.stride
        _seed(cfg)
    own.evals = cfg.evals
    words = words_of(folder.parent.parent, config.to_dict(own.objective))
    clip = ClipShape(data.frames, data.stride, data.size)
    evaluators = Evaluators(
        *(own, build.make_learner(own), clip, meta["used_cases"], workdir, signal),
        tokenizer=words.tokenizer if words else None,
        kept=workdir / KEPT,
        about=about_run(folder, meta) if is_other else None,
    )
    return lambda names: evaluators.run_params(params, meta["step"], None, only=names)


def _of_encoder(
    path: Path, cfg: ConfigDict, workdir: Path, signal: StopSignal
) -> Callable[[set[str]], dict[str, float]]:
    _seed(cfg)
    made = make_evaluators(cfg)
    check_evaluators(made, {})

    def go_on() -> None:
        if signal.code:
            raise Stopped("evaluation interrupted", signal.code)

    if path.suffix == ".parquet":
        model = _looked_up(path)
    else:
        encoder = open_encoder(path, cfg.data.frames or None, cfg.data.size or None)
        model = _public(path, encoder, cfg, made, go_on)
    model = replace(model, kept=workdir / KEPT, go_on=go_on)
    return lambda names: run_evaluators(made, model, workdir, 0, None)


def _looked_up(path: Path):
    """Features made elsewhere; mean colours, the floor, are those of the labelled frames alone."""
    from surgjax.evals.model import Model

    found = vectors.read(path)
    about = {"model": path.stem, "licence": "unknown", "pretrained_on": ["unknown"], **found.about}
    cases = about.pop("used_cases", None)
    return Model(None, ClipShape(1, 1, 32), used_cases=cases, vectors=found, about=about)


def _public(
    path: Path,
    encoder: Encoder,
    cfg: ConfigDict,
    made: Mapping[str, Any],
    go_on: Callable[[], None],
):
    """A public model beside the same network with fresh weights.

    Its head, where it has one, does not say its task: it is taken for the one that is tested.
    """
    from surgjax.evals.model import Model
    from surgjax.recogniser import public_head

    fresh = jax.device_get(build.jit_once(encoder.fresh)(jax.random.key(cfg.seed + 1)))
    device = jax.local_devices()[0]
    trained_on_device, fresh_on_device = jax.device_put((encoder.params, fresh), device)

    def calling(function: Callable, params: Params) -> Callable[[np.ndarray], np.ndarray]:
        compiled = jax.jit(function)

        def call(video: np.ndarray) -> np.ndarray:
            go_on()
            return np.asarray(compiled(params, video))

        return call

    modules = {type(one).__module__.rpartition(".")[2] for one in made.values()}
    spaces = {}
    if encoder.towers is not None and modules & set(WITH_TEXT):
        folder = path if path.is_dir() else path.parent
        tokenizer = load_tokenizer(folder, encoder.towers.family, encoder.towers.length)
        pairs = {"space": trained_on_device, "random_space": fresh_on_device}
        spaces = {
            n: _towers(encoder, params, tokenizer, calling, go_on) for n, params in pairs.items()
        }
    classify, labels = None, {}
    head = public_head(encoder)
    if head is not None:
        classify = calling(head.apply, trained_on_device)
        about = {"kind": head.kind, "classes": head.classes}
        heads = [one for one in made.values() if type(one).__module__.endswith("trained_head")]
        labels = {one.task: about for one in heads}
    clip = replace(encoder.clip, stride=cfg.data.stride or STRIDE)
    network = {**encoder.about, "config": encoder.meta}  # weights do not tell the number of heads
    return Model(
        encode=calling(encoder.apply, trained_on_device),
        tokens=calling(encoder.tokens, trained_on_device),
        random_encode=calling(encoder.apply, fresh_on_device),
        random_tokens=calling(encoder.tokens, fresh_on_device),
        clip=clip,
        classify=classify,
        labels=labels,
        about={k: v for k, v in encoder.about.items() if k not in ("frames", "size")},
        identity=identity_of(encoder.params, network),
        random_identity=identity_of(fresh, network),
        **spaces,
    )


def _towers(
    encoder: Encoder,
    params: Params,
    tokenizer: Tokenizer,
    calling: Callable,
    go_on: Callable[[], None],
):
    from surgjax.evals.model import Space, TextTower

    towers = encoder.towers
    text = jax.jit(towers.text)

    def embed(texts: Sequence[str]) -> np.ndarray:
        words = tokenizer(list(texts))
        return np.asarray(text(params, words["ids"], words["mask"]))

    def call(function: Callable, argument: Any) -> Any:
        go_on()
        return jax.tree.map(np.asarray, function(params, argument))

    return Space(
        calling(towers.video, params),
        embed,
        TextTower(tokenizer, towers.text, call, towers.starts, towers.width, towers.scale(params)),
    )


def _seed(cfg: ConfigDict) -> None:
    """The config's seed for the evaluations that draw and were given none."""
    for name, block in config.active_evals(cfg).items():
        made = config.component("surgjax.evals", block.get("module", name), "Evaluator")
        if "seed" in inspect.signature(made).parameters and "seed" not in block:
            with cfg.unlocked():
                block.seed = cfg.seed


def identity_of(params: Params, network: Mapping[str, Any]) -> str:
    """What distinguishes features: all numbers of a network, its settings, and what computes it."""
    digest = hashlib.sha256()
    about = [jax.__version__, jax.default_backend(), network]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for path, value in sorted(flatten(params).items()):
        value = np.ascontiguousarray(value)
        digest.update(f"{path} {value.shape} {value.dtype}".encode())
        digest.update(value.view(np.uint8) if value.ndim else value.tobytes())
    return digest.hexdigest()


def _whole(learner: build.Learner, params: Params):
    return rebuild(learner.graphdef, params)


def _tokens(learner: build.Learner, params: Params, video):
    return _whole(learner, params).encode(video).astype(np.float32)


def _reconstruct(learner: build.Learner, params: Params, batch):
    return _whole(learner, params).reconstruct(batch, jax.random.key(0))
