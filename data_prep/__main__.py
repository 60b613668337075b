"""`python -m data_prep VERB`: from recordings to a store, on the CPU, without jax."""

from surgjax.verbs import run_verb

VERBS = {
    "synthesize": "render a labelled corpus to try everything on",
    "catalogue": "explore: what a catalogue of web videos holds, in numbers and pictures",
    "download": "fetch the videos that a catalogue names",
    "datasets": "public datasets that are read as they were downloaded",
    "check": "what is under a folder, what is odd, what a store of it would take",
    "qc": "look through recordings: quality, privacy, duplicates, a page to review",
    "shards": "write a store from videos",
    "inspect": "pictures and counts of a store",
    "inventory": "the table of a corpus, and how near it is to a benchmark",
    "clips": "cut the videos of a store into clips, for curation",
    "overlap": "operations that are in several stores, by their pictures",
    "verify": "digests and decode check of a store",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises UserError."""
    return run_verb("data_prep", __doc__, VERBS, argv)


if __name__ == "__main__":
    from surgjax.errors import run

    run(main)
