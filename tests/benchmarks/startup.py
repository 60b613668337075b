"""How long until the first step: cold, with the compilation cache, and when a run is resumed.

    python tests/benchmarks/startup.py --store STORE [--rounds 3]

Every figure is a whole process of `python -m surgjax.main` with the demo config, from its start to
its end after one step; `resume` continues a run by one step. The store must be native-rate.
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
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"import": [], "cold": [], "cached": [], "resume": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            seconds["import"].append(_time([sys.executable, "-c", "import surgjax.train"], base))
            seconds["cold"].append(_time(_training(args.store, base / "cold", 1), base))
            seconds["cached"].append(_time(_training(args.store, base / "cached", 1), base))
            seconds["resume"].append(_time(_training(args.store, base / "cached", 2), base))
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:8s} {value:7.2f} s   {value / medians['cold']:.2f} of cold")
    print(json.dumps({"benchmark": "startup", "rounds": args.rounds, "seconds": medians}))
    return 0


def _training(store: str, run: Path, stop: int) -> list[str]:
    return [
        *[sys.executable, "-m", "surgjax.main", "--config=configs/surgrec_mae.py:demo"],
        *[f"--workdir={run}", f"--config.data.stores={store}", f"--config.stop_at_step={stop}"],
    ]


def _time(command: list[str], folder: Path) -> float:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
