"""`python -m surgjax.doctor`: what is installed, what the machine has, and the fix for what is not.

Exit code 0, or 1 when a required part is missing or broken.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from surgjax.errors import DAMAGE, run

GIB = 2**30
PYTHON = (3, 11)

# import name -> distribution; all of requirements.txt
REQUIRED = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax.checkpoint": "orbax-checkpoint",
    "etils.epath": "etils",
    "grain": "grain",
    "array_record": "array_record",
    "tensorflow_datasets": "tensorflow-datasets",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "sentencepiece": "sentencepiece",
    "ml_collections": "ml_collections",
    "clu": "clu",
    "einops": "einops",
    "jaxtyping": "jaxtyping",
    "safetensors": "safetensors",
    "av": "av",
    "simplejpeg": "simplejpeg",
    "threadpoolctl": "threadpoolctl",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "pyarrow": "pyarrow",
    "yaml": "pyyaml",
    "tensorboardX": "tensorboardX",
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn",
    "tqdm": "tqdm",
}
# Light enough to be imported here, so that a broken wheel shows; the others are only looked up.
TRIED = ("jax", "av", "simplejpeg", "cv2", "pyarrow", "safetensors", "array_record")

# import name -> (what it is for, fix)
OPTIONAL = {
    "torch": (
        "parity.json on export, .pth files",
        "pip install torch --index-url https://download.pytorch.org/whl/cpu",
    ),
    "pytest": ("the tests", "pip install 'pytest>=8' 'beartype>=0.20' 'ruff>=0.12'"),
    "wandb": ("mirror of metrics.jsonl", "pip install wandb"),
    "tensorflow": ("CLU's own TensorBoard writer", "pip install tensorflow-cpu"),
    "apache_beam": ("preparation on Dataflow", "pip install apache-beam"),
    "yt_dlp": ("downloading lists of public videos", "pip install 'yt-dlp[default]' deno"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m surgjax.doctor", description=__doc__)
    parser.add_argument("--dir", default=".", help="folder whose disk is looked at")
    args = parser.parse_args()
    lines, problems = examine(Path(args.dir))
    print("\n".join(lines))
    if problems:
        print(f"\n{len(problems)} problems:")
        print("\n".join(f"  {problem}" for problem in problems))
        return DAMAGE
    print("\nall required parts are there")
    return 0


def examine(folder: Path) -> tuple[list[str], list[str]]:
    """(lines to print, problems that stop surgjax from working)."""
    problems: list[str] = []
    lines = [_line("python", f"{platform.python_version()} on {platform.system()} "
                             f"{platform.machine()}")]  # fmt: skip
    if sys.version_info < PYTHON:
        problems.append(f"python is {platform.python_version()}; expected 3.11 or newer")
    lines += _required(problems)
    lines += _devices(problems)
    lines += _machine(folder)
    lines += _optional()
    return lines, problems


def _required(problems: list[str]) -> list[str]:
    versions, missing = [], []
    for module, distribution in REQUIRED.items():
        version = _version(distribution)
        if version is None or not _found(module):
            missing.append(distribution)
            continue
        versions.append(f"{distribution} {version}")
        if module in TRIED:
            try:
                importlib.import_module(module)
            except Exception as error:  # a wheel for another processor can raise anything
                problems.append(
                    f"{distribution} {version} does not load ({error}); "
                    f"pip install --force-reinstall {distribution}"
                )
    if missing:
        problems.append(
            f"missing: {', '.join(missing)}; pip install -r requirements.txt (or pip install "
            f"{' '.join(missing)})"
        )
    rows = [", ".join(versions[i : i + 6]) for i in range(0, len(versions), 6)]
    return [_line("packages" if i == 0 else "", row) for i, row in enumerate(rows)]


def _devices(problems: list[str]) -> list[str]:
    lines = []
    gpus = _gpus()
    try:
        import jax

        devices = jax.devices()
        kinds = sorted({device.device_kind for device in devices})
        backend = jax.default_backend()
        lines.append(_line("jax devices", f"{len(devices)} x {', '.join(kinds)} ({backend})"))
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        if memory:
            lines.append(_line("", f"{memory / GIB:.1f} GiB for jax on each"))
    except Exception as error:  # jax raises many kinds when a driver and a plugin disagree
        backend = None
        first = (str(error).splitlines() or [type(error).__name__])[0]
        problems.append(f"jax finds no devices ({first}); try JAX_PLATFORMS=cpu, or {_cuda_fix()}")
    if gpus:
        lines.append(_line("gpu", ", ".join(gpus)))
        if backend == "cpu" and os.environ.get("JAX_PLATFORMS", "") not in ("cpu",):
            lines.append(_line("", f"not used by this jax: {_cuda_fix()}"))
        elif backend == "cpu":
            lines.append(_line("", "not used: JAX_PLATFORMS=cpu is set; unset it"))
    return lines


def _machine(folder: Path) -> list[str]:
    lines = [_line("processor", f"{_cores()} cores usable of {os.cpu_count()}")]
    memory = _memory()
    if memory:
        total, free = memory
        note = "" if free > 4 * GIB else "; under 4 GiB free: use smaller batches"
        lines.append(_line("memory", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free{note}"))
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.is_file():
        mode = pages.read_text().partition("[")[2].partition("]")[0]
        note = f"; training on a CPU gains: echo madvise | sudo tee {pages}"
        lines.append(_line("huge pages", mode + (note if mode == "never" else "")))
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        note = ""
        if free < GIB:
            note = "; loader processes need 1 GiB: docker run --shm-size=8g, or data.workers=0"
        lines.append(_line("/dev/shm", f"{free / GIB:.1f} GiB free{note}"))
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    note = "" if free > 10 * GIB else "; under 10 GiB: choose --out and --workdir on another disk"
    lines.append(_line("disk", f"{free / GIB:.1f} GiB free at {place}{note}"))
    return lines


def _optional() -> list[str]:
    lines = []
    for module, (purpose, fix) in OPTIONAL.items():
        version = _version(module.replace("_", "-")) or _version(module)
        if _found(module):
            lines.append(_line(module, f"{version or 'present'} ({purpose})"))
        else:
            lines.append(_line(module, f"missing, optional ({purpose}): {fix}"))
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:13s} {text}"


def _found(module: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Names of NVIDIA cards, whether or not jax can use them."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                found.append(line.split(":", 1)[1].strip())
    return found or (["NVIDIA"] if Path("/dev/nvidia0").exists() else [])


def _cuda_fix() -> str:
    version = _version("jax")
    exact = f"=={version}" if version else ""
    return f"pip install 'jax[cuda12]{exact}'"


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _memory() -> tuple[int, int] | None:
    """(total, free) bytes, the container's limit respected; None where it cannot be told."""
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(rows[k].split()[0]) * 1024 for k in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
            free = min(free, total)
        except (OSError, ValueError):
            continue
    return total, free


if __name__ == "__main__":
    run(main)
