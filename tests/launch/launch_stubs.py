"""Stand-ins for the programs of clusters, to be found first on PATH: they do it on this machine."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# `srun` that runs STUB_TASKS tasks here with SLURM's variables, each with its own --output, and
# kills what is left once one has failed, as --kill-on-bad-exit does after KillWait.
SRUN = """
import os, signal, subprocess, sys, time
command = sys.argv[1:]
options = []
while command[0].startswith("-"):
    options.append(command.pop(0))
count = int(os.environ.get("STUB_TASKS", "1"))
output = [o.partition("=")[2] for o in options if o.startswith("--output=")]
tasks = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda n, _: [t.send_signal(n) for t in tasks if t.poll() is None])
for rank in range(count):
    variables = {"SLURM_JOB_ID": os.environ.get("SLURM_JOB_ID", "7"), "SLURM_PROCID": str(rank),
                 "SLURM_LOCALID": str(rank), "SLURM_NTASKS": str(count),
                 "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": str(count),
                 "SLURM_STEP_TASKS_PER_NODE": str(count), "SLURM_STEP_ID": "0"}
    log = open(output[0].replace("%t", str(rank)), "a") if output else None
    tasks.append(subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log))
failed = None
while any(t.poll() is None for t in tasks):
    if failed is None and any(t.returncode for t in tasks):
        failed = time.monotonic()
    if "--kill-on-bad-exit=1" in options and failed and time.monotonic() > failed + 5:
        for t in tasks:
            t.kill()
    time.sleep(0.02)
codes = [t.returncode for t in tasks]
sys.exit(max(128 - c if c < 0 else c for c in codes))
"""

# Any program that only says with what it was called, in the file CALLS.
RECORDER = """
import os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
print(os.environ.get("STUB_ANSWER", ""))
"""


def install(folder: Path, **programs: str) -> Path:
    """Python programs by their names in `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        file = folder / name
        file.write_text(f"#!{sys.executable}\n{text}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return folder


def environment(stubs: Path, **more: str) -> dict[str, str]:
    """Ours with the stubs and this Python first on PATH, and nothing of an outer SLURM job."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_COORD"))}
    path = f"{stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return ours | {"PATH": path, "CALLS": str(stubs / "calls")} | more


def calls(stubs: Path) -> list[str]:
    """What the recorders were called with, in order."""
    file = stubs / "calls"
    return file.read_text().splitlines() if file.exists() else []


def sh(
    *command: str, env: dict[str, str], cwd: Path = ROOT, timeout: float = 120
) -> subprocess.CompletedProcess:
    """Run a program, in the repository; stdout and stderr as text."""
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )


@contextmanager
def metadata(endpoints: str, number: int) -> Iterator[str]:
    """HOST:PORT of a server that answers as Google's does to machine `number` of a TPU."""
    attributes = {
        "agent-worker-number": str(number),
        "worker-network-endpoints": endpoints,
        "tpu-env": f"WORKER_ID: '{number}'",
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            folder, _, name = self.path.rpartition("/")
            known = folder == "/computeMetadata/v1/instance/attributes" and name in attributes
            self.send_response(
                200 if known and self.headers["Metadata-Flavor"] == "Google" else 404
            )
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
