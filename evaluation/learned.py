"""What training changed, on a report page: what thoughts tell, gains over a baseline, readers, learning curves.

A part of which the report says nothing is empty, except for the learning curves, which every report should have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation import charts, tables
from evaluation import figures as f
from evaluation.figures import MISSING

Curves = Mapping[str, Sequence[Mapping[str, float]]]  # points by arm

TOLD = {
    "told": "tell something, of all segments",
    "correct": "right word for word, where something happens",
    "false_alarms": "tell something, where nothing happens",
}


def thoughts(report: Mapping[str, Any]) -> str:
    """What the thoughts of each arm tell, against what happens."""
    shares = f.results(report.get("thought_shares"), "report.thought_shares", "share")
    if not shares:
        return ""
    true = {f"{f.percent(share['true'].accuracy)} of {share['true'].n}" for share in shares.values() if "true" in share}
    rows = [
        (tables.swatch(report, name), [tables.cell(by_name.get(column)) for column in TOLD])
        for name, by_name in shares.items()
    ]
    return f"<p>Something happens in {' or '.join(sorted(true)) or MISSING} segments.</p>" + tables.table(
        "What thoughts tell, with 95% intervals", ["thoughts that", *TOLD.values()], rows
    )


def gains(report: Mapping[str, Any]) -> str:
    """Accuracy against a baseline on the same queries."""
    found = f.gains(report)
    if not found:
        return ""
    main, fine = f.kinds([by_kind for _, by_kind in found.values()])

    def shown(title: str, kinds: Sequence[str]) -> str:
        rows = [
            (
                f"{tables.swatch(report, name)}<br><small>from {escape(baseline)}</small>",
                [tables.gained(by_kind.get(kind)) for kind in kinds],
            )
            for name, (baseline, by_kind) in found.items()
        ]
        return tables.table(title, ["", *kinds], rows)

    more = (
        f"<details><summary>Finer kinds of query</summary>{shown('Gains by finer kind of query', fine)}</details>"
        if fine
        else ""
    )
    return shown("Gains in points on the same queries, with paired 95% intervals", main) + more


def readers(report: Mapping[str, Any]) -> str:
    """Arms that answer from the thoughts of others, between the reader with its own thoughts and the writer."""
    groups = f.results(report.get("readers"), "report.readers")
    if not groups:
        return ""
    arms = f.results(report.get("arms"), "report.arms")
    asked = (report.get("settings") or {}).get("readers") or {}
    kinds = f.kinds(list(groups.values()))[0]
    parts = []
    for name, figures in groups.items():
        reading = asked.get(name) or {}
        reader, writer = str(reading.get("reader", MISSING)), str(reading.get("writer", MISSING))
        rows = {
            f"{tables.swatch(report, reader)}<br><small>its own thoughts</small>": arms.get(reader, {}),
            f"{tables.swatch(report, reader)}<br><small>thoughts of {escape(writer)}</small>": figures,
            f"{tables.swatch(report, writer)}<br><small>its own thoughts</small>": arms.get(writer, {}),
        }
        lines = [(title, [tables.cell(of_row.get(kind)) for kind in kinds]) for title, of_row in rows.items()]
        parts.append(tables.table(f"{name}: {reader} answers from what {writer} writes", ["", *kinds], lines))
    return "".join(parts)


def curves(report: Mapping[str, Any]) -> str:
    """Loss and token accuracy of arms that were fine-tuned; reward and told segments of those that learnt from one."""
    supervised, rewarded = _drawn(report, "curves"), _drawn(report, "reward_curves")
    parts = []
    if supervised:
        pair = {"loss": ("Loss", None), "mean_token_accuracy": ("Token accuracy", 1.0)}
        parts.append(_charts(report, supervised, pair))
    if rewarded:
        pair = {"reward": ("Reward", None), "told": ("Segments with a thought that tells something", 1.0)}
        parts.append(_charts(report, rewarded, pair))
    if not parts:
        return f"<p>Learning curves: {MISSING} in this report.</p>"
    if absent := [arm for arm in report.get("arms") or {} if arm not in {*supervised, *rewarded}]:
        parts.append(f'<p class="faint">No curve: {escape(", ".join(absent))} ({MISSING}).</p>')
    return "".join(parts)


def _drawn(report: Mapping[str, Any], key: str) -> Curves:
    return {arm: points for arm, points in (report.get(key) or {}).items() if points}


def _charts(report: Mapping[str, Any], curves: Curves, pair: Mapping[str, tuple[str, float | None]]) -> str:
    every = charts.arm_colours(report)
    colours = {arm: every.get(arm, charts.PALETTE[-1]) for arm in curves}
    figures = []
    for key, (title, top) in pair.items():
        series = {
            arm: [(float(p["step"]), float(p[key])) for p in points if p.get(key) is not None]
            for arm, points in curves.items()
        }
        if any(series.values()):
            drawn = charts.lines(series, colours, title, top)
            figures.append(f"<figure><figcaption>{title}</figcaption>{drawn}</figure>")
    return charts.curve_legend(colours) + f'<div class="pair">{"".join(figures)}</div>'
