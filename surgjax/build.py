"""From a checked config to the parts of a run: data, objective, optimizer, sharded state, step."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from surgjax import objectives
from surgjax.accumulation import accumulate, embed_in_parts
from surgjax.config import component, to_dict
from surgjax.data.captioned import CaptionedPlan, Captions, training_texts
from surgjax.data.clip_list import read_clip_list
from surgjax.data.labelled import LabelledPlan
from surgjax.data.leakage import names_of, training_videos, usable_videos
from surgjax.data.plan import ClipShape, CuratedPlan, Plan
from surgjax.data.store import Store, open_store
from surgjax.data.transforms import Augmentation
from surgjax.errors import UserError
from surgjax.files import sha256
from surgjax.interop.files import read_json
from surgjax.interop.sources import init_all, init_params
from surgjax.optim import AdamW
from surgjax.sharding import AnyMesh, batch_sharding, on_mesh, state_shardings
from surgjax.state import (
    Params,
    TrainState,
    flatten,
    join,
    lerp,
    partition,
    rebuild,
    split,
    subtree,
    unflatten,
)
from surgjax.stop_flags import VOID
from surgjax.testing import spoilt
from surgjax.words import Words, open_words

log = logging.getLogger("surgjax")
TEACHER_STREAM = 1  # folded into the seed's key, so that a random teacher is no copy of the student


@dataclass(frozen=True)
class Data:
    """What a run trains on; `words` is the tokenizer of objectives that read captions, `clips` the
    sha256 of a curated list."""

    stores: list[Store]
    clip: ClipShape
    augment: Augmentation
    plan: Plan
    leakage: dict[str, Any]
    words: Words | None = None
    clips: str | None = None


def open_stores(cfg: ConfigDict) -> list[Store]:
    return [open_store(path.strip()) for path in cfg.data.stores.split(",")]


def open_data(cfg: ConfigDict) -> Data:
    """Open the stores, drop held-out cases, and plan the order of the clips."""
    stores, data = open_stores(cfg), cfg.data
    clip = ClipShape(data.frames, data.stride, data.size)
    augment = Augmentation(
        data.crop,
        _pair("data.crop_area", data.crop_area),
        _pair("data.crop_aspect", data.crop_aspect),
        data.flip,
        data.rand_augment,
    )
    objective = component("surgjax.objectives", cfg.objective.name, "Objective")
    if data.clips and objective.samples in ("labelled", "captioned"):
        raise UserError(
            f"data.clips={data.clips} chooses clips for pretraining without labels; objective "
            f"{cfg.objective.name} trains on {objective.samples} clips; leave data.clips empty"
        )
    if objective.samples == "labelled":
        masks, leakage = training_videos(stores, data.split)
        plan: Plan = LabelledPlan(
            *(stores, masks, clip, cfg.batch_size, cfg.seed, data.weights),
            tasks=to_dict(cfg.objective)["labels"],
            anchor=data.anchor,
            unit=data.unit,
            repeats=data.repeats,
        )
    elif objective.samples == "captioned":
        masks, leakage = usable_videos(stores, data.held_out)
        options = Captions(**to_dict(data.captions))
        words = open_words(to_dict(cfg.objective), lambda: training_texts(stores, masks, options))
        plan = CaptionedPlan(
            *(stores, masks, clip, cfg.batch_size, cfg.seed, data.weights),
            options=options,
            tokenizer=words.tokenizer,
        )
        log.info("training on %s", plan.report)
        return Data(stores, clip, augment, plan, leakage, words)
    else:
        masks, leakage = usable_videos(stores, data.held_out)
        order = (stores, masks, clip, cfg.batch_size, cfg.seed, data.weights)
        sharing = {"clips_per_window": data.clips_per_window, "repeats": data.repeats}
        if data.clips:
            spans = read_clip_list(Path(data.clips), stores)
            plan = CuratedPlan(*order, spans=spans, **sharing)
            log.info("clips of %s: %s", data.clips, plan.report)
            leakage |= _seen(stores, plan.videos)
            return Data(stores, clip, augment, plan, leakage, clips=sha256(Path(data.clips)))
        plan = Plan(*order, **sharing)
    return Data(stores, clip, augment, plan, leakage)


def _seen(stores: list[Store], videos: list[np.ndarray]) -> dict[str, Any]:
    """Fields of the leakage report for a run on these videos alone."""
    pairs = list(zip(stores, videos, strict=True))
    cases = sorted({str(case) for store, used in pairs for case in store.videos["case"][used]})
    kept = sum(int(used.sum()) for _, used in pairs)
    return {"kept": kept, "cases": cases, "names": sorted(names_of(stores, cases))}


def _pair(field: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"{field} is {text!r}; expected two numbers, as in '0.08,1'") from error
    return low, high


@dataclass(frozen=True)
class Learner:
    """An objective with its optimizer: everything needed to make and to change a TrainState.

    Attributes:
      graphdef, shapes: the objective without its parameters, and theirs.
      fresh: key -> the objective with newly drawn parameters.
      optimizer: AdamW with this model's rules.
      ema_of: path of the sub-tree that is averaged, or None.
      make_teacher: key -> a frozen network that the loss asks for, or None.
      flops_per_clip: useful training operations.
      batch_extras: name -> (shape of a row, dtype) of what a batch holds beside video and index.
      is_contrastive: its loss compares the rows of the whole global batch, so that accumulation
        embeds in parts and compares once.
    """

    graphdef: nnx.GraphDef
    shapes: Params
    fresh: Callable[[jax.Array], nnx.Module]
    optimizer: AdamW
    ema_of: str | None
    make_teacher: Callable[[jax.Array], nnx.Module] | None
    flops_per_clip: float
    batch_extras: Mapping[str, Any]
    is_contrastive: bool

    def init(self, key: jax.Array) -> TrainState:
        return self._begin(split(self.fresh(key))[1])

    def _begin(self, params: Params) -> TrainState:
        params, frozen = partition(params, self.optimizer.is_frozen)
        ema = None
        if (
            self.ema_of is not None
        ):  # a copy: the state is donated, and no buffer may be in it twice
            ema = jax.tree.map(jnp.copy, subtree(join(params, frozen), self.ema_of))
        opt_state = self.optimizer.init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, frozen, opt_state, ema)

    def abstract(self, mesh: AnyMesh) -> TrainState:
        """Shapes, dtypes and shardings of the state; nothing is allocated."""
        shapes = jax.eval_shape(self._begin, self.shapes)
        shardings = state_shardings(mesh, shapes)
        described = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
        return jax.tree.map(described, shapes, shardings)


def make_learner(cfg: ConfigDict, dtype: Any = None) -> Learner:
    """The objective a config names: bf16 on accelerators; f32 and unrolled blocks on the CPU.

    Unrolling takes about a tenth off a step there and compiles as fast.
    """
    on_cpu = dtype is None and jax.default_backend() == "cpu"
    dtype = dtype or (jnp.float32 if on_cpu else jnp.bfloat16)
    encoder = {"unroll": True if on_cpu else 1} | to_dict(cfg.encoder)

    def fresh(key: jax.Array) -> nnx.Module:
        return objectives.build(
            **to_dict(cfg.objective),
            frames=cfg.data.frames,
            size=cfg.data.size,
            encoder=encoder,
            dtype=dtype,
            rngs=nnx.Rngs(key),
        )

    module = nnx.eval_shape(lambda: fresh(jax.random.key(0)))
    is_contrastive = hasattr(module, "compare")
    if is_contrastive and cfg.batch_size < 2:
        raise UserError(
            f"batch_size={cfg.batch_size}: objective {cfg.objective.name} tells pairs of a batch "
            f"apart, and one pair has nothing to be told from; choose a larger batch_size"
        )
    graphdef, shapes = split(module)
    encoders = ("encoder/blocks/", "image_encoder/blocks/")
    blocks = [x for p, x in flatten(shapes).items() if p.startswith(encoders)]
    depth = blocks[0].shape[0] if blocks else 0
    optimizer = AdamW(total_steps=cfg.total_steps, depth=depth, **to_dict(cfg.optim))
    make_teacher = None
    if module.make_teacher is not None:
        make_teacher = lambda key: module.make_teacher(nnx.Rngs(key))  # noqa: E731
    flops = module.flops_per_clip()
    return Learner(
        *(graphdef, shapes, fresh, optimizer, module.ema_of, make_teacher, flops),
        *(module.batch_extras, is_contrastive),
    )


def jit_once(function: Callable, **options: Any) -> Callable:
    """`jax.jit` for what runs once: compiled in half the time on a CPU, to equal numbers."""
    quick = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=quick, **options)


def init_state(
    learner: Learner, cfg: ConfigDict, abstract: TrainState
) -> tuple[TrainState, dict[str, Any] | None]:
    """(fresh state, with the weights of `init_from` where given; their provenance or None)."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    state = jit_once(learner.init, out_shardings=shardings)(jax.random.key(cfg.seed))
    if not cfg.init_from:
        return state, None
    expected = flatten(join(abstract.params, abstract.frozen))
    shapes = unflatten({path: leaf.shape for path, leaf in expected.items()})
    loaded = init_all(
        [path.strip() for path in cfg.init_from.split(",")],
        expected=shapes,
        config=to_dict(cfg),
        allow=[
            *(glob.strip() for glob in cfg.init_allow.split(",") if glob.strip()),
            *component("surgjax.objectives", cfg.objective.name, "Objective").init_allow,
        ],
    )
    given = flatten(loaded.params)
    log.info("%s", loaded.report())

    def fill(tree: Params, places: Params) -> Params:
        filled = flatten(tree)
        for path, place in flatten(places).items():
            if path in given:
                filled[path] = place_array(given[path], place.sharding)
        return unflatten(filled)

    params = fill(state.params, abstract.params)
    frozen = fill(state.frozen, abstract.frozen)
    ema = state.ema
    if learner.ema_of is not None:
        ema = jax.tree.map(jnp.copy, subtree(join(params, frozen), learner.ema_of))
    return TrainState(state.step, params, frozen, state.opt_state, ema), loaded.provenance


