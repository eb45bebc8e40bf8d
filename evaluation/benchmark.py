"""Benchmarks as a stage: published annotations -> samples; published or own replies -> scores, official and strict.

    whilst benchmark ovo_bench data/ovo_bench_new.json --videos videos --out ovo segment_seconds=10
    whilst score ovo_bench data/ovo_bench_new.json results/GPT

Nothing is lost: queries written and rows rejected add up to the queries of the file, which are counted without the
reader; each rejection has its reason. A report is plain JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from evaluation.benchmarks.all import find
from evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkError,
    Given,
    Rejected,
    Verdict,
    balanced,
    by_task,
    mean,
    verdicts_of,
)
from evaluation.benchmarks.reading import load_lines
from whilst.sample import Sample, read_samples, replacing, write_jsonl

SAMPLES, REJECTED, MANIFEST = "samples.jsonl", "rejected.jsonl", "manifest.json"
RIGHT_OR_WRONG = ("", "wrong", "partly right")  # reasons of what was read; all others are why it could not be


class Reply(Protocol):
    """A reply (or silence: empty text) to a query at a time (s), as `evaluation.predict.Reply`."""

    @property
    def query(self) -> str: ...
    @property
    def time(self) -> float: ...
    @property
    def text(self) -> str: ...
    @property
    def finished(self) -> bool: ...


# ---- Annotations -> samples.


def convert(
    name: str,
    annotations: str | Path,
    videos: str | Path,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write samples.jsonl, rejected.jsonl and manifest.json to the folder `out`; the report is the manifest.

    videos: folder below which the videos of the annotations lie; they need not be there. options: of the benchmark
    (`Benchmark.options`).

    Raises:
        BenchmarkError: unknown benchmark or option, a file that is not of this benchmark, or queries that got lost.
    """
    benchmark = find(name)
    samples, rejected = _read(benchmark, Path(annotations), str(videos), options or {})
    queries = sum(len(sample.queries()) for sample in samples)
    counted = benchmark.count(Path(annotations)) if benchmark.count is not None else None
    if counted is not None and counted != queries + len(rejected):
        raise BenchmarkError(
            f"{annotations}: {counted} queries, but {queries} read and {len(rejected)} rejected: the reader loses some"
        )
    report: dict[str, Any] = {
        "kind": "conversion",
        "benchmark": name,
        "source": benchmark.source,
        "licence": benchmark.licence,
        "tested_on": benchmark.tested_on,
        "track": benchmark.track,
        "annotations": str(annotations),
        "videos": str(videos),
        "options": dict(options or {}),
        "contains": list(benchmark.contains),
        "queries_in_file": counted,
        "queries": queries,
        "rejected": len(rejected),
        "reasons": dict(Counter(_kind(one.reason) for one in rejected).most_common()),
        "samples": len(samples),
        "segments": sum(len(sample.segments()) for sample in samples),
        "tasks": dict(sorted(Counter(str(query.kind) for sample in samples for query in sample.queries()).items())),
    }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(samples, folder / SAMPLES)
    with replacing(folder / REJECTED) as part:
        lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in rejected]
        Path(part).write_text("".join(lines), encoding="utf-8")
    with replacing(folder / MANIFEST) as part:
        Path(part).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _read(
    benchmark: Benchmark, annotations: Path, videos: str, options: Mapping[str, Any]
) -> tuple[list[Sample], list[Rejected]]:
    for option in options:
        if option not in benchmark.options:
            known = ", ".join(benchmark.options) or "none"
            raise BenchmarkError(f"{benchmark.name}: {option!r} is no option of it; its options: {known}")
    samples, rejected = [], []
    for one in benchmark.read(annotations, videos=videos, **options):
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            samples.append(one)
    return samples, rejected


def _kind(reason: str) -> str:
    """A reason without its particulars, for counting: up to the first quotation or number."""
    cut = next((i for i, sign in enumerate(reason) if sign in "'\"" or sign.isdigit()), len(reason))
    return reason[:cut].strip(" :,") if cut > 3 else reason


# ---- Replies -> verdicts.


