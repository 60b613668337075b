import math

import pytest

from surgjax.benchmark import aggregates

# SurgRec, Table 2: Acc@1 in per cent of SurgRec-MAE without balanced sampling.
WITHOUT_BALANCE = {
    "aixsuture": 39.13,
    "autolaparo": 17.74,
    "cataract21": 15.69,
    "cataract101": 21.09,
    "cataract1k": 16.83,
    "cholec80": 24.18,
    "colonoscopic": 53.33,
    "hyperkvasir": 36.91,
    "jigsaws": 21.23,
    "kvasir_capsule": 46.34,
    "lapgyn6_events": 67.07,
    "ldpolypvideo": 90.35,
    "m2cai16": 30.09,
    "multibypass140": 51.56,
    "surgicalactions160": 18.75,
    "sar_rarp50": 24.37,
}

# The leaderboard of SurgVLM-Bench: arena score, then phase, action, triplet, cvs, vqa, loc_miou.
LEADERBOARD = [
    ("SurgVLM-72B, MCQ", 336.21, 69.66, 43.1, 12.52, 76.73, 75.2, 59.0),
    ("SurgVLM-72B, OV", 331.86, 76.4, 42.9, 13.1, 76.6, 63.46, 59.4),
    ("SurgVLM-32B, OV", 306.91, 71.2, 40.1, 12.98, 74.51, 59.72, 48.4),
    ("SurgVLM-7B, OV", 290.78, 70.3, 45.8, 4.15, 76.86, 59.67, 34.0),
    ("Gemini 2.0 Flash, MCQ", 191.7, 38.89, 24.4, 1.85, 59.61, 47.05, 19.9),
    ("Qwen2.5-VL-72B-Instruct, MCQ", 184.85, 29.3, 28.2, 1.27, 41.69, 42.19, 42.2),
    ("Qwen2.5-VL-32B-Instruct, MCQ", 184.4, 37.23, 31.8, 0.98, 60.53, 42.46, 11.4),
    ("Qwen2.5-VL-7B-Instruct, MCQ", 175.2, 30.45, 31.1, 0.35, 65.88, 36.82, 10.6),
    ("Qwen 2.5 Max, MCQ", 174.37, 34.79, 28.3, 0.35, 34.77, 36.16, 40.0),
    ("InternVL3-78B, MCQ", 172.97, 27.32, 29.5, 0.52, 50.2, 36.33, 29.1),
    ("Llama-4-Scout-17B-16E-Instruct, MCQ", 163.84, 35.77, 25.1, 0.58, 37.39, 37.0, 28.0),
    ("Mistral-Small-3.1-24B-Instruct-2503, MCQ", 156.98, 22.61, 12.5, 0.46, 68.1, 36.41, 16.9),
    ("InternVL3-8B, MCQ", 146.42, 23.88, 29.3, 2.08, 48.24, 34.72, 8.2),
    ("MiniCPM-O-2_6, MCQ", 140.34, 17.75, 30.8, 0.06, 35.95, 35.48, 20.3),
    ("Gemma3-27B-it, MCQ", 138.93, 14.08, 33.2, 0.06, 38.04, 35.95, 17.6),
    ("Phi-4-Multimodal-Instruct, MCQ", 131.1, 22.45, 15.1, 0.12, 58.43, 34.2, 0.8),
    ("MiniCPM-V-2_6, MCQ", 128.77, 15.2, 24.3, 0.0, 38.69, 33.28, 17.3),
    ("GPT-4o, MCQ", 118.71, 36.43, 28.1, 1.5, 6.67, 38.31, 7.7),
    ("LLava-1.5-7B, MCQ", 112.57, 23.46, 5.1, 0.0, 25.49, 31.42, 27.1),
    ("Skywork-R1V-38B, MCQ", 107.64, 6.37, 12.3, 0.0, 43.79, 34.58, 10.6),
]


def test_the_published_row_of_surgrec_comes_out():
    found = aggregates.aggregate(WITHOUT_BALANCE)
    rounded = {domain: round(value, 2) for domain, value in found.domains.items()}
    assert rounded == {"cataract": 17.87, "robotic": 22.8, "endoscopy": 56.73, "laparoscopy": 35.5}
    assert round(found.macro, 2) == 33.23 and round(found.worst, 2) == 17.87
    assert round(found.datasets, 2) == 35.92
    assert found.coverage == {
        "cataract": (3, 3),
        "robotic": (2, 2),
        "endoscopy": (4, 4),
        "laparoscopy": (7, 7),
    }


def test_every_domain_counts_the_same():
    scores = dict.fromkeys(WITHOUT_BALANCE, 0.0) | {"jigsaws": 1.0, "sar_rarp50": 1.0}
    found = aggregates.aggregate(scores)
    assert found.macro == 1 / 4 and found.datasets == 2 / 16 and found.worst == 0


def test_an_empty_domain_makes_the_macro_undefined():
    scores = {"cataract21": 0.5, "jigsaws": 0.75, "colonoscopic": 0.25, "cholec80": math.nan}
    found = aggregates.aggregate(scores)
    assert found.domains["robotic"] == 0.75 and math.isnan(found.domains["laparoscopy"])
    assert math.isnan(found.macro) and math.isnan(found.worst) and found.datasets == 0.5
    assert found.coverage["laparoscopy"] == (0, 7) and found.coverage["robotic"] == (1, 2)
    assert math.isnan(aggregates.aggregate({}).datasets)


def test_bad_domains_are_named():
    with pytest.raises(ValueError, match="cholec: of no domain; expected cataract21"):
        aggregates.aggregate({"cholec": 0.5})
    with pytest.raises(ValueError, match="in two domains"):
        aggregates.aggregate({"a": 0.5}, {"first": ["a"], "second": ["a"]})


@pytest.mark.parametrize(("model", "printed", "scores"), [(m, a, s) for m, a, *s in LEADERBOARD])
def test_arena_scores_are_the_printed_ones(model, printed, scores):
    found = aggregates.arena_score(dict(zip(aggregates.ARENA, scores, strict=True)))
    assert found == pytest.approx(printed, abs=1e-6), model


def test_an_arena_score_needs_all_six():
    scores = dict.fromkeys(aggregates.ARENA, 0.5)
    assert aggregates.arena_score(scores) == 3
    assert math.isnan(aggregates.arena_score(scores | {"vqa": math.nan}))
    with pytest.raises(ValueError, match="expected phase, action"):
        aggregates.arena_score({"phase": 0.5})