@dataclass(frozen=True)
class Teacher:
    """A frozen network beside the state: in no gradient and in no checkpoint.

    Attributes:
      module: the network without numbers.
      params: its parameters, on the mesh.
      provenance: of its weights, as in `interop.sources.Loaded`; None for random ones.
    """

    module: nnx.Module
    params: Params
    provenance: dict[str, Any] | None


def load_teacher(cfg: ConfigDict, learner: Learner, mesh: Mesh) -> Teacher | None:
    """The teacher that the objective asks for, from `objective.teacher.weights`; None without one.

    Raises:
      UserError: no weights named, or weights of another network.
    """
    if learner.make_teacher is None:
        return None
    module = nnx.eval_shape(lambda: learner.make_teacher(jax.random.key(0)))
    shapes = split(module)[1]
    shardings = state_shardings(mesh, shapes)
    weights = cfg.objective.teacher.get("weights", "")
    if weights == "random":
        draw = jit_once(lambda key: split(learner.make_teacher(key))[1], out_shardings=shardings)
        key = jax.random.fold_in(jax.random.key(cfg.seed), TEACHER_STREAM)
        return Teacher(module, draw(key), None)
    if not weights:
        raise UserError(
            "objective.teacher.weights is empty; expected a Hugging Face folder of a ViT, DINOv2 "
            "or DINOv3, a file in timm's names (EndoSSL's ViT-L), or 'random' to try things out"
        )
    wanted = jax.tree.map(lambda x: x.shape, shapes)
    allow = () if module.has_final_norm else ("image_encoder/norm/*",)
    loaded = init_params(weights, expected={"image_encoder": wanted}, allow=allow)
    log.info("teacher: %s", loaded.report())
    params = jax.tree.map(place_array, loaded.params["image_encoder"], shardings)
    return Teacher(module, params, loaded.provenance)


