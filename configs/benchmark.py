"""Evaluations of any encoder, without training anything in it.

    python -m surgjax.main --mode=evaluate --config=configs/benchmark.py --workdir=OUT \\
        --config.init_from=MODEL --config.evals.linear_probe.store=STORE

MODEL is a run of ours, a public model's folder or weight file, or a features.parquet made elsewhere
(video_id, t_ms, vector). An evaluation is on when it has a store; any argument of
surgjax/evals/<name>.py can be set: --config.evals.linear_probe.task=instrument. OUT/eval/<name>
gets predictions.parquet and metrics.json. After a stop the same command goes on, by video or epoch.
"""

from surgjax.config import defaults


def get_config(variant: str = ""):
    if variant:
        raise ValueError(f"unknown variant {variant!r}; there is none")
    cfg = defaults()
    # The model's own where it has them; else 16 frames of 224 pixels, every fourth stored frame.
    cfg.data.frames = 0
    cfg.data.size = 0
    cfg.data.stride = ""
    for name in (
        *("knn", "linear_probe", "attentive_probe", "few_shot", "temporal"),  # of any encoder
        *("zero_shot", "retrieval", "coop"),  # of one with a text tower
        "trained_head",
        "vectors",
    ):
        cfg.evals[name] = dict(every=0, store="")
    return cfg
