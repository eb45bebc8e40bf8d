"""Two evaluations of the same samples, query by query: what changed, by how much, and whether that may be chance.

    whilst compare runs/a runs/b            # arms of the same name; of one arm each, these
    whilst compare runs/a:thinking runs/a:answers_only

Both folders are outputs of `whilst eval`. Differences are second - first, paired: the same queries, videos drawn and
swapped for both (evaluation/statistics.py). A comparison of different samples or scorers is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable

from evaluation import figures as f
from evaluation import statistics
from evaluation.benchmarks.base import Verdict
from evaluation.cache import differences, write_whole
from evaluation.judging import TOTAL_DRAWS, find_benchmark
from evaluation.scores import Scored, groups
from evaluation.sections.blocks import Block, Table, Text, as_markdown
from evaluation.statistics import Difference, shown_p

REPORT, SCORED = "report.json", "scored.jsonl"
LISTED = 50  # queries that changed, in texts; compare.json has all
DRAWS = 2000


class CompareError(ValueError):
    """Two folders that cannot be compared; the message names the file, what differs, and the fix."""


@dataclass(frozen=True)
class Side:
    """One folder: its report, and the outcome of every query by job."""

    folder: Path
    arm: str | None
    report: Mapping[str, Any]
    scored: Mapping[str, Sequence[Scored]]


def compare(a: str | Path, b: str | Path, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Compare two output folders, or one arm of each (`folder:arm`).

    Returns {"a", "b", "samples", "scorer", "pairs": [{"a", "b", "differs", "kinds", "totals", "changed", ...}]}, where
    kinds and totals hold {"a", "b", "difference", "ci_low", "ci_high", "p", "n", "videos"}; JSON values alone.

    Raises:
        CompareError: no report there, other samples, other scorers, or no arm that both have.
    """
    first, second = read_side(a), read_side(b)
    for key, told, fix in (
        ("samples", "samples", "evaluate both on the same file with the same limit"),
        ("scorer", "scorers", "evaluate both with the same scorer"),
    ):
        ours, theirs = first.report[key], second.report[key]
        if ours != theirs:
            raise CompareError(f"{first.folder} and {second.folder} have different {told} ({ours}, {theirs}); {fix}")
    scorer = str(first.report["scorer"])
    pairs = [_pair(first, second, ours, theirs, scorer, draws, seed) for ours, theirs in _arms(first, second)]
    return {
        "a": str(first.folder),
        "b": str(second.folder),
        "samples": dict(first.report["samples"]),
        "scorer": scorer,
        "draws": draws,
        "seed": seed,
        "pairs": pairs,
    }


