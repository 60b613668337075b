"""The whole chain on a rendered corpus: `python -m surgjax.demo --out DIR`.

Renders labelled operations, prepares and checks a store, trains the tiny masked autoencoder,
compares it with a random encoder on held-out videos, exports it, and writes one offline page.
Interrupted, the same command goes on where it stopped.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from surgjax.benchmark.comparison import text_table
from surgjax.benchmark.report import write_report
from surgjax.errors import UserError, run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m surgjax.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--videos", type=int, default=12, help="rendered operations")
    parser.add_argument("--seconds", type=int, default=40, help="length of each")
    parser.add_argument("--seed", type=int, default=0, help="of the training run")
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0: the config's")
    args = parser.parse_args(argv)
    began = time.monotonic()
    for command in commands(args):
        _run(command)
    report = write_report(args.out, args.out / "report.html", "surgjax demo")
    _summary(args.out, report, time.monotonic() - began)
    return 0


def commands(args: argparse.Namespace) -> list[list[str]]:
    """The commands of the chain, each as one would type it."""
    videos, store, trained = args.out / "videos", args.out / "store", args.out / "run"
    prepare = ["python", "-m", "data_prep"]
    training = [
        *["python", "-m", "surgjax.main", "--config=configs/surgrec_mae.py:demo"],
        *[f"--workdir={trained}", f"--config.data.stores={store}", f"--config.seed={args.seed}"],
        *[f"--config.evals.{name}.store={store}" for name in ("knn", "linear_probe")],
        f"--config.evals.reconstruction.store={store}",
    ]
    if args.steps:
        training.append(f"--config.total_steps={args.steps}")
    chain = [
        [*prepare, "synthesize", f"--out={videos}", f"--videos={args.videos}"]
        + [f"--seconds={args.seconds}"],
        [*prepare, "check", f"--root={videos}"],
        [*prepare, "shards", "--dataset=synthetic", f"--root={videos}", f"--out={store}"]
        + ["--fps=native", "--short-side=128"],
        [*prepare, "verify", str(store)],
        [*prepare, "inspect", str(store), f"--out={args.out / 'pictures'}"],
        training,
    ]
    export = args.out / "export"
    if not export.exists():
        chain.append(
            ["python", "-m", "surgjax.export", f"--run={trained}", "--format=videomae"]
            + [f"--out={export}"]
        )
    return chain


def _run(command: list[str]) -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    code = subprocess.run([sys.executable, *command[1:]], env=environment).returncode
    if code:
        raise UserError(f"the step above left with exit code {code}: {shlex.join(command)}")


def _summary(out: Path, report: Path, seconds: float) -> None:
    print(f"\ndone in {seconds / 60:.1f} minutes")
    for name in ("knn", "linear_probe"):
        result = json.loads((out / "run" / "eval" / name / "metrics.json").read_text())
        print(f"\n{name}\n{text_table(result)}")
    pictures = sorted(out.rglob("*.png"))
    print(f"{len(pictures)} pictures below {out}, among them {pictures[0]}")
    print(f"all on one offline page: {report}")
    print("have videos of your own? python -m data_prep check --root DIR")


if __name__ == "__main__":
    run(main)
