"""The evidence-age curve: accuracy by how long ago the evidence was, and by how long the stream had been."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation import charts
from evaluation.figures import Figure
from evaluation.sections.blocks import Block, Chart, Folded, Table, Text, figure

CURVES = {
    "by_age": ("Accuracy by the age of the evidence", "s of video since the evidence ended"),
    "by_length": ("Accuracy by the length of the stream", "s of video watched before the reply was due"),
}


def blocks(report: Mapping[str, Any]) -> list[Block]:
    by_arm = report.get("evidence_age") or {}
    curves = {arm: found for arm, found in by_arm.items() if "by_age" in found}
    made: list[Block] = [
        Text(f"{arm}: no curve, because {found['reason']}.") for arm, found in by_arm.items() if "reason" in found
    ]
    if not curves:
        return made
    one = next(iter(curves.values()))
    made.append(
        Text(
            f"The age of a query's evidence is the time at which its reply is due minus the end of its last evidence. "
            f"{one['with_evidence']} of {one['queries']} queries name their evidence; the others have no age."
        )
    )
    colours = charts.arm_colours(report)
    for key, (title, unit) in CURVES.items():
        if not any(found[key] for found in curves.values()):
            continue
        shown = {arm: [_point(b) for b in found[key] if b["n"]] for arm, found in curves.items()}
        drawn = charts.points(shown, colours, title, unit)
        made.append(Chart(charts.curve_legend({arm: colours[arm] for arm in curves}) + drawn))
        bins = next(found[key] for found in curves.values() if found[key])
        rows = [[arm, *(_cell(b) for b in found[key])] for arm, found in curves.items()]
        table = Table(f"{title} ({unit})", ["", *(_span(b) for b in bins)], rows)
        made.append(table if key == "by_age" else Folded(title, [table]))
    return made


def _figure(found: Mapping[str, Any]) -> Figure:
    return Figure(found["n"], found["accuracy"], found["ci_low"], found["ci_high"], found["videos"])


def _point(found: Mapping[str, Any]) -> tuple[float, Figure]:
    return max(0.0, float(found["median"])), _figure(found)


def _cell(found: Mapping[str, Any]) -> str:
    return figure(_figure(found)) if found["n"] else "no query"


def _span(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return "still going on"
    return f"{found['low']:g} s and more" if found["high"] is None else f"{found['low']:g} to {found['high']:g} s"
