"""What an answer costs: the think-latency ledger, what the same work is under other schedulers, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.figures import MISSING
from evaluation.sections.blocks import Block, Folded, Table, Text, number

SHOWN = (
    "waited", "prefill", "first_token", "complete", "thought_tokens_before", "thought_tokens_after", "compute_before",
    "compute_after", "kv_tokens",
)  # fmt: skip
ORDERS = {"ahead": "thinks when a segment arrives", "after": "thinks when it is asked"}
SCHEDULED = ("latency", "first_token", "staleness", "lag")


def blocks(report: Mapping[str, Any]) -> list[Block]:
    made: list[Block] = []
    ledgers = report.get("ledger") or {}
    if ledgers:
        some = next(iter(ledgers.values()))["ahead"]
        rows = [
            [f"{arm}\n{ORDERS[order]}", *(_median(found[order]["figures"][name]) for name in SHOWN)]
            for arm, found in ledgers.items()
            for order in ORDERS
            if order in found
        ]
        enclosed = [[name, told] for name, told in some["encloses"].items() if name in some["figures"]]
        made += [
            Text(
                f"Measured on one stream, pacing {some['pacing']}, {some['queries']} queries of {some['samples']} "
                "samples. Seconds are wall seconds of this machine; everything between a query's arrival and its last "
                "token is enclosed, thoughts that are late among it."
            ),
            Table(
                "A query, from its arrival on: medians (s, tokens), and the 90th percentile below",
                ["", *_words(SHOWN)],
                rows,
            ),
            Folded(
                "What each figure encloses", [Table("What each figure encloses", ["figure", "what it is"], enclosed)]
            ),
        ]
        simulated = [
            [f"{arm}\n{name}", *(_median(of_one[key]) for key in SCHEDULED), number(of_one["frames_late"])]
            for arm, found in ledgers.items()
            for name, of_one in found["simulated"].items()
        ]
        head = ["", *_words(SCHEDULED), "frames late"]
        table = Table("Simulated with the measured costs: medians in s, and the 90th percentile below", head, simulated)
        made.append(Folded("The same work under other schedulers (simulated)", [table]))
    return [*made, *_tokens(report), *_streams(report)]


GROWING = {
    "seconds": "CPU seconds a segment",
    "thought_tokens": "thought tokens a segment",
    "entries": "cache entries",
    "bytes": "cache bytes",
    "resident_bytes": "resident memory, bytes",
}


def _streams(report: Mapping[str, Any]) -> list[Block]:
    """Whether a long stream costs more and more."""
    made: list[Block] = []
    for arm, found in (report.get("stream_cost") or {}).items():
        if "reason" in found:
            made.append(Text(f"{arm}: no long stream, because {found['reason']}."))
            continue
        rows = []
        for name, told in GROWING.items():
            trend = found["trends"][name]
            if trend is None:
                rows.append([told, *[MISSING] * 4])
                continue
            slope = f"{number(trend['slope'])}\n[{number(trend['ci_low'])}, {number(trend['ci_high'])}]"
            quarters = [number(trend[key]) for key in ("first_quarter", "last_quarter", "ratio")]
            rows.append([told, slope, *quarters])
        title = (
            f"{arm}: {found['segments']} segments, {number(found['video_seconds'])} s of video; "
            f"{number(found['seconds_per_video_second'])} CPU s a second of video"
        )
        head = ["", "slope an hour, 95%", "first quarter", "last quarter", "ratio"]
        made.append(Table(title, head, rows))
    return made


def _tokens(report: Mapping[str, Any]) -> list[Block]:
    tokens = report.get("tokens") or {}
    if not tokens:
        return []
    head = ["", "thought tokens", "a second of video", "answer tokens", "s of video"]
    keys = ("thought_tokens", "thought_tokens_a_second", "answer_tokens", "video_seconds")
    rows = [[arm, *(number(found.get(key)) for key in keys)] for arm, found in tokens.items()]
    return [Table("Tokens that were written, boundary tokens included", head, rows)]


def _median(found: Mapping[str, Any]) -> str:
    if found["median"] is None:
        return MISSING
    return f"{number(found['median'])}\n{number(found['p90'])}"


def _words(names: Sequence[str]) -> list[str]:
    """Names of figures as headers that can be broken into lines."""
    return [name.replace("_", " ") for name in names]
