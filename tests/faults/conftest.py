"""Jobs that are killed after each test, undisturbed runs to compare with, and the suite's table."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_runs import Injection, Start, starter

TABLE = "SURGJAX_FAULT_TABLE"  # file that the table is written to; it is printed as well
HEADER = ("fault", "injections", "survived", "steps lost beyond the last save", "bytes lost")


@pytest.fixture
def start(store, tmp_path_factory) -> Iterator[Start]:
    """See fault_runs.starter."""
    with starter(store, tmp_path_factory.mktemp("logs")) as function:
        yield function


@pytest.fixture(scope="session")
def undisturbed_run(store, tmp_path_factory):
    """(settings, **options of `start`) -> such a run, undisturbed, with a checkpoint a step.

    Each is made once a session.
    """
    made: dict[str, Path] = {}
    with starter(store, tmp_path_factory.mktemp("logs")) as function:

        def run(*settings: str, **options) -> Path:
            name = repr((settings, sorted(options.items())))
            if name not in made:
                folder = tmp_path_factory.mktemp("undisturbed")
                every = ("checkpoint.every=1", "checkpoint.keep=1000")
                job = function(folder, *every, *settings, **options)
                assert not any(job.codes(3600)), job.output()
                made[name] = folder
            return made[name]

        yield run


@pytest.fixture(scope="session")
def undisturbed(undisturbed_run) -> Path:
    """Eight steps on one device."""
    return undisturbed_run()


@pytest.fixture
def injected(request):
    """`with injected(FAULT, undisturbed run) as injection:` enters the block into the table.

    What the block raises is a fault that was not survived. At its end no byte may be lost, and no
    more than `may_lose` steps that had been saved.
    """

    @contextmanager
    def inject(fault: str, undisturbed: Path, may_lose: int = 0) -> Iterator[Injection]:
        injection = Injection(fault, undisturbed)
        try:
            yield injection
            assert injection.steps <= may_lose and injection.bytes == 0, injection
            injection.survived = True
        finally:
            told = dataclasses.asdict(injection)
            row = {name: told[name] for name in ("fault", "survived", "steps", "bytes")}
            request.node.user_properties.append(("injection", row | {"times": injection.times}))

    return inject


def pytest_terminal_summary(terminalreporter):
    """The table of README.md; properties of the tests reach this process with xdist too."""
    file = os.environ.get(TABLE)
    if not file:
        return
    reports = [r for name in ("passed", "failed") for r in terminalreporter.stats.get(name, ())]
    found = [row for r in reports if r.when == "call" for _, row in r.user_properties]
    text = _table(found)
    Path(file).write_text(text)
    terminalreporter.section("faults")
    terminalreporter.write(text)


def _table(found: list[dict]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for fault in dict.fromkeys(row["fault"] for row in found):
        rows = [row for row in found if row["fault"] == fault]
        # A test that failed before its fault struck tells of a fault not survived, not of none.
        times = [max(row["times"], 1) for row in rows]
        survived = sum(t for t, row in zip(times, rows, strict=True) if row["survived"])
        lost = max(row["steps"] for row in rows), sum(row["bytes"] for row in rows)
        lines.append(f"| {fault} | {sum(times)} | {survived} | {lost[0]} | {lost[1]} |")
    return "\n".join(lines) + "\n"
