"""PSI-AVA: the keyframes, and the annotations of its authors' repository TAPIR.

    keyframes/CASE001/00000.jpg            one a second, numbered by the second
    annotations/fold1/annotations/*.csv    CASE021,1,1,0.0,0.18,0.18,0.36,15,-1,-1,1,0,0
    or outputs/data_annotations/psi-ava/fold1/annotations/*.csv

A row is a box. Its 13 columns are, as their values suggest: case, second, number, corners, three
actions (-1: none), instrument from 1 (-1: none), phase and step from 0. Each fold names all cases,
so one is enough; other tables beside these are left alone. Only seconds with boxes have
instruments; actions belong to single boxes and are not read.

The eight operations are GraSP's training cases too (grasp.py), under the same names.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows, class_number
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

PLACES = ("keyframes/CASE*/",)
NAME = r"keyframes/(?P<id>CASE\d{3})"
TABLES = ("annotations", "outputs/data_annotations/psi-ava")
COLUMNS = 13
PHASES = (
    "idle left_pelvic_isolated_lymphadenectomy right_pelvic_isolated_lymphadenectomy "
    "retzius_space dorsal_venous_complex bladder_neck_identification seminal_vesicles "
    "denonvilliers_fascia pedicle_control prostate_urethra_separation bladder_neck_reconstruction"
).split()
STEPS = (
    "idle identify_iliac_vein_artery iliac_node_dissection obturator_node_dissection pack_nodes "
    "prevesical_dissection pass_needle_cvdp prostate_dissection seminal_dissection "
    "denonvilliers_dissection cut_prostate hold_prostate pack_prostate pass_needle_urethra "
    "pass_needle_bladder_neck pull_suture tie_knot suction cut cut_bladder clip_pedicles"
).split()
INSTRUMENTS = (
    "bipolar_forceps prograsp_forceps large_needle_driver monopolar_curved_scissors "
    "suction_instrument clip_applier laparoscopic_grasper"
).split()

ABOUT = About(
    dataset="psi_ava",
    domain="robotic",
    procedure="radical prostatectomy",
    anatomy="prostate",
    licence="NOASSERTION",
    access="open, by link of the authors",
    layout="assumed",
    evidence="files of TAPIR, whose columns are inferred",
    tasks={
        "phase": {"kind": "one_of_n", "classes": PHASES},
        "step": {"kind": "one_of_n", "classes": STEPS},
        "instrument": {"kind": "multi_label", "classes": INSTRUMENTS},
    },
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Folders of keyframes. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="keyframes/CASE001/00000.jpg beside annotations/fold1/annotations/*.csv",
        label_files={"annotation": lambda _: next(_tables(root), root / TABLES[0] / "fold1")},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase and step of the stored seconds with a row, instruments of those with a box."""
    rows, number = _rows(root, video.video_id)[1], label_files.file_numbers(video, times)
    seconds = np.array(sorted(rows), np.int64)
    ids = np.array([rows[second][:2] for second in sorted(rows)], np.int32).reshape(-1, 2)
    present = np.zeros((len(rows), len(INSTRUMENTS)), np.float32)
    for i, second in enumerate(sorted(rows)):
        present[i, list(rows[second][2])] = 1
    boxed = present.any(1)
    given = {"phase": Rows(seconds, ids[:, 0]), "step": Rows(seconds, ids[:, 1])}
    given["instrument"] = Rows(seconds[boxed], values=present[boxed])
    return {task: label_files.of_frames(of, times, number) for task, of in given.items()}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path, rows = _rows(root, video.video_id)
    if path is None:
        return [f"{video.video_id}: no label file has a row of it"]
    return label_files.check_pictures(path, video, rows)


def _tables(root: Path) -> Iterator[Path]:
    for place in TABLES:
        yield from sorted(root.glob(f"{place}/fold*/annotations/*.csv"))


def _rows(root: Path, case: str) -> tuple[Path | None, dict[int, tuple[int, int, set[int]]]]:
    """The first label file that has a case, and second -> phase, step, instruments."""
    found = ((path, _read(path).get(case)) for path in _tables(root))
    return next((pair for pair in found if pair[1]), (None, {}))


@cached_by_file
def _read(path: Path) -> dict[str, dict[int, tuple[int, int, set[int]]]]:
    table, cases = label_files.read_table(path, header=False), {}
    if table and len(table[0]) != COLUMNS:
        return {}  # another table
    for line, row in enumerate(table, 1):
        at = label_files.where(path, line)
        if len(row) != COLUMNS or not label_files.is_whole(row[1]):
            raise UserError(f"{at}: {row}; expected case, second and {COLUMNS - 2} more values")
        case, second, instrument = row[0], int(row[1]), row[-3]
        phase = class_number(row[-2], PHASES, at, 0, "phase")
        step = class_number(row[-1], STEPS, at, 0, "step")
        given = cases.setdefault(case, {}).setdefault(second, (phase, step, set()))
        if given[:2] != (phase, step):
            raise UserError(f"{at}: {row[-2:]}; expected phase and step of second {second} above")
        if instrument != "-1":
            given[2].add(class_number(instrument, INSTRUMENTS, at, 1, "instrument"))
    return cases
