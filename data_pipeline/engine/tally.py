"""What a run counts: sources, samples and queries, each with in == out + rejected, and what the samples hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.source import Yield

LEVELS = ("sources", "samples", "queries")


@dataclass
class Tally:
    """Yields by level.

    sources: taken are the records of the input; made, those of which at least one sample came.
    samples: taken are all that were tried, those that the builder could not plan too; made, the published ones.
    queries: taken are all that were tried; made, those in published samples.
    `statistics` counts anything else: the builder's own figures, and what the published samples hold.
    `origins` counts published samples by dataset and licence.
    """

    sources: Yield = field(default_factory=Yield)
    samples: Yield = field(default_factory=Yield)
    queries: Yield = field(default_factory=Yield)
    statistics: Counter[str] = field(default_factory=Counter)
    origins: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count what another has counted too."""
        for level in LEVELS:
            getattr(self, level).add(getattr(other, level))
        self.statistics.update(other.statistics)
        self.origins.update(other.origins)

    def check(self, what: str) -> None:
        """Raises SynthError unless taken == made + rejected at every level."""
        for level in LEVELS:
            getattr(self, level).check(f"{what}: {level}")

    def to_json(self) -> dict[str, Any]:
        """As JSON, in an order that does not depend on the order of counting."""
        yields = {level: yield_json(getattr(self, level)) for level in LEVELS}
        origins = [[*origin, count] for origin, count in sorted(self.origins.items())]
        return yields | {"statistics": dict(sorted(self.statistics.items())), "origins": origins}


def from_json(record: Mapping[str, Any]) -> Tally:
    """The tally that `to_json` wrote."""
    yields = {level: _yield(record[level]) for level in LEVELS}
    origins = Counter({(dataset, licence): count for dataset, licence, count in record["origins"]})
    return Tally(**yields, statistics=Counter(record["statistics"]), origins=origins)


def yield_json(counted: Yield) -> dict[str, Any]:
    """{"in", "out", "rejected": {reason: count}}, most frequent reasons first."""
    reasons = sorted(counted.rejected.items(), key=lambda item: (-item[1], item[0]))
    return {"in": counted.taken, "out": counted.made, "rejected": dict(reasons)}


def _yield(record: Mapping[str, Any]) -> Yield:
    return Yield(record["in"], record["out"], Counter(record["rejected"]))
