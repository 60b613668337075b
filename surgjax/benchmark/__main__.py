"""`python -m surgjax.benchmark VERB`: numbers from saved predictions, without jax."""

from surgjax.verbs import run_verb

VERBS = {
    "list": "the sets and tasks of the suites, and where one gets them",
    "run": "a model on the sets of a suite",
    "score": "the numbers of a task and protocol, from a file of predictions",
    "table": "models by sets, as the papers arrange them",
    "stats": "two models compared, video by video",
    "verify": "every number of a folder of results once more, from predictions alone",
    "report": "one offline page with tables, numbers and pictures",
    "reproduce": "a published number, from its weights",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises UserError."""
    return run_verb("surgjax.benchmark", __doc__, VERBS, argv)


if __name__ == "__main__":
    from surgjax.errors import run

    run(main)
