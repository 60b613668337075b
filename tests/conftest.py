"""One CPU with eight fake devices; one compilation cache and one rendered corpus a session."""

import importlib.metadata
import os

FLAGS = {
    "xla_force_host_platform_device_count": "8",
    # Compilation is half of these tests' time. Tests in processes of their own (faults, README)
    # compile as users do.
    "xla_backend_optimization_level": "0",
}
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones know one way only
    FLAGS["xla_cpu_use_fusion_emitters"] = "false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for name, value in FLAGS.items():
    if name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{name}={value}".strip()
# Eight devices wait for each other in collectives: fewer threads than that many can deadlock.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import fcntl  # noqa: E402 - after the environment that jax reads
import gc  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # the project, and runs.py
LONG_FILES = {"test_launch_multihost.py", "test_readme.py", "test_embed.py", "test_suite.py"}
LONG_FILES |= {"test_train.py", "test_resources.py", "test_faults_quick.py", "test_sources.py"}


def pytest_configure():
    gc.set_threshold(50_000, 20, 100)  # looking for garbage while tracing is a sixth of these tests
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the cache of the process that started this one
    # Trusted code lives in this cache: private, shared with subprocesses, gone after the tests.
    cache = tempfile.mkdtemp(prefix="surgjax-test-cache-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"


def pytest_unconfigure():
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Files of a few long tests first, so that no worker ends alone with one of them."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


def made_once(factory, name, make) -> Path:
    """A folder that the first worker to need it makes, `make(folder)`, and all of them read."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers
    whole, part = root / name, root / f"{name}.part"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.is_dir():
            make(part)
            part.rename(whole)
    return whole


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Six rendered operations of 12 seconds in the Cholec80 file layout."""
    from data_prep.synthesize import synthesize

    return made_once(
        tmp_path_factory, "corpus", lambda out: synthesize(out, videos=6, seconds=12, seed=0)
    )


@pytest.fixture(scope="session")
def store(corpus, tmp_path_factory) -> Path:
    """The corpus as a native-rate store."""
    from data_prep.__main__ import main

    def make(out):
        arguments = ["shards", "--dataset", "synthetic", "--root", str(corpus), "--out", str(out)]
        assert not main([*arguments, "--fps", "native", "--short-side", "96", "--workers", "1"])

    return made_once(tmp_path_factory, "native", make)
