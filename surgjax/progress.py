"""How fast a run goes and how long it will take: the numbers of a log line."""

import logging
import resource
import sys
import time

import jax
from tqdm import tqdm

log = logging.getLogger("surgjax")

# Dense bf16 matrix peak per device, FLOP/s, from the vendors' data sheets.
PEAK_FLOPS = {
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops() -> float | None:
    """FLOP/s of all devices together, None where the kind is not in the table (every CPU)."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in PEAK_FLOPS.items() if kind.startswith(name)]
    return known[-1] * jax.device_count() if known else None


def memory_gb() -> float:
    """Peak memory: of the fullest local device, or of this process on a CPU."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = max(s.get("peak_bytes_in_use", 0) for s in stats)
    return (used or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e9


# Features have collapsed below them: the deviation of normalised targets (1 where all channels
# differ between tokens), and the effective rank of 64 of them. Small runs that learnt stayed above
# 0.5 and 15; with targets that are not averaged, the rank fell to 6.
COLLAPSED = {"target_std": 0.1, "feature_rank": 3.0}


class Meter:
    """Rates since the last log line; the first one includes compilation, none includes evaluation.

    Args:
      batch_size: clips a step over all devices.
      flops_per_clip: useful training operations.
      step, last_step: for the time that is left.
    """

    def __init__(self, batch_size: int, flops_per_clip: float, step: int, last_step: int):
        self.batch_size, self.flops_per_clip, self.last_step = batch_size, flops_per_clip, last_step
        self._peak = peak_flops()
        self._bar, self._collapsed = None, False
        if sys.stderr.isatty() and jax.process_index() == 0:
            self._bar = tqdm(total=last_step, initial=step, unit="step", dynamic_ncols=True)
        self.restart(step)

    def restart(self, step: int) -> None:
        """Measure from here on."""
        self._step, self._began = step, time.monotonic()
        self._waited = 0.0
        self._decoded = self._clips = 0
        self.substituted = getattr(self, "substituted", 0)

    def add(self, stats: dict[str, float]) -> None:
        """The loader's numbers for one batch."""
        self._waited += stats["wait_s"]
        self._decoded += stats["frames_decoded"]
        self._clips += stats["clips"]
        self.substituted += stats["substituted"]
        if self._bar is not None:
            self._bar.update()

    def read(self, step: int) -> dict[str, float]:
        """Scalars of the interval that ends at `step`."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        steps = max(step - self._step, 1)
        clips_per_s = steps * self.batch_size / seconds
        rates = {
            "clips_per_s": clips_per_s,
            "data_wait_percent": 100 * self._waited / seconds,
            "frames_decoded_per_clip": self._decoded / max(self._clips, 1),
            "substituted": self.substituted,
            "tflops": clips_per_s * self.flops_per_clip / 1e12,
            "memory_gb": memory_gb(),
            "eta_s": (self.last_step - step) * seconds / steps,
        }
        if self._peak:
            rates["mfu_percent"] = 100 * rates["tflops"] * 1e12 / self._peak
        return rates

    def warn(self, step: int, scalars: dict[str, float]) -> None:
        """One line when the scalars named in `COLLAPSED` say so for the first time in a row."""
        low = [n for n, least in COLLAPSED.items() if n in scalars and scalars[n] < least]
        if low and not self._collapsed:
            found = ", ".join(f"{name} {scalars[name]:.3g} (< {COLLAPSED[name]:g})" for name in low)
            log.warning(
                "step %d: the targets have collapsed: %s; all clips get nearly the same features. "
                "Lower optim.peak_lr or raise objective.ema_start, and start again",
                *(step, found),
            )
        self._collapsed = bool(low)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def line(step: int, last_step: int, scalars: dict[str, float]) -> str:
    """One readable log line; everything is in metrics.jsonl."""
    parts = [
        f"{k.removesuffix('_loss')} {v:.4f}" for k, v in scalars.items() if k.endswith("_loss")
    ]
    shares = f" ({', '.join(parts)})" if parts else ""
    text = (
        f"step {step}/{last_step} loss {scalars['loss']:.4f}{shares} lr {scalars['lr']:.2e} "
        f"{scalars['clips_per_s']:.1f} clips/s data wait {scalars['data_wait_percent']:.0f} % "
        f"{scalars['tflops']:.3g} TFLOP/s "
    )
    if "mfu_percent" in scalars:
        text += f"MFU {scalars['mfu_percent']:.1f} % "
    return f"{text}memory {scalars['memory_gb']:.1f} GB ETA {clock(scalars['eta_s'])}"


def clock(seconds: float) -> str:
    """ "1:02:03" for an hour, two minutes and three seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
