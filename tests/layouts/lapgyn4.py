"""LapGyn4: folders of many clips, numbers that start others, a single picture, shuffled counts."""

from pathlib import Path

from layouts import images, text

FPS = 1
CLIPS = {
    "Surgical_Actions/Suturing": {"c_1_v_113587": [25, 50, 75], "c_1_v_11358": [3, 4]},
    "Surgical_Actions/Cutting_HF": {"c_12_v_7": [100, 101, 103], "c_13_v_8": [5]},
    "Anatomical_Structures/Uterus": {"c_1_v_1132": [2, 3]},
    "Actions_on_Anatomy/Suturing_Ovary": {"c_4_v_55": [2203, 2204]},
}
LABELS = {
    ("Surgical_Actions/Suturing/c_1_v_113587", "action", 2000): "Suturing",
    ("Surgical_Actions/Suturing/c_1_v_11358", "action", 1000): "Suturing",
    ("Surgical_Actions/Suturing/c_1_v_11358", "action", 2000): None,  # of another clip
    ("Surgical_Actions/Cutting_HF/c_12_v_7", "action", 2000): None,  # a missing picture
    ("Surgical_Actions/Cutting_HF/c_12_v_7", "action", 3000): "Cutting_HF",
    ("Anatomical_Structures/Uterus/c_1_v_1132", "anatomy", 0): "Uterus",
    ("Anatomical_Structures/Uterus/c_1_v_1132", "action", 0): None,
    ("Actions_on_Anatomy/Suturing_Ovary/c_4_v_55", "action_on_anatomy", 1000): "Suturing_Ovary",
}
CASES = {
    f"{folder}/{clip}": clip.split("_v_")[0] for folder, clips in CLIPS.items() for clip in clips
}


def make(root: Path) -> None:
    for folder, clips in CLIPS.items():
        names = [f"{clip}_f_{frame}.jpg" for clip, frames in clips.items() for frame in frames]
        images(root / folder, names)
    images(root / "Instrument_Count" / "2", ["31.jpg", "77.jpg"])
    text(root / "readme.txt", ["LapGyn4"])
