"""SurgRec-JEPA: features of hidden tokens on surgical video (ViT-L/16, 16 x 224 x 224).

    python -m surgjax.main --config=configs/surgrec_jepa.py --workdir=RUN \\
        --config.data.stores=CLINICAL,UNLABELLED --config.data.weights=0.405,0.595

The recipe draws 15 % of every batch from the clinical core and 85 % from 70/30 unlabelled/clinical:
0.405 clinical, 0.595 unlabelled. Nothing else of the published training is known but the network
and the number of clips; what is assumed here is V-JEPA 2's (arXiv 2506.09985 and its programs).
The loss falls, rises and falls again: the target moves. Watch a probe, target_std and feature_rank.

Variants:
  :reference  masks by the rule of the published programs, which cut off the end of the clip
  :vjepa1     the schedules of V-JEPA (arXiv 2404.08471): decay, average and length
  :demo       a tiny network on 96-pixel clips: minutes on two CPU cores, any native-rate store
  :one_gpu    the same global batch on one 80 GB GPU, by accumulation
"""

from surgjax.config import defaults

CLIPS = 600_000 * 100 + 200_000 * 30  # read off the released run's name: epochs of two corpora


def get_config(variant: str = ""):
    cfg = defaults()
    # Published (model zoo of the release): ViT-L/16.
    cfg.encoder.size = "L"
    cfg.encoder.positions = "rope_3d"  # not published; assumed
    cfg.encoder.qkv_bias = "all"
    cfg.encoder.remat = "dots"
    cfg.objective = dict(
        name="jepa",
        # Not published; assumed: V-JEPA 2's, drawn for each sample. keep and predict are what its
        # rule leaves on average in groups of 24.
        masks="sample",
        blocks=dict(
            short=dict(blocks=8, scale=0.15, keep=0.23, predict=0.48),
            long=dict(blocks=2, scale=0.7, keep=0.0625, predict=0.7),
        ),
        aspect=(0.75, 1.5),
        predictor_width=384,  # not published; assumed, as depth, heads and average
        predictor_depth=12,
        predictor_heads=12,
        ema_start=0.99925,
        ema_end=0.99925,
    )
    cfg.data.frames = 16
    cfg.data.size = 224
    cfg.data.stride = "0.25s"  # not published; assumed, as the crops
    cfg.data.crop = "resized"
    cfg.data.crop_area = "0.3,1"
    cfg.data.crop_aspect = "0.75,1.35"
    cfg.data.flip = 0.5
    cfg.data.workers = 8
    cfg.batch_size = 3072  # not published; assumed
    cfg.total_steps = CLIPS // cfg.batch_size
    cfg.optim.peak_lr = 5.25e-4  # not published; assumed, as all of the schedule
    cfg.optim.final_lr = 5.25e-4
    cfg.optim.warmup_lr = 1e-4
    cfg.optim.warmup_steps = cfg.total_steps // 20  # 12,000 of 240,000 there
    cfg.optim.weight_decay = 0.04
    cfg.optim.b2 = 0.999
    cfg.checkpoint.every = 500
    cfg.checkpoint.keep_every = 5_000
    # Off until they are given a labelled store: --config.evals.knn.store=STORE
    cfg.evals.knn = dict(every=2_000, store="", task="phase")
    cfg.evals.linear_probe = dict(every=0, store="", task="phase", split="official")

    if variant == "reference":
        cfg.objective.masks = "reference(batch=24)"
    elif variant == "vjepa1":
        cfg.encoder.positions = "sincos_3d"
        cfg.objective.predictor_heads = 16
        cfg.objective.ema_start = 0.998
        cfg.objective.ema_end = 1.0
        cfg.optim.schedule_stretch = 1.25
        cfg.optim.peak_lr = 6.25e-4
        cfg.optim.final_lr = 1e-6
        cfg.optim.warmup_lr = 2e-4
        cfg.optim.warmup_steps = cfg.total_steps * 40 // 300  # epochs there
        cfg.optim.final_weight_decay = 0.4
    elif variant == "one_gpu":
        cfg.accumulation = 192
    elif variant == "demo":
        cfg.encoder.size = "T"
        cfg.encoder.remat = "none"
        cfg.objective.predictor_width = 96
        cfg.objective.predictor_depth = 2
        cfg.objective.predictor_heads = 3
        cfg.objective.ema_start = 0.99  # short runs need an average that follows
        cfg.objective.ema_end = 0.999
        cfg.data.frames = 2
        cfg.data.stride = "8"
        cfg.data.size = 96
        cfg.data.workers = 0
        cfg.batch_size = 32
        cfg.total_steps = 200
        cfg.optim.peak_lr = 1e-3
        cfg.optim.final_lr = 1e-5
        cfg.optim.warmup_lr = 0.0
        cfg.optim.warmup_steps = 30
        cfg.log.every = 10
        cfg.checkpoint.every = 40
        cfg.checkpoint.keep_every = 0
        cfg.evals.knn.every = 0
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; known: reference, vjepa1, demo, one_gpu")
    return cfg
