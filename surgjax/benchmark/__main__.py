"""`python -m surgjax.benchmark VERB`: numbers from saved predictions, without jax."""

from surgjax.verbs import run_verb

VERBS = {"score": "the numbers of a task and protocol, from a file of predictions"}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises UserError."""
    return run_verb("surgjax.benchmark", __doc__, VERBS, argv)


if __name__ == "__main__":
    from surgjax.errors import run

    run(main)
