"""Clocks that jump, odd locales and zones, too little memory, a damaged compilation cache."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from damage import cut, flip
from fault_runs import LAST

pytestmark = pytest.mark.faults

CLOCK = """
import os
import time

real, began = time.time, time.monotonic()
jumps = [float(s) for s in os.environ["JUMPS_AFTER_S"].split(",")]


def set_meanwhile():
    passed = sum(time.monotonic() - began > s for s in jumps)
    return real() + (0, -3600, 86400)[passed]


time.time = set_meanwhile
time.time_ns = lambda: int(set_meanwhile() * 1e9)
"""


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_a_clock_that_is_set(start, undisturbed_run, tmp_path, injected, share):
    """Back an hour and, 0.3 s later, forward a day: intervals are of a clock that cannot be set.

    Orbax's are not: a save that is under way then may be given up, which costs that save alone.
    """
    settings = ("total_steps=40", "log.watchdog_s=60", "data.workers=1")
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    run = tmp_path / "run"
    began = time.monotonic()
    assert start(tmp_path / "timed", *settings).finish()[0] == 0
    first = share * (time.monotonic() - began)
    clock = {"PYTHONPATH": str(tmp_path), "JUMPS_AFTER_S": f"{first},{first + 0.3}"}
    with injected(
        "clock set back an hour, forward a day", undisturbed_run(settings[0])
    ) as injection:
        code, output = start(run, *settings, environment=clock).finish()
        assert code in (0, 75) and "Traceback" not in output, output
        injection.struck(run)
        if code == 75:
            assert "took too long" in output, output
            injection.goes_on(start(run, *settings), run, 40)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["clips_per_s"] < 1e6 and 0 <= line["eta_s"] < 3600 for line in lines)


@pytest.mark.parametrize(
    "odd",
    [
        {"LC_ALL": "C", "TZ": "Pacific/Chatham", "PYTHONHASHSEED": "1"},
        {"LC_ALL": "C.UTF-8", "TZ": "UTC+13", "PYTHONHASHSEED": "4000000000"},
        {"LC_ALL": "tr_TR.UTF-8", "TZ": "nowhere", "PYTHONUTF8": "0"},
    ],
)
def test_odd_locale_zone_and_hash_seed(start, undisturbed, tmp_path, injected, odd):
    with injected("locale, time zone, hash seed", undisturbed) as injection:
        assert start(tmp_path, "stop_at_step=4", environment=odd).finish()[0] == 0
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path), tmp_path)


def test_out_of_memory_at_a_step(start, undisturbed, tmp_path, injected):
    with injected("out of memory", undisturbed) as injection:
        code, output = start(tmp_path, fault="before_step:oom:5").finish()
        assert code == 2 and "Traceback" not in output, output
        line = output.splitlines()[-1]
        assert line.startswith("error: out of memory") and "accumulation" in line, output
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path), tmp_path)


@pytest.mark.parametrize("gigabytes", [6])
def test_out_of_memory_for_real(start, tmp_path, gigabytes):
    """A limit of the address space, and a batch far beyond it: one line that says what to lower."""
    limit = f"ulimit -v {gigabytes << 20}"
    large = ("batch_size=65536", "total_steps=2", "data.frames=16", "data.size=96")
    code, output = start(tmp_path, *large, limit=limit).finish(120)
    assert code == 2 and "Traceback" not in output, output
    line = output.splitlines()[-1]
    assert line.startswith("error: ") and "memory" in line and "batch_size" in line, output


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_compilation_cache(start, undisturbed, tmp_path, injected, damage):
    """As a kill inside its writing leaves it: what cannot be read is compiled again."""
    cache = tmp_path / "cache"
    shutil.copytree(os.environ["JAX_COMPILATION_CACHE_DIR"], cache)
    files = [file for file in cache.rglob("*-cache") if file.is_file()]
    assert files
    for file in files:
        damage(file)
    own = {"environment": {"JAX_COMPILATION_CACHE_DIR": str(cache)}}
    with injected("damaged compilation cache", undisturbed) as injection:
        code, output = start(tmp_path / "run", **own).finish()
        assert code == 0 and "Traceback" not in output, output
        injection.struck(tmp_path / "run")
        injection.ended(tmp_path / "run", LAST)


def test_a_home_that_cannot_be_written(start, undisturbed, tmp_path, injected):
    """No place for a compilation cache: it compiles each time."""
    home = tmp_path / "home"
    home.write_text("")
    hidden = {"HOME": str(home), "XDG_CACHE_HOME": "", "JAX_COMPILATION_CACHE_DIR": ""}
    with injected("folder that cannot be written", undisturbed) as injection:
        code, output = start(tmp_path / "run", environment=hidden).finish()
        assert code == 0 and "Traceback" not in output, output
        injection.struck(tmp_path / "run")
        injection.ended(tmp_path / "run", LAST)
    assert Path(home).is_file()
