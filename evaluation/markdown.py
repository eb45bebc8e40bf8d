"""The report as Markdown: the tables of the page, for terminals, reviews and logs. The page has the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation import figures as f
from evaluation.figures import MISSING, Results
from evaluation.learned import TOLD
from evaluation.sections import ages, benchmark, controls, cost, trust
from evaluation.sections.blocks import Block, Table, Text, as_markdown, figure, gain


def render_markdown(report: Mapping[str, Any]) -> str:
    """The whole file."""
    parts = {
        "Accuracy": _accuracy(report),
        "Strict and official": benchmark.blocks(report),
        "Causality audit": trust.audit(report),
        "Failures": trust.failures(report),
        "Thoughts": _thoughts(report),
        "Gains": _gains(report),
        "Readers": _groups("Arms that answer from another's thoughts", f.results(report.get("readers"), "readers")),
        "Controls": _controls(report),
        "Age of the evidence": ages.blocks(report),
        "What an answer costs": cost.blocks(report),
        "Settings, durations, code": [*trust.manifests(report), *_settings(report)],
    }
    body = "".join(f"\n## {title}\n\n{as_markdown(blocks)}\n" for title, blocks in parts.items() if blocks)
    return f"# {report.get('name') or 'evaluation'}\n\n{f.headline(report)}\n{body}"


def _groups(caption: str, groups: Mapping[str, Results], main_alone: bool = False) -> list[Block]:
    """Figures by name and kind, the finer kinds in a table of their own."""
    if not groups:
        return []
    main, fine = f.kinds(list(groups.values()))
    made: list[Block] = [_table(caption, groups, main)]
    if fine and not main_alone:
        made.append(_table(f"{caption}, finer kinds of query", groups, fine))
    return made


def _table(caption: str, groups: Mapping[str, Results], kinds: Sequence[str]) -> Table:
    rows = [[name, *(figure(by_kind.get(kind)) for kind in kinds)] for name, by_kind in groups.items()]
    return Table(caption, ["", *kinds], rows)


def _accuracy(report: Mapping[str, Any]) -> list[Block]:
    arms = f.results(report.get("arms"), "report.arms")
    made = _groups("Accuracy by arm and kind of query, with 95% intervals", arms)
    unfinished = report.get("unfinished") or {}
    thoughts = report.get("thoughts") or {}
    if unfinished or thoughts:
        rows = [[arm, _share(arm, thoughts), str(unfinished.get(arm, MISSING))] for arm in arms]
        head = ["", "thoughts right (word for word, or both idle)", "queries without a finished reply (wrong)"]
        made.append(Table("Beside the accuracy", head, rows))
    return made


def _share(arm: str, thoughts: Mapping[str, float | None]) -> str:
    share = thoughts.get(arm)
    return f.percent(share) if share is not None else "none written" if arm in thoughts else MISSING


def _thoughts(report: Mapping[str, Any]) -> list[Block]:
    shares = f.results(report.get("thought_shares"), "report.thought_shares", "share")
    if not shares:
        return []
    rows = [[name, *(figure(by_name.get(key)) for key in ("true", *TOLD))] for name, by_name in shares.items()]
    head = ["thoughts that", "(segments in which something happens)", *TOLD.values()]
    return [Table("What thoughts tell, with 95% intervals", head, rows)]


def _gains(report: Mapping[str, Any]) -> list[Block]:
    found = f.gains(report)
    if not found:
        return []
    kinds = f.kinds([by_kind for _, by_kind in found.values()])[0]
    rows = [
        [f"{name} from {baseline}", *(gain(by_kind.get(kind)) for kind in kinds)]
        for name, (baseline, by_kind) in found.items()
    ]
    return [Table("Gains in points on the same queries, paired", ["", *kinds], rows)]


def _controls(report: Mapping[str, Any]) -> list[Block]:
    made: list[Block] = []
    for arm, group, memory in controls.controlled(report):
        made += _groups(f"Controls of {arm} ({memory})", group, main_alone=True)
    return made + controls.blocks(report)


def _settings(report: Mapping[str, Any]) -> list[Block]:
    titles = {"code": "Code", "seconds": "Durations, in seconds", "settings": "Settings and seeds"}
    made: list[Block] = []
    for key, title in titles.items():
        if report.get(key):
            made.append(Table(title, ["", "value"], [[name, text] for name, text in f.facts(report[key])]))
        else:
            made.append(Text(f"{title}: {MISSING} in this report."))
    return made
