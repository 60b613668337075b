"""How long until the first step: cold, with the compilation cache, and when a run is resumed.

    python tests/benchmarks/startup.py --store STORE [--rounds 3] [--config.encoder.size=B ...]

Every figure is a process of `python -m surgjax.main` with the demo config and the fields given,
from its start to the log line of its first step; `resume` continues a run by one step, as after
a kill. The store must be native-rate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True, help="native-rate store")
    parser.add_argument("--rounds", type=int, default=3)
    args, fields = parser.parse_known_args()
    seconds: dict[str, list[float]] = {"import": [], "cold": [], "cached": [], "resume": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            seconds["import"].append(_time([sys.executable, "-c", "import surgjax.train"], base))
            seconds["cold"].append(_time(_training(args.store, base / "cold", 1, fields), base))
            seconds["cached"].append(_time(_training(args.store, base / "cached", 1, fields), base))
            seconds["resume"].append(_time(_training(args.store, base / "cached", 2, fields), base))
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:8s} {value:7.2f} s   {value / medians['cold']:.2f} of cold")
    print(json.dumps({"benchmark": "startup", "rounds": args.rounds, "seconds": medians}))
    return 0


def _training(store: str, run: Path, stop: int, fields: list[str]) -> list[str]:
    return [
        *[sys.executable, "-m", "surgjax.main", "--config=configs/surgrec_mae.py:demo"],
        *[f"--workdir={run}", f"--config.data.stores={store}", f"--config.stop_at_step={stop}"],
        *fields,
    ]


def _time(command: list[str], folder: Path) -> float:
    """Seconds until the first step is logged, or the end of a command that makes none."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    began, taken = time.monotonic(), None
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    printed = []
    for line in process.stderr:
        printed.append(line)
        if line.startswith("step ") and taken is None:
            taken = time.monotonic() - began
    if process.wait():
        sys.exit(f"{' '.join(command)} failed:\n{''.join(printed)}")
    return taken or time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
