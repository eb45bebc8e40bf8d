"""All filters on one sample: queries that are wrong go, and the sample with them when nothing is left of it.

A filter looks and yields (reason, detail); nothing here changes a text. Of several reasons the first one is counted:
every sample and every query is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from data_pipeline.filters import thoughts
from data_pipeline.filters.consistency import consistency_problems
from data_pipeline.filters.decontamination import Decontamination
from data_pipeline.filters.form import format_problems, query_length, thought_length
from data_pipeline.filters.guess import TextOnly, guessable
from data_pipeline.filters.leakage import leakage_problems
from data_pipeline.filters.settings import FilterSettings
from data_pipeline.filters.view import Problems, View, without
from data_pipeline.source import Rejected, Source, SynthError, Yield
from whilst.sample import Query, Sample

NOT_LEFT = "no query is left"
WITH_SAMPLE = "its sample was rejected"

SAMPLE_FILTERS: Mapping[str, Callable[[View], Problems]] = {
    "thoughts": thoughts.thought_problems,
    "repetition": thoughts.repetition_problems,
    "length": thought_length,
    "seconds": thoughts.thought_seconds,
    "grounding": thoughts.thought_grounding,
}
"""What turns down a whole sample, by the name of its setting: thoughts cannot be taken out one by one."""

QUERY_FILTERS: Mapping[str, Callable[[View, Query], Problems]] = {
    "format": format_problems,
    "consistency": consistency_problems,
    "leakage": leakage_problems,
    "length": query_length,
    "seconds": thoughts.answer_seconds,
    "grounding": thoughts.answer_grounding,
}
"""What takes out a query with its replies, by the name of its setting."""


@dataclass(frozen=True)
class Filtered:
    """What is left. `queries` counts those of the sample; `rejected` names each that went, `<sample>/<query>`, and last
    the sample itself where it went, which is when `sample` is None."""

    sample: Sample | None
    queries: Yield
    rejected: list[Rejected]


def apply(
    sample: Sample,
    source: Source,
    settings: FilterSettings,
    guesser: TextOnly | None = None,
    decontamination: Decontamination | None = None,
) -> Filtered:
    """The sample without the queries that a filter turns down, or None where the sample itself is turned down.

    Raises:
        SynthError: the settings want a guesser or benchmark lists that were not given, or the sample is of another
            source.
    """
    _check_given(sample, source, settings, guesser, decontamination)
    view = View(sample, source, settings)
    queries = sample.queries()
    counted = Yield(taken=len(queries))
    reason = _first(_sample_problems(view, decontamination))
    if reason is not None:
        counted.rejected[WITH_SAMPLE] = len(queries)
        lost = [Rejected(f"{sample.id}/{query.id}", WITH_SAMPLE) for query in queries]
        return Filtered(None, counted, [*lost, Rejected(sample.id, *reason)])
    rejected = []
    for query in queries:
        reason = _first(_query_problems(view, query, guesser))
        if reason is None:
            counted.made += 1
        else:
            counted.reject(reason[0])
            rejected.append(Rejected(f"{sample.id}/{query.id}", *reason))
    if not rejected:
        return Filtered(sample, counted, [])
    if not counted.made:
        return Filtered(None, counted, [*rejected, Rejected(sample.id, NOT_LEFT)])
    removed = {one.item.removeprefix(f"{sample.id}/") for one in rejected}
    return Filtered(without(sample, removed), counted, rejected)


def problems(sample: Sample, source: Source, settings: FilterSettings) -> list[tuple[str, str]]:
    """All that the filters which need no lists have to say, one (reason, detail) each: for people who look into it."""
    view = View(sample, source, settings)
    found = list(_sample_problems(view, None))
    for query in sample.queries():
        found += _query_problems(view, query, None)
    return found


def _sample_problems(view: View, decontamination: Decontamination | None) -> Problems:
    if decontamination is not None:
        benchmark = decontamination.found(view.source)
        if benchmark is not None:
            yield f"decontamination: {benchmark}", f"the video {view.source.video_id!r} is one of its videos"
    for name, look in SAMPLE_FILTERS.items():
        if getattr(view.settings, name):
            yield from look(view)


def _query_problems(view: View, query: Query, guesser: TextOnly | None) -> Problems:
    for name, look in QUERY_FILTERS.items():
        if getattr(view.settings, name):
            yield from look(view, query)
    if guesser is not None:
        yield from guessable(view, query, guesser)


def _first(found: Problems) -> tuple[str, str] | None:
    return next(found, None)


def _check_given(
    sample: Sample,
    source: Source,
    settings: FilterSettings,
    guesser: TextOnly | None,
    decontamination: Decontamination | None,
) -> None:
    if sample.meta.get("source") != source.id:
        raise SynthError(f"sample {sample.id!r}: meta.source is {sample.meta.get('source')!r}, not {source.id!r}")
    if settings.guesser is not None and guesser is None:
        raise SynthError("filters.guesser is set, but no guesser was given; count statistics first, or set it to null")
    if settings.benchmarks and decontamination is None:
        raise SynthError("filters.benchmarks is set, but its lists were not read; give read_benchmarks(benchmarks)")
