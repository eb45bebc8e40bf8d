"""The report of an evaluation: report.json, report.html and report.md beside it with the same figures, and tables for
the terminal.

The page is one file that needs neither network nor scripts. Every number and every said word on it comes from the
report's mapping; what the mapping does not have is shown as missing. What JSON cannot hold comes in `Pictures`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from evaluation import charts, learned, tables
from evaluation import figures as f
from evaluation.figures import MISSING, Results
from evaluation.markdown import render_markdown
from evaluation.sections import ages, benchmark, controls, cost, trust
from evaluation.sections.blocks import as_html
from evaluation.style import CSS
from evaluation.timeline import Timeline, timeline_section
from whilst.render import TokenRow
from whilst.visibility import Rule

__all__ = ["MaskPicture", "Pictures", "Timeline", "print_table", "write_report"]


@dataclass(frozen=True)
class MaskPicture:
    """A rendered row of an arm's layout, and the rule under which the arm was trained on it."""

    row: TokenRow
    rule: Rule


@dataclass(frozen=True)
class Pictures:
    """What a page shows beside the figures: one episode's frames, and one row's mask for each arm."""

    timeline: Timeline | None = None
    masks: Mapping[str, MaskPicture] = field(default_factory=dict)


def write_report(report: Mapping[str, Any], out_dir: Path, pictures: Pictures) -> Path:
    """Write report.json (the mapping as it is), report.html and report.md into `out_dir`; returns the page's path.

    Raises ReportError, before anything is written, for NaN, infinity, or what is no JSON value.
    """
    f.check_json(report)
    page = Path(out_dir, "report.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    page.with_name("report.json").write_text(text + "\n", encoding="utf-8")
    page.write_text(render_page(report, pictures), encoding="utf-8")
    page.with_suffix(".md").write_text(render_markdown(report), encoding="utf-8")
    return page


def render_page(report: Mapping[str, Any], pictures: Pictures) -> str:
    """The whole page as HTML."""
    name = escape(str(report.get("name") or "evaluation"))
    sections = [
        ("Accuracy", _accuracy(report)),
        ("Strict and official", as_html(benchmark.blocks(report))),
        ("Causality audit", as_html(trust.audit(report))),
        ("Failures", as_html(trust.failures(report))),
        ("Thoughts", learned.thoughts(report)),
        ("Gains", learned.gains(report)),
        ("Readers", learned.readers(report)),
        ("Controls", controls.controls_html(report)),
        ("Age of the evidence", as_html(ages.blocks(report))),
        ("What an answer costs", as_html(cost.blocks(report))),
        ("Learning curves", learned.curves(report)),
        ("One video, as it was watched", _timeline(report, pictures)),
        ("What each token may see", _masks(report, pictures)),
        ("Settings, durations, code", as_html(trust.manifests(report)) + _settings(report)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{name}: report</title><style>{CSS}</style></head>"
        f'<body><header><h1>{name}</h1><p class="headline">{escape(f.headline(report))}</p></header>'
        f"<main>{body}</main></body></html>\n"
    )


# ---- Parts of the page


def _accuracy(report: Mapping[str, Any]) -> str:
    arms = f.results(report.get("arms"), "report.arms")
    main, fine = f.kinds(list(arms.values()))
    names = {arm: tables.swatch(report, arm) for arm in arms}
    colours = charts.arm_colours(report)
    parts = [
        charts.legend({arm: colours[arm] for arm in arms}),
        f'<div class="scroll">{charts.bars(arms, main, colours, "Accuracy by kind of query and arm")}</div>',
        tables.figures_table("Accuracy by arm and kind of query, with 95% intervals", names, arms, main),
    ]
    if fine:
        table = tables.figures_table("Accuracy by finer kind of query", names, arms, fine)
        parts.append(f"<details><summary>Finer kinds of query</summary>{table}</details>")
    thoughts, unfinished = report.get("thoughts") or {}, report.get("unfinished") or {}
    if thoughts or unfinished:
        rows = [(names[arm], [_share(arm, thoughts), str(unfinished.get(arm, MISSING))]) for arm in arms]
        head = ["", "thoughts right (word for word, or both idle)", "queries without a finished reply (wrong)"]
        parts.append(tables.table("Beside the accuracy", head, rows))
    return "".join(parts)


def _share(arm: str, thoughts: Mapping[str, float | None]) -> str:
    share = thoughts.get(arm)
    return f.percent(share) if share is not None else "none written" if arm in thoughts else MISSING


def _timeline(report: Mapping[str, Any], pictures: Pictures) -> str:
    if pictures.timeline is None:
        return f"<p>Episode: {MISSING} in this report.</p>"
    return timeline_section(report, pictures.timeline)


def _masks(report: Mapping[str, Any], pictures: Pictures) -> str:
    figures = []
    for arm in dict.fromkeys([*(report.get("arms") or {}), *pictures.masks]):
        if arm not in pictures.masks:
            figures.append(f'<p>{tables.swatch(report, arm)}: <span class="faint">{MISSING}</span></p>')
            continue
        row, rule = pictures.masks[arm].row, pictures.masks[arm].rule
        params = "".join(f", {key} = {value}" for key, value in rule.params.items())
        picture = charts.mask_picture(row, rule, f"Visibility mask of arm {arm}")
        figures.append(
            f"<figure><figcaption>{tables.swatch(report, arm)}: rule {escape(rule.name + params)}, {len(row)} tokens, "
            f'sample <code>{escape(row.sample_id)}</code></figcaption><div class="scroll">{picture}</div></figure>'
        )
    return (
        "<p>A row of the picture is a token that looks, a column a token that is looked at, coloured by what that is. "
        "Grey is past but hidden; empty is future.</p>"
        + charts.legend({name: shade for name, (_, shade) in charts.KEYS.items()})
        + f'<div class="pair masks">{"".join(figures)}</div>'
    )


def _facts(caption: str, value: Any) -> str:
    return tables.table(caption, ["", "value"], [(escape(name), [escape(text)]) for name, text in f.facts(value)])


def _settings(report: Mapping[str, Any]) -> str:
    titles = {"code": "Code", "seconds": "Durations, in seconds", "settings": "Settings and seeds"}
    return "".join(
        f"<details><summary>{title}</summary>{_facts(title, report[key])}</details>"
        if report.get(key)
        else f"<p>{title}: {MISSING} in this report.</p>"
        for key, title in titles.items()
    )


# ---- The terminal


def print_table(report: Mapping[str, Any], console: Console | None = None) -> list[Table]:
    """Print accuracy by arm and kind, gains, and the controls of each arm that has some; returns the tables."""
    arms = f.results(report.get("arms"), "report.arms")
    shown = [_terminal("Accuracy in percent, with 95% intervals", arms, f.kinds(list(arms.values()))[0])]
    if readers := f.results(report.get("readers"), "report.readers"):
        shown.append(_terminal("Reading another's thoughts", readers, f.kinds(list(readers.values()))[0]))
    if gains := f.gains(report):
        shown.append(_terminal_gains(gains))
    for arm, group, _ in controls.controlled(report):
        if group:
            kinds = f.kinds(list(group.values()))[0]
            shown.append(_terminal(f"Controls, with points from {arm}", group, kinds, arms.get(arm, {})))
    for table in shown:
        (console or Console()).print(table)
    return shown


def _terminal_gains(gains: Mapping[str, tuple[str, Mapping[str, f.Gain]]]) -> Table:
    kinds = f.kinds([by_kind for _, by_kind in gains.values()])[0]
    table = Table(title="Gains in points, with 95% intervals", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("")
    for kind in kinds:
        table.add_column(kind, no_wrap=True)
    for name, (baseline, by_kind) in gains.items():
        found = [by_kind.get(kind) for kind in kinds]
        cells = [
            f"{f.points(g.gain)}\n{100 * g.low:.0f} to {100 * g.high:.0f}" if g is not None else MISSING for g in found
        ]
        table.add_row(f"{name}\nfrom {baseline}", *cells)
    return table


def _terminal(title: str, groups: Mapping[str, Results], kinds: Sequence[str], versus: Results | None = None) -> Table:
    """versus: what the differences, in points, are taken to. Cells have lines of their own, to fit 80 columns."""
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for kind in kinds:
        table.add_column(kind, no_wrap=True)
    for name, figures in groups.items():
        cells = []
        for kind in kinds:
            figure = figures.get(kind)
            delta = f.difference(figure, versus.get(kind)) if versus else None
            shown = (
                f"{f.percent(figure.accuracy)}\n{100 * figure.low:.0f}-{100 * figure.high:.0f}" if figure else MISSING
            )
            cells.append(shown if delta is None else f"{shown}\n{f.points(delta)}")
        table.add_row(name, *cells)
    return table
