"""Run a config's evaluations: while training, or afterwards on a finished run.

An objective that keeps an average of its encoder is evaluated with the average.

An evaluation is a block `evals.<name>` of a config; it names a file of surgjax/evals (by its own
name or by `module`) and that file's arguments. Scalars are logged as <name>/<scalar>.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from surgjax import build, config
from surgjax.checkpoint import read_model
from surgjax.data.captioned import Tokenizer
from surgjax.data.plan import ClipShape
from surgjax.errors import Stopped, UserError
from surgjax.preemption import StopSignal
from surgjax.sharding import to_host
from surgjax.state import Params, TrainState, join, rebuild, split, with_average
from surgjax.words import words_of
from surgjax.writers import Metrics, RunFolder

TEXTS = 64  # sentences embedded at once

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
    ):
        self._tokenizer = tokenizer
        self._learner, self._clip, self._used_cases = learner, clip, used_cases
        self._workdir, self._signal, self._seed = workdir, signal, cfg.seed
        active = config.active_evals(cfg)
        self._every = {name: int(block.every) for name, block in active.items()}
        self._made = {}
        objective = config.component("surgjax.objectives", cfg.objective.name, "Objective")
        self._reconstructs = hasattr(objective, "reconstruct")
        for name, block in active.items():
            arguments = config.to_dict(block)
            module = arguments.pop("module", name)
            del arguments["every"]
            if module == "reconstruction" and not self._reconstructs:
                raise UserError(
                    f"evals.{name} has a store, but the objective {cfg.objective.name} fills in no "
                    f"pixels; leave evals.{name}.store empty"
                )
            self._made[name] = config.component("surgjax.evals", module, "Evaluator")(**arguments)
        encode = lambda params, video: _mean_tokens(learner, params, video)  # noqa: E731
        self._encode = jax.jit(encode)
        self._reconstruct = jax.jit(lambda params, batch: _reconstruct(learner, params, batch))
        self._classify = None
        if hasattr(objective, "logits"):
            predict = lambda params, video: rebuild(learner.graphdef, params).predict(video)  # noqa: E731
            self._classify = jax.jit(predict)
        self._labels = config.to_dict(cfg.objective).get("labels", {})
        self._embed = {
            "video": jax.jit(lambda params, x: _whole(learner, params).encode_video(x)),
            "text": jax.jit(lambda params, x: _whole(learner, params).encode_text(*x)),
        }
        self._random: Params | None = None

    def due(self, step: int, last: int) -> set[str]:
        """Names to run at a step: every so many steps, and all at the end."""
        return {n for n, e in self._every.items() if step == last or (e and step % e == 0)}

    def run(
        self, state: TrainState, step: int, metrics: Metrics | None, *, only: set[str]
    ) -> dict[str, float]:
        """Run the named evaluations on rank 0 and log their scalars; all processes must call it."""
        if not only:
            return {}
        params = join(state.params, state.frozen)
        params = to_host(with_average(params, state.ema, self._learner.ema_of))
        if metrics is None:
            return {}
        return self.run_params(params, step, metrics, only=only)

    def run_params(
        self, params: Params, step: int, metrics: Metrics | None, *, only: set[str]
    ) -> dict[str, float]:
        """The same from parameters on the host."""
        from surgjax.evals.model import Model

        if self._random is None:
            key = jax.random.key(self._seed + 1)  # never the key the run itself started from
            draw = build.jit_once(lambda key: split(self._learner.fresh(key))[1])
            self._random = jax.device_get(draw(key))
        device = jax.local_devices()[0]
        trained, fresh = jax.device_put((params, self._random), device)
        model = Model(
            encode=lambda video: self._call(self._encode, trained, video),
            random_encode=lambda video: self._call(self._encode, fresh, video),
            reconstruct=(lambda batch: self._call(self._reconstruct, trained, batch))
            if self._reconstructs
            else None,
            classify=self._classify and (lambda video: self._call(self._classify, trained, video)),
            labels=self._labels,
            clip=self._clip,
            used_cases=self._used_cases,
            space=self._space(trained),
            random_space=self._space(fresh),
        )
        results: dict[str, float] = {}
        for name in [n for n in self._made if n in only]:
            folder = "reconstruction" if name == "reconstruction" else f"eval/{name}"
            try:
                found = self._made[name].run(model, out=self._workdir / folder, step=step)
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

    def _space(self, params: Params):
        """Clips and texts in one space; None for objectives without a text tower."""
        from surgjax.evals.model import Space

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

        return Space(lambda video: self._call(self._embed["video"], params, video), text)

    def _call(self, function, params: Params, argument):
        if self._signal.code:
            raise Stopped("evaluation interrupted", self._signal.code)
        return jax.tree.map(np.asarray, function(params, argument))


def evaluate(workdir: Path, cfg: ConfigDict | None = None) -> dict[str, float]:
    """Run evaluations on the newest whole checkpoint of a run, without training.

    Args:
      workdir: the run.
      cfg: a config whose `evals` to run; the run's own when None.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir} is no run: it has no config.json; train with --mode=train first"
        )
    own = build.read_config(workdir)
    if cfg is not None:
        own.evals = cfg.evals
    names = set(config.active_evals(own))
    if not names:
        raise UserError("no evaluation has a store; as in --config.evals.knn.store=STORE")
    params, meta = read_model(workdir)
    learner = build.make_learner(own)
    clip = ClipShape(own.data.frames, own.data.stride, own.data.size)
    run = RunFolder(workdir)
    try:
        with StopSignal() as signal:
            words = words_of(workdir, config.to_dict(own.objective))
            evaluators = Evaluators(
                *(own, learner, clip, meta["used_cases"], workdir, signal),
                tokenizer=words.tokenizer if words else None,
            )
            results = evaluators.run_params(params, meta["step"], None, only=names)
            if signal.code:
                raise Stopped("evaluation interrupted", signal.code)
    finally:
        run.close()
    return results


def _whole(learner: build.Learner, params: Params):
    return rebuild(learner.graphdef, params)


def _mean_tokens(learner: build.Learner, params: Params, video):
    return _whole(learner, params).encode(video).mean(axis=1)


def _reconstruct(learner: build.Learner, params: Params, batch):
    return _whole(learner, params).reconstruct(batch, jax.random.key(0))
