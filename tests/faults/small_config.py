"""The smallest run as a config file, for processes of their own: seconds on one core.

Variants:
  :sharded   parameters of any size are split over mesh.fsdp
"""

from surgjax import sharding
from surgjax.config import defaults
from surgjax.models.video_vit import SIZES, Size

SIZES["two blocks"] = Size(96, 2, 3, 96, 1, 3)


def get_config(variant: str = ""):
    cfg = defaults()
    cfg.total_steps, cfg.batch_size = 8, 8
    cfg.data.frames, cfg.data.stride, cfg.data.size = 4, "2", 32
    cfg.encoder.size = "two blocks"
    cfg.objective = dict(name="mae", mask_ratio=0.75, decoder_depth=1)
    cfg.optim.peak_lr, cfg.optim.warmup_steps = 1e-3, 2
    cfg.log.every, cfg.checkpoint.every = 1, 2
    cfg.evals.knn = dict(every=0, store="", task="phase")
    if variant == "sharded":
        sharding.MIN_SHARDED_SIZE = 1
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; known: sharded")
    return cfg
