"""The future-leak test: does anything that is said at t depend on what comes after t?

    whilst doctor causality runs/vst

A dataset keeps its sources (graphs) and its recipe, so every sample can be told again. It is told from the whole
source, and, for several moments t, from a source of which all that comes after t is cut away, and from one in which
other things come after t. Every thought, answer and silence up to t must be, byte for byte, what the dataset holds.
No harness of the field proves this for its data (VST's graph is built over the whole video and refined globally).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from data_pipeline.builders.script import Builder, Script
from data_pipeline.doctor.futures import Future, cut, otherwise
from data_pipeline.source import Source, draw
from data_pipeline.text.task import TextRejected, Write
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought

SCHEMA = "whilst.causality/1"


@dataclass(frozen=True)
class Leak:
    """Something said up to `time` that is said otherwise in another future, or not at all.

    `time` is in seconds of the file; None where all of the sample is compared.

    variant: `whole` (nothing changed: the dataset is not what its recipe gives), `cut` or `otherwise`. `event` is its
    type; `at` its time; `query` that of an answer or silence. `said` is the dataset's text, `again` the other one; None
    where there is none.
    """

    sample: str
    variant: str
    time: float | None
    event: str
    at: float
    said: str | None
    again: str | None
    query: str | None = None


@dataclass
class CausalityReport:
    """What was checked. Every sample that was given is either checked or among `unchecked`, with a reason."""

    samples: int = 0
    checked: int = 0
    futures: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    unchecked: list[tuple[str, str]] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether there were samples, all were checked, and none leaks."""
        return self.samples == self.checked > 0 and not self.leaks

    def add(self, other: CausalityReport) -> None:
        """Count what another has found too."""
        self.samples += other.samples
        self.checked += other.checked
        self.futures.update(other.futures)
        self.compared.update(other.compared)
        self.unchecked += other.unchecked
        self.leaks += other.leaks

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "schema": SCHEMA,
            "clean": self.clean,
            "samples": self.samples,
            "checked": self.checked,
            "futures": dict(sorted(self.futures.items())),
            "compared": dict(sorted(self.compared.items())),
            "unchecked": [{"sample": sample, "reason": reason} for sample, reason in self.unchecked],
            "leaks": [asdict(leak) for leak in self.leaks],
        }


def check_source(
    source: Source, builder: Builder, settings: Any, write: Write, seed: int, cuts: int = 3
) -> CausalityReport:
    """Tell every sample of a source and check it: for tests of a builder."""
    report = CausalityReport()
    for script in builder.plan(source, settings, write, seed).scripts:
        try:
            sample = builder.tell(source, script, settings, write, seed)
        except TextRejected:
            continue  # no sample came of it, so there is none that could leak
        report.add(check_sample(sample, source, script, builder, settings, write, seed, cuts))
    return report


def check_samples(
    samples: Iterable[Sample], source: Source, builder: Builder, settings: Any, write: Write, seed: int, cuts: int = 3
) -> CausalityReport:
    """Check samples that a dataset holds of one source."""
    report = CausalityReport()
    scripts: dict[str, Script] | None = None
    for sample in samples:
        if scripts is None:
            scripts = {script.id: script for script in builder.plan(source, settings, write, seed).scripts}
        script = scripts.get(sample.id)
        if script is None:
            report.samples += 1
            report.unchecked.append((sample.id, "its recipe plans no such sample of its source"))
        else:
            report.add(check_sample(sample, source, script, builder, settings, write, seed, cuts))
    return report


def check_sample(
    sample: Sample,
    source: Source,
    script: Script,
    builder: Builder,
    settings: Any,
    write: Write,
    seed: int,
    cuts: int = 3,
) -> CausalityReport:
    """Check one sample at up to `cuts` moments.

    `source` and `script` are those of the sample; it may lack queries of the script (filters take some out).
    """
    report = CausalityReport(samples=1, checked=1)
    start, kept = source.video.start, {query.id for query in sample.queries()}
    for future in _futures(source, script, seed, cuts):
        report.futures[future.name] += 1
        until = None if future.time == math.inf else future.time + start
        said = _said(sample, kept, until)
        try:
            told = builder.tell(future.source, future.script, settings, write, seed)
        except TextRejected as rejected:
            why = f"not told: {rejected}"
            report.leaks.append(Leak(sample.id, future.name, until, "sample", sample.video.start, sample.id, why))
            continue
        report.compared.update(type(event).__name__.lower() for event in said)
        report.compared["memory"] += 1
        if told.memory != sample.memory:  # what was thought before the sample begins lies before every moment
            at = sample.video.start
            report.leaks.append(Leak(sample.id, future.name, until, "memory", at, sample.memory, told.memory))
        report.leaks += _differences(sample.id, future.name, until, said, _said(told, kept, until))
    return report


def moments(source: Source, script: Script, seed: int, cuts: int) -> list[float]:
    """Up to `cuts` moments (seconds of the source) to cut at: ends of segments and what lies between two of them.

    They are drawn from the middle of all of them outwards, so that there is a past and a future to each.
    """
    ends = sorted({segment.end for segment in script.segments})
    between = [(one + two) / 2 for one, two in pairwise(ends)]
    # When something becomes known, and just before that, is where a leak of one moment shows.
    known = {edge.knowable_at for edge in source.graph.edges if ends and ends[0] <= edge.knowable_at < ends[-1]}
    candidates = sorted({*ends[:-1], *between, *known})
    return sorted(draw(seed, source.id, "cuts", script.id).sample(candidates, min(cuts, len(candidates))))


def _futures(source: Source, script: Script, seed: int, cuts: int) -> Iterator[Future]:
    yield Future("whole", math.inf, source, script)
    for time in moments(source, script, seed, cuts):
        yield cut(source, script, time)
        yield otherwise(source, script, time, seed)


def _said(sample: Sample, queries: set[str], until: float | None) -> list[Thought | Answer | Silence]:
    """What is generated up to `until`, of these queries alone; and the silences."""
    return [
        event
        for event in sample.events
        if (until is None or event.time <= until)
        and (
            isinstance(event, Thought)
            or (isinstance(event, Silence) and event.query is None)
            or (isinstance(event, (Answer, Silence)) and event.query in queries)
        )
    ]


def _differences(
    sample: str,
    variant: str,
    until: float | None,
    said: Sequence[Thought | Answer | Silence],
    again: Sequence[Thought | Answer | Silence],
) -> list[Leak]:
    """Each place where two tellings part; after a place at which the order does, the rest is not compared."""
    found = []
    for i in range(max(len(said), len(again))):
        one = said[i] if i < len(said) else None
        other = again[i] if i < len(again) else None
        if one == other:
            continue
        shown = one if one is not None else other
        assert shown is not None
        found.append(
            Leak(
                sample,
                variant,
                until,
                type(shown).__name__.lower(),
                shown.time,
                _text(one),
                _text(other),
                getattr(shown, "query", None),
            )
        )
        if one is None or other is None or (type(one), one.time) != (type(other), other.time):
            break
    return found


def _text(event: Event | None) -> str | None:
    if event is None or isinstance(event, (Segment, Query)):
        return None
    return "" if isinstance(event, Silence) else event.text
