"""What the tests of benchmarks share: the real files, where they are at hand, and readers' output sorted."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import Benchmark, Given, Judge, Rejected, Verdict
from whilst.sample import Sample, validate

DATA = Path(__file__).parents[4] / "shared" / "data"


def real(*parts: str) -> Path:
    """A real file; the test is skipped where it is not at hand."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs the real file ../shared/data/{'/'.join(parts)}")
    return path


def sorted_out(made: Iterable[Sample | Rejected]) -> tuple[list[Sample], list[Rejected]]:
    """Samples, each valid, and rejections of what a reader gives."""
    samples: list[Sample] = []
    rejected: list[Rejected] = []
    for one in made:
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            validate(one)
            samples.append(one)
    return samples, rejected


def conserved(benchmark: Benchmark, path: Path, **options: Any) -> tuple[list[Sample], list[Rejected]]:
    """As `sorted_out`, after a check that queries and rejections are all that the file asks."""
    samples, rejected = sorted_out(benchmark.read(path, **options))
    assert benchmark.count is not None
    assert sum(len(sample.queries()) for sample in samples) + len(rejected) == benchmark.count(path)
    assert len({sample.id for sample in samples}) == len(samples)
    return samples, rejected


def said(rule: Judge | None, samples: Sequence[Sample], text: str) -> list[Verdict]:
    """Verdicts when every poll is replied to with one text."""
    assert rule is not None
    verdicts: list[Verdict] = []
    for sample in samples:
        for query in sample.queries():
            times = [event.time for event in sample.events if getattr(event, "query", None) == query.id]
            verdicts += rule(sample, query, [Given(time, text) for time in times])
    return verdicts


def write(path: Path, value: Any) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
