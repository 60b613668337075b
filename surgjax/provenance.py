"""What a checkpoint says about itself, and what a continuation has to find unchanged."""

import hashlib
import importlib.metadata
import platform
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from surgjax.build import Data, Teacher
from surgjax.config import component, to_dict
from surgjax.data.store import Store
from surgjax.errors import UserError
from surgjax.files import sha256


def describe(
    cfg: ConfigDict,
    data: Data,
    init_from: dict[str, Any] | None,
    teacher: dict[str, Any] | None = None,
    ema_of: str | None = None,
) -> dict[str, Any]:
    """What every checkpoint says about itself: config, versions, data, licences, cases used.

    What the starting weights and the teacher have seen, the run has seen: `init_from` and `teacher`
    are their provenance. `ema_of` is the path that the checkpoint's item `ema` is the average of.
    """
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    licences: dict[str, str] = {}
    for store in data.stores:
        licences |= store.meta["licences"]
    cases = data.leakage["names"]
    datasets = sorted({case.split("/")[0] for case in data.leakage["cases"]})
    before = [about for about in (init_from, teacher) if about]
    known = all(about["used_cases"] is not None for about in before)
    seen = [name for about in before for name in about["pretrained_on"]]
    return {
        "config": to_dict(cfg),
        "versions": {"python": platform.python_version(), **versions},
        "stores": [_about_store(store, cfg) for store in data.stores],
        "clips": data.clips,
        "licences": licences,
        "used_cases": sorted({*cases, *(c for a in before for c in a["used_cases"])})
        if known
        else None,
        "pretrained_on": list(dict.fromkeys([*seen, *(f"{name} (train)" for name in datasets)])),
        "init_from": init_from,
        "teacher": teacher,
        "ema_of": ema_of,
    }


def refuse_other_files(
    meta: dict[str, Any], cfg: ConfigDict, data: Data, teacher: Teacher | None
) -> None:
    """Raise UserError when a continuation would read other stores, clips or teacher's weights than
    the run was started with, as `meta` of its checkpoint says."""
    for before, store in zip(meta.get("stores", ()), data.stores, strict=False):
        now = _about_store(store, cfg)["trained_on"]
        was = before.get("trained_on", now)  # in runs of an earlier surgjax it is missing
        if changed := sorted(name for name in was | now if was.get(name) != now.get(name)):
            raise UserError(
                f"{store.path} is not as the run was started with: {', '.join(changed)} changed; "
                f"put the store back or use a new --workdir"
            )
    if meta.get("clips") != data.clips:
        raise UserError(
            "data.clips is not the list that the run was started with: the file has changed; put "
            "it back or use a new --workdir"
        )
    now = (teacher.provenance if teacher else None) or {}
    before = meta.get("teacher") or {}
    if before.get("sha256") != now.get("sha256"):
        raise UserError(
            f"objective.teacher.weights are not those the run was started with "
            f"({before.get('source')}): the file has changed; put it back or use a new --workdir"
        )


def _about_store(store: Store, cfg: ConfigDict) -> dict[str, Any]:
    """{name, sha256 of store.json, median fps, "trained_on": {what the run reads: sha256}}."""
    samples = component("surgjax.objectives", cfg.objective.name, "Objective").samples
    tables = {"videos.parquet", "edits.parquet"}
    if samples == "captioned":
        tables.add("captions.parquet")
    if samples == "labelled":
        tables |= {f"labels/{task}.parquet" for task in cfg.objective.labels}
    shards = "".join(str(shard.get("sha256")) for shard in store.meta["shards"])
    trained_on = {name: d for name, d in sorted(store.meta["tables"].items()) if name in tables}
    return {
        "name": store.name,
        "sha256": sha256(store.path / "store.json"),
        "fps": float(np.median(store.videos["stored_fps"])),
        "trained_on": {"shards": hashlib.sha256(shards.encode()).hexdigest(), **trained_on},
    }
