"""Controls: each beside its arm and the baseline, what it takes away with a paired interval, and what is not valid."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from evaluation import figures as f
from evaluation import tables
from evaluation.controls import REGISTRY
from evaluation.figures import MISSING, Gain, Results
from evaluation.sections.blocks import Block, Folded, Table, Text, as_html, gain
from evaluation.statistics import shown_p


def controls_html(report: Mapping[str, Any]) -> str:
    """The whole section of the page."""
    parts = []
    for arm, group, memory in controlled(report):
        if group:
            parts.append(_control_tables(report, group, arm, memory))
        elif not report.get("controls_by_arm"):
            parts.append(f"<p>Controls of {memory}: {MISSING} in this report.</p>")
    return "".join(parts) + as_html(blocks(report))


def controlled(report: Mapping[str, Any]) -> list[tuple[str, dict[str, Results], str]]:
    """(arm, its controls, its memory): the first of text memory and the one of KV memory are always there."""
    first, kv = f.control_arm(report), f.kv_arm(report)
    others = {arm: group for arm, group in (report.get("controls_by_arm") or {}).items() if arm not in (first, kv)}
    return [
        (first, f.results(report.get("controls"), "report.controls"), "text memory"),
        *(
            (arm, f.results(group, f"report.controls_by_arm.{arm}"), memory(report, arm))
            for arm, group in others.items()
        ),
        (kv or "", f.results(report.get("controls_kv"), "report.controls_kv") if kv else {}, "KV memory"),
    ]


def memory(report: Mapping[str, Any], arm: str) -> str:
    """What an arm keeps, by its layout; arms whose layout the report does not tell have text memory."""
    contract = ((report.get("settings") or {}).get("contracts") or {}).get(arm) or {}
    layout = (contract.get("render") or {}).get("layout", "recurrent")
    return "text memory" if str(layout).startswith("recurrent") else "KV memory"


def taken_away(name: str) -> str:
    return REGISTRY[name].takes if name in REGISTRY else ""


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """What each control takes away, paired; controls that say nothing about an arm; queries left out."""
    found: list[Block] = []
    for arm, of_arm in f.deltas(report).items():
        kinds = f.kinds(list(of_arm.values()))[0]
        rows = [
            [f"{name}\n{taken_away(name)}", *(gain(by_kind.get(kind)) for kind in kinds)]
            for name, by_kind in of_arm.items()
        ]
        title = f"{arm} minus its controls, in points on the same queries, paired"
        found.append(Folded(title, [Table(title, ["", *kinds], rows)]))
    reasons: dict[tuple[str, str], list[str]] = {}
    for arm, of_controls in (report.get("controls_not_valid") or {}).items():
        for name, reason in of_controls.items():
            reasons.setdefault((arm, reason), []).append(name)
    if reasons:
        lines = [[arm, ", ".join(names), reason] for (arm, reason), names in reasons.items()]
        found.append(Table("Controls that are not valid", ["arm", "controls", "reason"], lines))
    for name, of_job in (report.get("left_out") or {}).items():
        told = "; ".join(f"{count} because {reason}" for reason, count in of_job.items())
        found.append(Text(f"{name} leaves queries out, and is compared on the others: {told}."))
    return found


def _control_tables(report: Mapping[str, Any], controls: Mapping[str, Results], arm: str, memory: str) -> str:
    arms = f.results(report.get("arms"), "report.arms")
    base = f.baseline_arm(report)
    own, other = arms.get(arm, {}), arms.get(base, {})
    main, fine = f.kinds([*controls.values(), own, other])

    groups: dict[str, tuple[str, Results]] = {arm: (tables.swatch(report, arm), own)}
    for name, results in controls.items():
        groups[name] = (f"{escape(name)}<br><small>{escape(taken_away(name))}</small>", results)
    groups[base] = (tables.swatch(report, base), other)

    paired = f.deltas(report).get(arm, {})
    bases = {arm: own} if arm == base else {arm: own, base: other}

    def deltas(name: str, results: Results, kind: str) -> list[str]:
        """Points from the arm, paired where the report has it, and from the baseline; nothing in an arm's own place."""
        return [
            ""
            if name == to
            else _below(paired[name][kind])
            if to == arm and kind in paired.get(name, {})
            else tables.points(f.difference(results.get(kind), figures.get(kind)))
            for to, figures in bases.items()
        ]

    def folded(name: str, results: Results, kind: str) -> str:
        pairs = zip(bases, deltas(name, results, kind), strict=True)
        return tables.cell(results.get(kind)) + "".join(f"<small>{d} from {escape(to)}</small>" for to, d in pairs if d)

    first = f.HEADLINE_KIND if f.HEADLINE_KIND in main else main[0]
    rest = [kind for kind in [*main, *fine] if kind != first]
    title = f"{arm} ({memory}) and its controls"
    shown = tables.table(
        f"{title}: {first} queries",
        ["", f"accuracy, {first}", *(f"points from {to}" for to in bases)],
        [(head, [tables.cell(r.get(first)), *deltas(name, r, first)]) for name, (head, r) in groups.items()],
    )
    hidden = tables.table(
        f"{title}: the other kinds of query",
        ["", *rest],
        [(head, [folded(name, r, kind) for kind in rest]) for name, (head, r) in groups.items()],
    )
    return f"{shown}<details><summary>The other kinds of query, {memory}</summary>{hidden}</details>"


def _below(found: Gain) -> str:
    """How far a control lies from its arm: the gain of the arm over it, the other way round."""
    low, high = f.points(-found.high), f.points(-found.low)
    p = "" if found.p is None else f", {escape(shown_p(found.p))}"
    return f"{f.points(-found.gain)} <small>[{low}, {high}]{p}</small>"