def place_array(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array that every process has, as a global array."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def make_step(
    learner: Learner,
    cfg: ConfigDict,
    mesh: AnyMesh,
    abstract: TrainState,
    teacher: nnx.Module | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The step to compile, (state, batch, stop, teacher params) -> (state, scalars); donates state.

    `stop` (devices,) int32 carries each process's wish to stop; the scalar "stop" is their maximum,
    so all processes agree without a collective of its own. A process that has no batch adds VOID to
    it, and the step changes nothing. `teacher` defines a frozen network;
    with `ema_of` the averaged sub-tree teaches.
    """
    optimizer, accumulation = learner.optimizer, cfg.accumulation
    teacher_def = split(teacher)[0] if teacher is not None else None
    if learner.ema_of is not None:
        module = nnx.eval_shape(lambda: learner.fresh(jax.random.key(0)))
        for name in learner.ema_of.split("/"):
            module = getattr(module, name)
        teacher_def = split(module)[0]

    def step(state: TrainState, batch: dict, stop: jax.Array, teacher_params: Params | None):
        rng = jax.random.fold_in(jax.random.key(cfg.seed), state.step)
        taught_by = state.ema if learner.ema_of is not None else teacher_params

        def loss(params: Params, rows: dict):
            objective = rebuild(learner.graphdef, join(params, state.frozen))
            guide = rebuild(teacher_def, taught_by) if teacher_def is not None else None
            return objective.loss(rows, rng=rng, teacher=guide)

        gradient = jax.value_and_grad(loss, has_aux=True)
        if accumulation == 1:
            (value, scalars), grads = gradient(state.params, batch)
        elif learner.is_contrastive:
            made = lambda params: rebuild(learner.graphdef, join(params, state.frozen))  # noqa: E731
            value, scalars, grads = embed_in_parts(made, state.params, batch, accumulation, rng)
        else:
            objective = rebuild(learner.graphdef, join(state.params, state.frozen))
            batch = objective.told_of_all(batch) if hasattr(objective, "told_of_all") else batch
            value, scalars, grads = accumulate(gradient, state.params, batch, accumulation)
        value = spoilt(value, state.step)
        params, opt_state, more = optimizer.update(
            grads, state.opt_state, state.params, state.step, value
        )
        ema = state.ema
        if ema is not None:
            objective = rebuild(learner.graphdef, join(state.params, state.frozen))
            momentum = objective.ema_momentum(state.step, optimizer.schedule_steps)
            new = lerp(ema, subtree(join(params, state.frozen), learner.ema_of), momentum)
            moved = more["skipped_in_a_row"] == 0
            ema = jax.tree.map(lambda a, b: jnp.where(moved, a, b), new, ema)
        stop = stop.max()
        changed = TrainState(state.step + 1, params, state.frozen, opt_state, ema)
        state = jax.tree.map(lambda new, old: jnp.where(stop < VOID, new, old), changed, state)
        return state, scalars | more | {"stop": stop}

    def on_its_mesh(*arguments):
        with on_mesh(mesh):
            return step(*arguments)

    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        on_its_mesh,
        in_shardings=(shardings, batch_sharding(mesh), batch_sharding(mesh), None),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )


def compile_step(
    learner: Learner, cfg: ConfigDict, mesh: Mesh, abstract: TrainState, teacher: Teacher | None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`make_step`, compiled for these shapes alone: a batch of others is a TypeError."""
    step = make_step(learner, cfg, mesh, abstract, teacher.module if teacher else None)
    batch = batch_shapes(cfg, learner, cfg.batch_size)
    stop = jax.ShapeDtypeStruct((mesh.devices.size,), np.int32)
    return step.lower(abstract, batch, stop, teacher.params if teacher else None).compile()


def batch_shapes(cfg: ConfigDict, learner: Learner, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a batch of so many clips, as they are on devices."""
    video = (clips, cfg.data.frames, cfg.data.size, cfg.data.size, 3)
    described = {"video": (video, np.uint8), "index": ((clips,), np.uint32)}
    described |= {name: ((clips, *row), kind) for name, (row, kind) in learner.batch_extras.items()}
    return {name: jax.ShapeDtypeStruct(*about) for name, about in described.items()}


def read_config(run: Path) -> ConfigDict:
    """The config a run was started with. Raises UserError: it is no JSON object."""
    return ConfigDict(read_json(run / "config.json"), allow_dotted_keys=True)
