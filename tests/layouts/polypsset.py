"""PolypsSet: sequences, one folder for training, pictures without polyp, without annotation."""

from collections.abc import Iterable
from pathlib import Path

from layouts import images, text

FPS = 1
LABELS = {
    ("train", "polyp", 0): "polyp",  # 1.jpg
    ("train", "histology", 0): "hyperplastic",
    ("train", "histology", 1000): "adenomatous",
    ("train", "polyp", 2000): "no_polyp",
    ("train", "histology", 2000): None,
    ("val_1", "histology", 0): "adenomatous",  # 4.jpg
    ("val_1", "polyp", 2000): None,  # no annotation
    ("test_1", "histology", 1000): "hyperplastic",
    ("test_10", "polyp", 0): "no_polyp",
}


def make(root: Path) -> None:
    write(root / "train2019", "", {1: ["hyperplastic"], 2: ["adenomatous"] * 2, 3: []})
    write(root / "val2019", "1", {4: ["adenomatous"], 5: ["adenomatous"]})
    images(root / "val2019/Image/1", ["6.jpg"])
    write(root / "test2019", "1", {1: [], 2: ["hyperplastic"], 3: ["hyperplastic"]})
    annotate(root / "test2019/Annotation/1/99.xml", ["hyperplastic"])  # its picture is not there
    write(root / "test2019", "10", {1: [], 2: []})


def write(part: Path, sequence: str, kinds: dict[int, list[str]]) -> None:
    images(part / "Image" / sequence, [f"{number}.jpg" for number in kinds])
    for number, names in kinds.items():
        annotate(part / "Annotation" / sequence / f"{number}.xml", names)


def annotate(path: Path, kinds: Iterable[str]) -> Path:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = [f"\t<object>\n\t\t<name>{name}</name>\n\t\t{box}\n\t</object>" for name in kinds]
    size = "\t<size><width>64</width><height>48</height></size>"
    lines = ["<annotation>", "\t<filename>adenoma_1.jpg</filename>", size, *objects]
    return text(path, [*lines, "</annotation>"])