def read_side(where: str | Path) -> Side:
    """A folder, or `folder:arm`."""
    folder, arm = Path(where), None
    if not folder.exists() and ":" in str(where):
        name, _, arm = str(where).rpartition(":")
        folder = Path(name)
    file = folder / REPORT
    if not file.is_file():
        raise CompareError(f"{file}: no such file; give the output folder of `whilst eval`")
    report = json.loads(file.read_text(encoding="utf-8"))
    if not (folder / SCORED).is_file() or not {"samples", "scorer", "arms"} <= report.keys():
        raise CompareError(f"{folder}: its report does not hold single queries ({SCORED}); run `whilst eval` again")
    scored: dict[str, list[Scored]] = {}
    for number, line in enumerate((folder / SCORED).read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            record = json.loads(line)
            scored.setdefault(record.pop("job"), []).append(Scored(**record))
        except (ValueError, TypeError, KeyError) as error:
            raise CompareError(f"{folder / SCORED}: line {number}: {error}; run `whilst eval` again") from error
    if arm is not None and arm not in scored:
        raise CompareError(f"{folder}: no arm {arm!r}; there are: {', '.join(scored)}")
    return Side(folder, arm, report, scored)


def _arms(first: Side, second: Side) -> list[tuple[str, str]]:
    """Which arms are compared: those that are named, else those of the same name, else the only ones."""
    ours = [first.arm] if first.arm is not None else list(first.report["arms"])
    theirs = [second.arm] if second.arm is not None else list(second.report["arms"])
    if first.arm is not None and second.arm is None and first.arm in theirs:
        theirs = [first.arm]
    if second.arm is not None and first.arm is None and second.arm in ours:
        ours = [second.arm]
    if len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    both = [arm for arm in ours if arm in theirs]
    if not both:
        raise CompareError(
            f"{first.folder} ({', '.join(ours)}) and {second.folder} ({', '.join(theirs)}) have no arm of the same "
            f"name; name one of each: {first.folder}:{ours[0]} {second.folder}:{theirs[0]}"
        )
    return [(arm, arm) for arm in both]


def _pair(first: Side, second: Side, ours: str, theirs: str, scorer: str, draws: int, seed: int) -> dict[str, Any]:
    a, b = first.scored[ours], second.scored[theirs]
    keys, others = ([(s.sample, s.query) for s in side] for side in (a, b))
    if keys != others:
        odd = next(iter({*keys} ^ {*others}), ("", ""))
        raise CompareError(
            f"{first.folder}:{ours} and {second.folder}:{theirs} do not have the same queries (such as "
            f"{'/'.join(odd)}); a control that leaves queries out cannot be compared with what does not"
        )
    pairs = [(one.video, other.value, one.value) for one, other in zip(a, b, strict=True)]
    by_kind = {
        kind: _record(statistics.paired_mean([pairs[i] for i in which], draws, seed))
        for kind, which in groups(a).items()
    }
    changed = [_changed(one, other) for one, other in zip(a, b, strict=True) if one.value != other.value]
    before, after = ((side.report.get("manifests") or {}).get(arm) for side, arm in ((first, ours), (second, theirs)))
    return {
        "a": ours,
        "b": theirs,
        "differs": differences(before, after),
        "kinds": by_kind,
        "totals": _totals(scorer, a, b, min(draws, TOTAL_DRAWS), seed),
        "changed": changed,
        "better": sum(item["b_credit"] > item["a_credit"] for item in changed),
        "worse": sum(item["b_credit"] < item["a_credit"] for item in changed),
    }


def _record(found: Difference) -> dict[str, float | int]:
    """paired_mean was given (second, first), so that a difference is second - first."""
    return {"a": found.second, "b": found.first} | found.figure("difference")


def _totals(scorer: str, a: Sequence[Scored], b: Sequence[Scored], draws: int, seed: int) -> dict[str, Any]:
    """Every total of the benchmark by its strict rule."""
    benchmark = find_benchmark(scorer)
    if benchmark is None:
        return {}
    ours, theirs = _verdicts(a), _verdicts(b)
    return {
        name: {"definition": total.definition}
        | _record(statistics.paired_aggregate(theirs, ours, total.of, lambda verdict: verdict.video, draws, seed))
        for name, total in benchmark.totals.items()
    }


def _verdicts(scored: Sequence[Scored]) -> list[Verdict]:
    return [Verdict(s.video, s.sample, s.query, s.kind, s.value, s.got, s.reason) for s in scored]


def _changed(one: Scored, other: Scored) -> dict[str, Any]:
    return {
        "sample": one.sample,
        "video": one.video,
        "query": one.query,
        "kind": one.kind,
        "expected": one.expected,
        "a": one.got,
        "b": other.got,
        "a_credit": one.value,
        "b_credit": other.value,
        "a_reason": one.reason,
        "b_reason": other.reason,
    }


# ---- Shown


def title(pair: Mapping[str, Any]) -> str:
    return str(pair["a"]) if pair["a"] == pair["b"] else f"{pair['a']} and {pair['b']}"


def _rows(pair: Mapping[str, Any]) -> list[list[str]]:
    """Kinds and totals with both figures, the difference, p, and what it rests on."""
    main, fine = f.kinds([pair["kinds"]])
    rows = [[kind, *_cells(pair["kinds"][kind])] for kind in [*main, *fine]]
    return rows + [[f"total: {name}", *_cells(found)] for name, found in pair["totals"].items()]


def _cells(found: Mapping[str, Any]) -> list[str]:
    return [
        f.percent(found["a"]),
        f.percent(found["b"]),
        f.points(found["difference"]),
        f"[{f.points(found['ci_low'])}, {f.points(found['ci_high'])}]",
        shown_p(found["p"]),
        str(found["n"]),
        str(found["videos"]),
    ]


HEAD = ["", "a", "b", "b - a", "95%", "p", "n", "videos"]


def told(report: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """What changed, in a sentence."""
    all_of_it = pair["kinds"]["all"]
    n = all_of_it["n"]
    return (
        f"{title(pair)}: of {n} queries of {all_of_it['videos']} videos {pair['better']} became better and "
        f"{pair['worse']} worse; {f.points(all_of_it['difference'])} points "
        f"[{f.points(all_of_it['ci_low'])}, {f.points(all_of_it['ci_high'])}], {shown_p(all_of_it['p'])}."
    )


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print both figures, differences, and the first queries that changed."""
    console = console or Console()
    console.print(f"a: {report['a']}\nb: {report['b']}", highlight=False, markup=False)
    for pair in report["pairs"]:
        console.print(told(report, pair), highlight=False, markup=False)
        table = RichTable(title=title(pair), box=SIMPLE, padding=(0, 1, 0, 0))
        for name in HEAD:
            table.add_column(name, no_wrap=True)
        for row in _rows(pair):
            table.add_row(*row)
        console.print(table)
        for item in pair["changed"][:LISTED]:
            console.print(f"  {_line(item)}", highlight=False, markup=False)
        if len(pair["changed"]) > LISTED:
            console.print(f"  and {len(pair['changed']) - LISTED} more", highlight=False)


def _line(item: Mapping[str, Any]) -> str:
    mark = "+" if item["b_credit"] > item["a_credit"] else "-"
    return (
        f"{mark} {item['sample']}/{item['query']} {item['kind']}: {item['a']!r} -> {item['b']!r}, {item['expected']!r}"
    )


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The comparison as a report's section."""
    made: list[Block] = [Text(f"a: {report['a']}, b: {report['b']}. Scorer: {report['scorer']}.")]
    for pair in report["pairs"]:
        made += [Text(told(report, pair)), Table(title(pair), HEAD, _rows(pair))]
        if pair["totals"]:
            rows = [[name, found["definition"]] for name, found in pair["totals"].items()]
            made.append(Table("What each total is", ["total", "definition"], rows))
        if pair["differs"]:
            made.append(Table("What differs in how they were made", ["key"], [[item] for item in pair["differs"]]))
        rows = [
            [
                f"{i['sample']}/{i['query']}",
                i["kind"],
                i["expected"],
                i["a"],
                i["b"],
                f"{i['a_credit']:g} -> {i['b_credit']:g}",
            ]
            for i in pair["changed"][:LISTED]
        ]
        if rows:
            more = len(pair["changed"]) - len(rows)
            caption = "Queries that changed" + (f", the first {len(rows)} (and {more} more)" if more else "")
            made.append(Table(caption, ["query", "kind", "expected", "a", "b", "credit"], rows))
    return made


def write(report: Mapping[str, Any], folder: str | Path) -> Path:
    """Write compare.json (all of it) and compare.md into a folder; returns the path of the latter."""
    f.check_json(report, "compare")
    write_whole(Path(folder, "compare.json"), json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    page = Path(folder, "compare.md")
    write_whole(page, f"# Comparison\n\n{as_markdown(blocks(report))}\n")
    return page
