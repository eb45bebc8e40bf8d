"""Samples through the filters and into a final shard, with everything that was rejected beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.engine.build import Outcome, holds
from data_pipeline.engine.inputs import rejection
from data_pipeline.engine.shards import Format, writing
from data_pipeline.engine.tally import Tally
from data_pipeline.filters import Filtered
from data_pipeline.source import Source, SynthError, Yield
from whilst.sample import Answer, Query, Sample, SampleError, Thought, validate


@dataclass
class Published:
    """A source and what is left of its outcome when the filters are done."""

    source: Source
    outcome: Outcome


def filtered(source: Source, outcome: Outcome, apply: Callable[[Sample, Source], Filtered]) -> Published:
    """The samples that pass, and counts and rejections with those of the filters added.

    Raises:
        SynthError: the filters' counts do not add up, or the builder made a sample that breaks a rule: bugs of theirs.
    """
    tally, left = outcome.tally, Outcome(rejected=list(outcome.rejected))
    left.tally.add(tally)
    for sample in outcome.samples:
        try:
            validate(sample)
        except SampleError as error:
            raise SynthError(f"sample {sample.id!r} of source {source.id}: {error}; a bug of the builder") from error
        found = apply(sample, source)
        asked, kept = len(sample.queries()), len(found.sample.queries()) if found.sample is not None else 0
        _check(found.queries, asked, kept, sample)
        left.rejected += [("sample" if one.item == sample.id else "query", one) for one in found.rejected]
        left.tally.queries.made -= asked - kept
        left.tally.queries.rejected.update(found.queries.rejected)
        if found.sample is None:
            left.tally.samples.made -= 1
            left.tally.samples.reject(_reason(found, sample))
        else:
            left.samples.append(found.sample)
            left.tally.statistics.update(holds(found.sample))
            left.tally.origins[source.dataset, source.licence] += 1
    left.tally.sources.taken += 1
    if left.samples:
        left.tally.sources.made += 1
    else:
        left.tally.sources.reject("no sample of it is left")
    left.tally.check(f"source {source.id}")
    return Published(source, left)


def _check(counted: Yield, asked: int, kept: int, sample: Sample) -> None:
    lost = sum(counted.rejected.values())
    if (counted.taken, counted.made, lost) != (asked, kept, asked - kept):
        raise SynthError(
            f"sample {sample.id!r}: the filters count {counted.taken} queries in, {counted.made} out and {lost} "
            f"rejected, where it had {asked} and has {kept}; this is a bug of the filters"
        )


def _reason(found: Filtered, sample: Sample) -> str:
    reasons = [one.reason for one in found.rejected if one.item == sample.id]
    if not reasons:
        raise SynthError(f"sample {sample.id!r}: rejected by the filters without a reason; this is a bug of theirs")
    return reasons[-1]


def write_shard(
    published: Iterable[Published],
    formats: tuple[Format, ...],
    shards: list[Path],
    rejected: Path,
    words: Path,
    ids: Path,
) -> Tally:
    """Write samples as they come to `shards` (one a format); rejections, words and sample ids beside them.

    `words` gets the words (split at white space) of thoughts, queries, options and answers, and `ids` the ids of the
    samples, both sorted, one a line.
    """
    tally, vocabulary, names = Tally(), set(), []
    with writing(formats, shards) as writer, open(rejected, "w", encoding="utf-8", newline="\n") as turned_down:
        for one in published:
            tally.add(one.outcome.tally)
            for level, item in one.outcome.rejected:
                turned_down.write(json.dumps(rejection(level, item), ensure_ascii=False) + "\n")
            for sample in one.outcome.samples:
                writer.add(sample)
                vocabulary |= _words(sample)
                names.append(json.dumps(sample.id))  # as JSON no id can hold a line break
    words.write_text("".join(f"{word}\n" for word in sorted(vocabulary)), encoding="utf-8", newline="\n")
    ids.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8", newline="\n")
    return tally


def _words(sample: Sample) -> set[str]:
    texts: list[str] = [sample.memory]
    for event in sample.events:
        if isinstance(event, (Thought, Query, Answer)):
            texts.append(event.text)
        if isinstance(event, Query):
            texts += event.options or ()
    return {word for text in texts for word in text.split()}
