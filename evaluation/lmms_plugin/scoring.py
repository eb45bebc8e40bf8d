"""Benchmarks of `evaluation.benchmarks` as tasks of lmms-eval: the same samples, questions, judges and totals.

A document is one question at one time (a forward item of OVO-Bench is several), whose video is `[start, end)` seconds
of a file. Every reply is judged on its own, strictly and by the published rule; a metric is a total over the verdicts.
lmms-eval hands over the reply's text alone, so a reply that the token limit cut off is judged by what stands there; how
many were cut off is in the results under `throughput`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from loguru import logger

from evaluation.benchmarks.base import Benchmark, Given, Rejected, Verdict
from evaluation.lmms_plugin.asks import PluginError
from whilst.sample import Answer, Query, Sample, Silence


@dataclass(frozen=True)
class Loaded:
    """A benchmark with its samples by id, from one annotation file."""

    benchmark: Benchmark
    annotations: str
    samples: Mapping[str, Sample]


_LOADED: dict[tuple[Any, ...], Loaded] = {}  # lmms-eval loads a task's functions one by one


def load(benchmark: Benchmark, files: str, videos: str, **options: Any) -> Loaded:
    """Read the annotation file and the folder of videos that two environment variables name; options: of `read`.

    Raises PluginError where one is not set, and BenchmarkError for a file that is not this benchmark's. Rows that
    become no sample are printed, each with its reason.
    """
    for name in (files, videos):
        if not os.environ.get(name):
            raise PluginError(
                f"{name} is not set: set {files} to {benchmark.source}, and {videos} to its videos' folder"
            )
    annotations, folder = os.environ[files], os.environ[videos]
    when = os.stat(annotations).st_mtime_ns if os.path.exists(annotations) else 0
    key = (benchmark.name, annotations, when, folder, *sorted(options.items()))
    if key not in _LOADED:
        read = list(benchmark.read(Path(annotations), videos=folder, **options))
        for rejected in read:
            if isinstance(rejected, Rejected):
                logger.warning(f"{annotations}: {rejected.id} is not asked: {rejected.reason}")
        _LOADED[key] = Loaded(benchmark, annotations, {one.id: one for one in read if isinstance(one, Sample)})
    return _LOADED[key]


def dataset(loaded: Loaded) -> dict[str, Any]:
    """`dataset_kwargs` with which lmms-eval's `load_dataset("text", ...)` reads the annotation file, as one document.

    `documents` takes its place; there is no hub and no builder script in this.
    """
    return {"data_files": {"test": loaded.annotations}, "sample_by": "document"}


def documents(loaded: Loaded, tasks: Sequence[str] | None = None) -> Any:
    """The datasets.Dataset of all questions of these tasks (None: of all), videos together, in order of time."""
    from datasets import Dataset

    rows = [row for sample in loaded.samples.values() for row in _rows(sample) if tasks is None or row["task"] in tasks]
    if not rows:
        raise PluginError(f"{loaded.annotations}: holds no question of {', '.join(tasks or ['any task'])}")
    return Dataset.from_list(rows)


def _rows(sample: Sample) -> Iterator[dict[str, Any]]:
    rows = [(time, query, turn) for query in sample.queries() for turn, time in enumerate(_times(sample, query))]
    for time, query, turn in sorted(rows, key=lambda row: row[0]):
        yield {
            "id": f"{sample.id}/{query.id}/{turn}",
            "sample": sample.id,
            "query": query.id,
            "turn": turn,
            "task": str(query.kind),
            "video": sample.video.path,
            "start": sample.video.start,
            "end": time,
            "question": query.text,
        }


def _times(sample: Sample, query: Query) -> list[float]:
    """When a query is put, in s."""
    return [event.time for event in sample.events if isinstance(event, Answer | Silence) and event.query == query.id]


# ---- What the tasks' YAML files name.


def doc_to_visual(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """The part of the video that may be seen. A model that overlooks `video_end` sees the future: use ours."""
    return [{"type": "video", "path": doc["video"], "video_start": doc["start"], "video_end": doc["end"]}]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """The question, as our own evaluation puts it."""
    return str(doc["question"])


def judged(loaded: Loaded, doc: Mapping[str, Any], text: str) -> dict[str, dict[str, Any]]:
    """The verdicts on a reply, by metric: `strict`, `official`, and the strict one once more by the name of its task.

    A verdict is a dict with `score`, its credit, for lmms-eval's standard errors (over videos: `cluster_key: video`).
    """
    sample = loaded.samples[doc["sample"]]
    query = next(query for query in sample.queries() if query.id == doc["query"])
    times = _times(sample, query)
    given = [Given(doc["end"], text)] * times.count(doc["end"])  # a query may be put several times in one moment
    found = {"strict": _verdict(loaded.benchmark.strict(sample, query, given), doc["turn"], len(times))}
    if loaded.benchmark.official is not None:
        found["official"] = _verdict(loaded.benchmark.official(sample, query, given), doc["turn"], len(times))
    return found | {doc["task"]: found["strict"]}


def _verdict(verdicts: Sequence[Verdict], turn: int, turns: int) -> dict[str, Any]:
    assert len(verdicts) == turns, "a verdict a time at which the query is put"
    return asdict(verdicts[turn]) | {"score": verdicts[turn].credit}


def total(loaded: Loaded, name: str, items: Sequence[Mapping[str, Any]]) -> float:
    """A total of the benchmark over verdicts as `judged` gives them, 0 to 1 as lmms-eval's standard errors of it."""
    names = [field.name for field in fields(Verdict)]
    return loaded.benchmark.totals[name].of([Verdict(**{key: item[key] for key in names}) for item in items])
