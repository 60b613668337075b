"""The model card of an export: what the weights are, what they are for, how they are loaded."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from surgjax.interop import licence
from surgjax.interop.licence import licences, pretrained_on
from surgjax.interop.public import Model

TAG = "surgjax"  # marks a folder as an export of ours
# Names the hub's front matter knows; any other licence is "other" with its name beside it.
HUB_NAMES = {name: name.lower() for name in licence.CONDITIONS}


def provenance(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What travels inside the weight file and comes back when it is read: no paths, no case ids."""
    return {
        "licence": licence.combined(licences(meta).values()),
        "licences": licences(meta),
        "pretrained_on": pretrained_on(meta),
        "cases": dict(sorted(_cases(meta).items())),
        "objective": meta["config"]["objective"]["name"],
        "step": int(meta.get("step", 0)),
    }


def card(meta: Mapping[str, Any], usage: str, parity: str) -> str:
    """README.md of an export.

    Args:
      meta: of the checkpoint.
      usage: code that loads the folder.
      parity: one sentence on the comparison with the public class.
    """
    facts = provenance(meta)
    config = meta["config"]
    size, frames, side = config["encoder"]["size"], config["data"]["frames"], config["data"]["size"]
    return f"""---
{yaml.safe_dump(_front_matter(meta, facts), sort_keys=False).strip()}
---

# Surgical video transformer, ViT-{size}

A video transformer (ViT-{size}, {frames} frames of {side} x {side} pixels, cubes of 2 x 16 x 16),
trained on surgical video {_labels(config)}. Objective `{facts["objective"]}`, step {facts["step"]}.

## How to load

With `folder` the path of this folder and `frames` a clip:

```python
{usage}
```

A clip in training: {frames} frames, stride {config["data"].get("stride", "unknown")} (in frames, or
in seconds where it ends in s), pixels normalised with ImageNet's mean and deviation.

{parity}

## Intended use

{_intended(config)} for research on surgical and endoscopic
video. The model gives no diagnosis. It has not been tested on patients, devices or hospitals other
than those it was trained on.

**Not a medical device.** It must not be used for the care of patients or to guide an operation.

## Training data

{_data_table(meta)}

The weights have seen: {", ".join(facts["pretrained_on"])}.

## Leakage

{_held_out(config)}; {sum(facts["cases"].values())} cases, counted under
every name that is known for them, were trained on. Where the weights have seen unknown data, nobody
can say that a test case is new to them. Compare case lists before reporting numbers.

## Licence

`{facts["licence"]}`: the most restrictive combination of the terms above. No legal advice.
{chr(10).join(f"- {note}" for note in licence.notes(facts["licences"].values()))}

## How it was trained

{_average(meta)}{_recipe(meta)}
"""


def public_card(model: Model, parity: str) -> str:
    """README.md of a public model that was loaded and written again.

    Args:
      parity: one sentence on the comparison with the public class.
    """
    name = model.licence
    head: dict[str, Any] = {"license": HUB_NAMES.get(name, "other")}
    if name not in HUB_NAMES:
        head["license_name"] = name
    head["tags"] = [TAG]
    head["pretrained_on"] = model.pretrained_on  # some layouts have no place for it in their files
    if str(model.provenance["source"]).count("/") == 1:  # a name on the hub
        head["base_model"] = model.provenance["source"]
    notes = "\n".join(f"- {note}" for note in licence.notes([name]))
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {model.provenance["source"]}, written again

Weights in the layout `{model.family}`, read by surgjax and written without a change of any number.
Source file: sha256 `{model.provenance["sha256"]}`.

{parity}

## Training data

The weights have seen: {", ".join(model.pretrained_on)}.

## Licence

`{name}`, as the source says. No legal advice.
{notes}
"""


def _labels(config: Mapping[str, Any]) -> str:
    tasks = config["objective"].get("labels")
    return f"with labels of {', '.join(tasks)}" if tasks else "without labels"


def _average(meta: Mapping[str, Any]) -> str:
    part = meta.get("ema_of")
    return f"The {part} is the moving average of the trained one.\n\n" if part else ""


def _intended(config: Mapping[str, Any]) -> str:
    if config["objective"].get("labels"):
        return "Recognition of these classes, and further fine-tuning,"
    return "Features (fine-tuning, probing, retrieval)"


def _held_out(config: Mapping[str, Any]) -> str:
    splits = config["data"].get("held_out", "every")
    if splits == "none":
        return "Test and validation cases were NOT left out (data.held_out=none)"
    which = "the known splits" if splits == "every" else f"the splits {splits}"
    return f"Test and validation cases of {which} were left out"


def _front_matter(meta: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    name = facts["licence"]
    head: dict[str, Any] = {"license": HUB_NAMES.get(name, "other")}
    if name not in HUB_NAMES:
        head["license_name"] = name
    head["library_name"] = "transformers"
    is_classifier = bool(meta["config"]["objective"].get("labels"))
    head["pipeline_tag"] = "video-classification" if is_classifier else "feature-extraction"
    head["tags"] = ["surgery", "endoscopy", "jax", "video", TAG]
    head["pretrained_on"] = facts["pretrained_on"]
    start = meta.get("init_from") or {}
    if str(start.get("source", "")).count("/") == 1:  # a name on the hub
        head["base_model"] = start["source"]
    return head


def _cases(meta: Mapping[str, Any]) -> Counter:
    """Dataset -> cases used; a case id is "<dataset>/<case>"."""
    return Counter(str(case).split("/")[0] for case in meta.get("used_cases") or [])


def _data_table(meta: Mapping[str, Any]) -> str:
    cases = _cases(meta)
    rows = ["| what | licence | cases used |", "|---|---|---|"]
    for what, name in licences(meta).items():
        count = "" if what.startswith("weights of ") else cases.get(what, 0)
        rows.append(f"| {what} | {licence.normalised(name)} | {count} |")
    return "\n".join(rows)


def _recipe(meta: Mapping[str, Any]) -> str:
    """Settings as a list; data.stores is left out, it names folders of the machine."""
    config = meta["config"]
    shown = {name: config[name] for name in ("seed", "total_steps", "batch_size") if name in config}
    for group in ("encoder", "objective", "optim"):
        shown |= {f"{group}.{name}": value for name, value in (config.get(group) or {}).items()}
    lines = [f"- `{name}`: {value}" for name, value in shown.items()]
    versions = ", ".join(f"{k} {v}" for k, v in (meta.get("versions") or {}).items())
    return "\n".join([*lines, f"- versions: {versions or 'not recorded'}"])
