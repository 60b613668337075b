"""One number from the results of several data sets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The only partition of SurgRec's Table 2 that gives a row of its Table 4, by the names of
# data_prep/sources; lapgyn6_events are the clips that the paper calls LapGyn4.
SURGREC_DOMAINS = {
    "cataract": ("cataract21", "cataract101", "cataract1k"),
    "robotic": ("jigsaws", "sar_rarp50"),
    "endoscopy": ("colonoscopic", "hyperkvasir", "kvasir_capsule", "ldpolypvideo"),
    "laparoscopy": (
        "aixsuture",
        "autolaparo",
        "cholec80",
        "lapgyn6_events",
        "m2cai16",
        "multibypass140",
        "surgicalactions160",
    ),
}
ARENA = ("phase", "action", "triplet", "cvs", "vqa", "loc_miou")


@dataclass(frozen=True)
class Aggregates:
    """Means over data sets and domains, in the unit of the scores.

    Attributes:
      domains: mean over the data sets of each domain that have a score; NaN where none has.
      macro: mean of the domains, each counting the same; NaN where a domain is empty.
      worst: lowest domain; NaN where a domain is empty, for that one could be lower.
      datasets: mean of the data sets that have a score; NaN without any.
      coverage: (data sets with a score, all data sets) of each domain.
    """

    domains: dict[str, float]
    macro: float
    worst: float
    datasets: float
    coverage: dict[str, tuple[int, int]]


def aggregate(
    scores: Mapping[str, float], domains: Mapping[str, Sequence[str]] = SURGREC_DOMAINS
) -> Aggregates:
    """Domain means, overall macro and worst domain, as SurgRec's Table 4 has them.

    Models may be compared only where their coverage is the same data sets.

    Args:
      scores: one number a data set, e.g. Acc@1 as a share; missing or NaN where there is none.

    Raises:
      ValueError: a data set of no domain, or of two.
    """
    listed = [name for names in domains.values() for name in names]
    unknown = sorted(set(scores) - set(listed))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: of no domain; expected {', '.join(listed)}")
    if len(set(listed)) < len(listed):
        raise ValueError("a data set is in two domains")
    known = {name: float(value) for name, value in scores.items() if not math.isnan(value)}
    have = {domain: [known[n] for n in names if n in known] for domain, names in domains.items()}
    means = {domain: mean(values) for domain, values in have.items()}
    empty = any(math.isnan(value) for value in means.values())
    return Aggregates(
        domains=means,
        macro=mean(list(means.values())),
        worst=math.nan if empty else min(means.values(), default=math.nan),
        datasets=mean(list(known.values())),
        coverage={domain: (len(have[domain]), len(names)) for domain, names in domains.items()},
    )


def arena_score(scores: Mapping[str, float]) -> float:
    """Sum of the six scores of SurgVLM-Bench's leaderboard, NaN where one is NaN.

    Phase, action, triplet, CVS and VQA accuracy and the IoU of localisation: 0 to 6 for shares, 0
    to 600 for per cent as the leaderboard prints them.

    Raises:
      ValueError: other scores than these six.
    """
    if set(scores) != set(ARENA):
        raise ValueError(f"scores {', '.join(sorted(scores))}; expected {', '.join(ARENA)}")
    return float(sum(scores[name] for name in ARENA))


def mean(values: Sequence[float]) -> float:
    """NaN without values."""
    return math.fsum(values) / len(values) if values else math.nan
