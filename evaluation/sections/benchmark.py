"""Strict beside official: every total of a benchmark by both rules, the gap, and what each total is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.figures import MISSING, points
from evaluation.sections.blocks import Block, Folded, Table, Text, value

HEAD = ["", "strict", "official", "official - strict"]


def blocks(report: Mapping[str, Any]) -> list[Block]:
    found = report.get("benchmark")
    if not found:
        return []
    made: list[Block] = [
        Text(
            f"{found['name']} ({found['source']}; licence: {found['licence']}). Track: {found['track']}. Its reader "
            f"and rules were tested on {found['tested_on']}. Strict figures are to be believed; official ones follow "
            "the published rule, faults included, so that they can be held against papers."
        ),
        Table(
            "What each total is", ["total", "definition"], [[name, told] for name, told in found["definitions"].items()]
        ),
    ]
    if not found["official"]:
        made.append(Text("There is no published rule, so no official figure."))
    for name, totals in found["totals"].items():
        rows = [[total, *_both(of_total)] for total, of_total in totals.items()]
        made.append(Table(f"{name}: totals times 100, with 95% intervals over videos", HEAD, rows))
        tasks = [[task, *_both(of_task)] for task, of_task in found["tasks"].get(name, {}).items()]
        made.append(Folded(f"{name}, task by task", [Table(f"{name}: mean credit by task, times 100", HEAD, tasks)]))
    return made


def _both(found: Mapping[str, Any]) -> list[str]:
    gap = found["gap"]
    return [value(found["strict"]), value(found["official"]), MISSING if gap is None else points(gap)]