def judge(
    name: str,
    samples: Sequence[Sample],
    replies: Mapping[str, Sequence[Reply]],
    failures: Mapping[str, str] | None = None,
) -> dict[str, list[Verdict] | None]:
    """Strict and official verdicts of every query of every sample ("official": None where there is no such rule).

    replies: by sample id. failures: why the run failed on a sample, by its id; its queries count as wrong.
    """
    benchmark = find(name)
    given = {
        (id, query): [Given(reply.time, reply.text, reply.finished) for reply in of_query]
        for id, of_sample in replies.items()
        for query, of_query in _by_query(of_sample).items()
    }
    for sample in samples:
        if reason := (failures or {}).get(sample.id):
            given |= {(sample.id, query.id): [Given(query.time, "", False, reason)] for query in sample.queries()}
    official = None if benchmark.official is None else verdicts_of(benchmark.official, samples, given)
    return {"strict": verdicts_of(benchmark.strict, samples, given), "official": official}


def _by_query(replies: Iterable[Reply]) -> dict[str, list[Reply]]:
    found: dict[str, list[Reply]] = {}
    for reply in sorted(replies, key=lambda reply: reply.time):
        found.setdefault(reply.query, []).append(reply)
    return found


def score_results(
    name: str, annotations: str | Path, results: str | Path, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Scores of replies to a benchmark.

    results: published result files of the benchmark, or a JSONL file of replies, a line each: {"query", "text"} and, as
    needed, "sample", "time" (s), "finished" (true), "failure". annotations: the published file; for a file of replies,
    it may also be the samples.jsonl that `convert` wrote.

    Raises:
        BenchmarkError: files that are not of this benchmark, replies to unknown queries, published results of a
            benchmark that has none.
    """
    benchmark = find(name)
    annotations, results = Path(annotations), Path(results)
    official: Sequence[Verdict] | None
    strict: Sequence[Verdict]
    if _is_replies(results):
        samples = _samples(benchmark, annotations, options or {})
        given = _replies(results, samples)
        strict = verdicts_of(benchmark.strict, samples, given)
        official = None if benchmark.official is None else verdicts_of(benchmark.official, samples, given)
    elif benchmark.results is None:
        raise BenchmarkError(
            f'{results}: {name} has no published result files; give a .jsonl file of {{"query", "text"}}'
        )
    else:
        official, strict = benchmark.results(annotations, results)
    report = {"kind": "scores", "annotations": str(annotations), "results": str(results)}
    return report | scores(benchmark, strict, official)


def _is_replies(results: Path) -> bool:
    if results.suffix != ".jsonl" or not results.is_file():
        return False
    lines = load_lines(results)
    return not lines or all(isinstance(row, dict) and "query" in row and "text" in row for _, row in lines)


def _samples(benchmark: Benchmark, annotations: Path, options: Mapping[str, Any]) -> list[Sample]:
    if annotations.name == SAMPLES:
        samples = read_samples(annotations)
        for sample in samples:
            if sample.meta.get("benchmark") != benchmark.name:
                raise BenchmarkError(
                    f"{annotations}: {sample.id}: is no sample of {benchmark.name}; name the right file"
                )
        return samples
    samples, rejected = _read(benchmark, annotations, "", options)
    if not samples:
        reason = rejected[0].reason if rejected else "it is empty"
        raise BenchmarkError(f"{annotations}: no query could be read: {reason}")
    return samples


def _replies(path: Path, samples: Sequence[Sample]) -> dict[tuple[str, str], list[Given]]:
    homes: dict[str, list[str]] = {}
    for sample in samples:
        for query in sample.queries():
            homes.setdefault(query.id, []).append(sample.id)
    given: dict[tuple[str, str], list[Given]] = {}
    for number, row in load_lines(path):
        where = f"{path}:{number}"
        among = homes.get(str(row["query"]), [])
        home = row.get("sample", among[0] if len(among) == 1 else None)
        if home not in among:
            what = "stands in several samples; add `sample`" if among and home is None else "is not in the annotations"
            raise BenchmarkError(f"{where}: query: {row['query']!r} {what}")
        text, time, finished = row["text"], row.get("time", 0.0), row.get("finished", True)
        failure = row.get("failure", "")
        if not isinstance(text, str) or not isinstance(failure, str) or not isinstance(finished, bool):
            raise BenchmarkError(f"{where}: text and failure must be texts, finished true or false")
        if isinstance(time, bool) or not isinstance(time, (int, float)):
            raise BenchmarkError(f"{where}: time: {time!r} must be seconds")
        given.setdefault((home, str(row["query"])), []).append(Given(float(time), text, finished, failure))
    return {key: sorted(found, key=lambda reply: reply.time) for key, found in given.items()}


# ---- Verdicts -> report.


def scores(benchmark: Benchmark, strict: Sequence[Verdict], official: Sequence[Verdict] | None) -> dict[str, Any]:
    """Totals with their definitions, tasks, the gap between the rules, where they differ, and all that was not read.

    A total that the strict or the official verdicts have no items for is null. `constant`: what the best reply that
    never changes would earn strictly; `chance`: what a uniform guess expects.
    """
    tasks = {}
    theirs = by_task(official or ())
    ours = by_task(strict)
    for task in dict.fromkeys([*ours, *theirs]):
        mine = [verdict for verdict in ours.get(task, ()) if verdict.counted]
        golds = Counter(verdict.gold for verdict in mine)
        tasks[task] = {
            "items": len(mine),
            "strict": mean(mine) if mine else None,
            "official_items": sum(verdict.counted for verdict in theirs.get(task, ())),
            "official": mean(theirs[task]) if task in theirs else None,
            "balanced": balanced(mine) if mine and "" not in golds else None,
            "chance": sum(verdict.chance for verdict in mine) / len(mine) if mine else None,
            "constant": max(golds.values()) / len(mine) if mine and "" not in golds else None,
        }
    totals = {}
    for name, total in benchmark.totals.items():
        mine_value = total.of(strict) if strict else None
        their_value = total.of(official) if official else None
        gap = None if mine_value is None or their_value is None else their_value - mine_value
        totals[name] = {"definition": total.definition, "official": their_value, "strict": mine_value, "gap": gap}
    return {
        "benchmark": benchmark.name,
        "track": benchmark.track,
        "tested_on": benchmark.tested_on,
        "totals": totals,
        "tasks": tasks,
        "reasons": dict(Counter(verdict.reason for verdict in strict if verdict.reason).most_common()),
        "differ": _differing(strict, official or ()),
        "unread": [_told(verdict) for verdict in strict if verdict.reason not in RIGHT_OR_WRONG],
    }


def _differing(strict: Sequence[Verdict], official: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Items to which the rules give different credit; what one of them lacks is in no pair."""
    pairs: dict[tuple[str, str, str, int], Verdict] = {}
    for verdict in official:
        pairs.setdefault((verdict.sample, verdict.query, verdict.task, verdict.part), verdict)
    found = []
    for verdict in strict:
        other = pairs.get((verdict.sample, verdict.query, verdict.task, verdict.part))
        if other is not None and other.credit != verdict.credit:
            found.append(_told(verdict) | {"official": other.credit if other.counted else None})
    return found


def _told(verdict: Verdict) -> dict[str, Any]:
    told = {"sample": verdict.sample, "query": verdict.query, "part": verdict.part, "task": verdict.task}
    return told | {
        "gold": verdict.gold,
        "reply": verdict.reply,
        "strict": verdict.credit,
        "reason": verdict.reason,
    }


# ---- Reports -> tables.


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print a report of `convert` or of `score_results`."""
    if report["kind"] == "conversion":
        _show_conversion(report, console)
    else:
        _show_scores(report, console)


def _show_conversion(report: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"{report['benchmark']}: {report['queries']} queries in {report['samples']} samples, {report['rejected']} "
        f"rejected; {report['segments']} segments; reader tested on {report['tested_on']}",
        highlight=False,
    )
    table = Table("task", "queries")
    for task, count in report["tasks"].items():
        table.add_row(task, str(count))
    console.print(table)
    for reason, count in report["reasons"].items():
        console.print(f"rejected {count}: {reason}", highlight=False, markup=False)


def _show_scores(report: Mapping[str, Any], console: Console) -> None:
    table = Table("total (%)", "official", "strict", "gap", "what it is", title=report["benchmark"])
    for name, total in report["totals"].items():
        figures = (_percent(total[key]) for key in ("official", "strict", "gap"))
        table.add_row(name, *figures, total["definition"])
    console.print(table)
    columns = ("official", "strict", "balanced", "chance", "constant")
    table = Table("task (%)", "items", *columns)
    for task, figures in report["tasks"].items():
        table.add_row(task, str(figures["items"]), *(_percent(figures[key]) for key in columns))
    console.print(table)
    console.print(f"{len(report['differ'])} items are judged differently by the two rules", highlight=False)
    for reason, count in report["reasons"].items():
        console.print(f"{count}: {reason}", highlight=False, markup=False)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
