"""MultiBypass140: BernBypass70 and StrasBypass70 as downloaded, in one folder with their labels.

    BernBypass70/videos/BBPnn.mp4, StrasBypass70/videos/SBPnn.mp4                     01 to 70 each
    labels/{bern,strasbourg}/labels_by70/<video>.mp4.json    {"phases": [...], "steps": [...]} of
                                                             {start, end, label_name, label_id}
    labels/strasbourg/labels_by70_splits/labels/test/1fps_k.pickle    by the test videos of fold k

labels/ is that of the repository CAMMA-public/MultiBypass140. start and end are milliseconds; where
spans overlap, the one that starts later counts. Phases 12 (out_of_body) and 13 (severe_index) lie
over the others and are the task `overlay`; frames out of the body have neither phase nor step, as
the official 1-fps labels leave them out. Steps go by number. Adverse events are not read.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, manifest, recordings
from data_prep.guarded import header_of
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

PLACES = ("BernBypass70/videos/BBP*.*", "StrasBypass70/videos/SBP*.*")
NAME = r"(BernBypass70/videos/(?=B)|StrasBypass70/videos/(?=S))(?P<id>[BS]BP\d\d)"
FOLDS = "labels/strasbourg/labels_by70_splits/labels/test/1fps_{}.pickle"
PHASES = """preparation gastric_pouch_creation omentum_division gastrojejunal_anastomosis
    anastomosis_test jejunal_separation closure_petersen_space jejunojejunal_anastomosis
    closure_mesenteric_defect cleaning_coagulation disassembling other_intervention""".split()
OVERLAYS = ["out_of_body", "severe_index"]
STEPS = """null cavity_exploration trocar_placement retractor_placement crura_dissection
    his_angle_dissection horizontal_stapling retrogastric_dissection vertical_stapling
    gastric_remnant_reinforcement gastric_pouch_reinforcement gastric_opening omental_lifting
    omental_section adhesiolysis treitz_angle_identification biliary_limb_measurement
    jejunum_opening gastrojejunal_stapling gastrojejunal_defect_closing mesenteric_opening
    jejunal_section gastric_tube_placement jejunal_clamping ink_injection visual_assessment
    gastrojejunal_anastomosis_reinforcement petersen_space_exposure petersen_space_closing
    biliary_limb_opening alimentary_limb_measurement alimentary_limb_opening
    jejunojejunal_stapling jejunojejunal_defect_closing jejunojejunal_anastomosis_reinforcement
    staple_line_reinforcement mesenteric_defect_exposure mesenteric_defect_closing
    anastomosis_fixation coagulation irrigation_aspiration parietal_closure trocar_removal
    calibration drainage_insertion specimen_retrieval""".split()

ABOUT = About(
    dataset="multibypass140",
    domain="laparoscopy",
    procedure="gastric bypass",
    anatomy="stomach",
    licence="CC-BY-NC-SA-4.0",
    access="open download",
    layout="verified",
    evidence="labels and README of CAMMA-public/MultiBypass140",
    tasks={
        "phase": {"kind": "one_of_n", "classes": PHASES},
        "step": {"kind": "one_of_n", "classes": STEPS},
        "overlay": {"kind": "multi_label", "classes": OVERLAYS},
    },
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of both centres. Raises UserError when there are none, or for an odd fold."""
    found, splits = recordings.search(root, PLACES, NAME), _splits(root)
    if unknown := found.paths.keys() - splits.splits["strict"].keys():
        found.warnings.append(f"{len(unknown)} videos are not in strict without {FOLDS.format(0)}")
    expected = "BernBypass70/videos/BBP01.mp4 or StrasBypass70/videos/SBP01.mp4 beside labels/"
    files = {"label": lambda video_id: _file(root, video_id)}
    return recordings.assemble(
        ABOUT, root, found, overrides, expected=expected, splits=splits, label_files=files
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase, step and overlays of the stored frames within their spans."""
    path = _file(root, video.video_id)
    if not path.exists():
        return {}
    spans = _spans(path)
    values = np.zeros((len(times.t_ms), len(OVERLAYS)), np.float32)
    for start, end, number in spans["overlay"]:
        values[(times.t_ms >= start) & (times.t_ms < end), number] = 1
    some, inside = values.any(axis=1), values[:, OVERLAYS.index("out_of_body")] == 0
    rest = Times(times.t_ms[inside], times.index[inside], times.native_fps)
    tables = {task: label_files.of_spans(spans[task], rest) for task in ("phase", "step")}
    return tables | {"overlay": LabelTable(times.t_ms[some], values=values[some])}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.video_id)
    length = 1000 * header_of(video).seconds
    for task, spans in (_spans(path) if path.exists() else {}).items():
        for start, end, _ in spans:
            if end > length + 1000:
                raise UserError(
                    f"{path.relative_to(root)}: the first {task} past the end of the recording at "
                    f"{length:.0f} ms is from {start} to {end}; get both files of one release"
                )
    return []


def _splits(root: Path) -> manifest.Manifest:
    """The manifest, with Strasbourg's folds as far as pickles tell, and folds of both centres."""
    known = manifest.read(ABOUT.dataset)
    for fold in range(5):
        bern, strasbourg = known.splits[f"bern_{fold}"], known.splits[f"strasbourg_{fold}"]
        if (path := root / FOLDS.format(fold)).exists():
            others = {name for name in known.names if name.startswith("S")} - strasbourg.keys()
            keys = label_files.read_pickle(path)
            test = others & set(keys if isinstance(keys, dict) else ())
            if len(test) != 20:  # of 70; 10 are known to validate, the others train
                raise UserError(f"{FOLDS.format(fold)}: {len(test)} videos SBPnn; expected 20")
            strasbourg |= dict.fromkeys(others, "train") | dict.fromkeys(test, "test")
        known.splits[f"crossval_{fold}"] = bern | strasbourg
        known.about[f"crossval_{fold}"] = known.about[f"bern_{fold}"]
    known.splits["strict"] = known.splits["crossval_0"]
    return known


@cached_by_file
def _spans(path: Path) -> dict[str, list[tuple[float, float, int]]]:
    """(start, end, class) by task, in order of their start."""
    at, spans = label_files.named(path), {"phase": [], "step": [], "overlay": []}
    rows = label_files.read_json(
        path,
        lambda data: [(of, *row) for of in ("phase", "step") for row in enumerate(data[f"{of}s"])],
        "JSON with lists of phases and steps",
    )
    for task, i, row in rows:
        where, classes = f"{at}, {task}s[{i}]", PHASES + OVERLAYS if task == "phase" else STEPS
        row = row if isinstance(row, dict) else {}
        start, end, name = (row.get(key) for key in ("start", "end", "label_name"))
        if not all(isinstance(x, int | float) for x in (start, end)) or not 0 <= start <= end:
            raise UserError(f"{where}: from {start} to {end}; expected start and end, milliseconds")
        number = label_files.class_number(str(row.get("label_id")), classes, where, 0, task)
        if task == "phase" and name != classes[number]:
            raise UserError(f"{where}: label_name is {name!r}; {number} is {classes[number]}")
        if task == "phase" and number >= len(PHASES):
            task, number = "overlay", number - len(PHASES)
        spans[task].append((start, end, number))
    return {task: sorted(found) for task, found in spans.items()}


def _file(root: Path, video_id: str) -> Path:
    centre = "bern" if video_id.startswith("B") else "strasbourg"
    return root / "labels" / centre / "labels_by70" / f"{video_id}.mp4.json"
