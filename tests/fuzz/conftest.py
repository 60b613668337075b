"""`for_all`: a property over generated files, 25 cases each, and 2,000 with `-m slow`.

Each case is read in a child process (child_process.py). `SURGJAX_FUZZ_CASES` is another number;
`--hypothesis-show-statistics` tells how cases ended.
"""

import collections
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

from child_process import Reader  # noqa: E402

FEW, MANY = 25, 2000


@pytest.fixture(scope="session")
def reader():
    process = Reader()
    yield process
    process.close()


@pytest.fixture(params=[FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def for_all(request, reader):
    """for_all(check, *strategies, examples=()) -> Counter of outcomes, refusals by their words.

    `check(folder, *case)` at the top of a module reads a case, returns a word for what it was, and
    asserts what has to hold. `examples` are cases that once failed. Cases are the same at every
    run.
    """

    def run(check, *strategies, examples=()):
        outcomes = collections.Counter()

        def case(drawn):
            outcome = kind_of(reader(check, *drawn))
            outcomes[outcome] += 1
            event(outcome)

        test = given(st.tuples(*strategies))(case)
        for one in examples:
            test = example(one)(test)
        settings(
            max_examples=int(os.environ.get("SURGJAX_FUZZ_CASES", request.param)),
            derandomize=True,
            database=None,
            deadline=None,  # the child has one, of its own time
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )(test)()
        return outcomes

    return run


def kind_of(outcome: str) -> str:
    """An outcome without its numbers and names, so that equal ones can be counted."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*\d\S*", "_", outcome)[:100]
