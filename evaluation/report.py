"""The report of an evaluation: report.json, report.html beside it with the same figures, and a table for the terminal.

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
from evaluation.style import CSS
from evaluation.timeline import Timeline, timeline_section
from whilst.render import TokenRow
from whilst.visibility import Rule

__all__ = ["MaskPicture", "Pictures", "Timeline", "print_table", "write_report"]

# what a control takes away (evaluation/controls.py)
TAKEN_AWAY = {
    "thoughts_shuffled": "at every query the text memory is another video's",
    "thoughts_dropped": "at every query the text memory is empty",
    "text_only": "no video at all: the query alone",
    "last_frames": "only the last frames before a query are watched",
    "thoughts_swapped": "it writes another video's thoughts while it watches its own",
    "thoughts_greedy": "chance: its likeliest thoughts in place of drawn ones",
}


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
    """Write report.json (the mapping as it is) and report.html into `out_dir`; returns the path of the page.

    Raises ReportError, before anything is written, for NaN, infinity, or what is no JSON value.
    """
    f.check_json(report)
    page = Path(out_dir, "report.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    page.with_name("report.json").write_text(text + "\n", encoding="utf-8")
    page.write_text(render_page(report, pictures), encoding="utf-8")
    return page


def render_page(report: Mapping[str, Any], pictures: Pictures) -> str:
    """The whole page as HTML."""
    name = escape(str(report.get("name") or "evaluation"))
    sections = [
        ("Accuracy", _accuracy(report)),
        ("Thoughts", learned.thoughts(report)),
        ("Gains", learned.gains(report)),
        ("Readers", learned.readers(report)),
        ("Controls", _controls(report)),
        ("Learning curves", learned.curves(report)),
        ("One video, as it was watched", _timeline(report, pictures)),
        ("What each token may see", _masks(report, pictures)),
        ("Settings, durations, code", _settings(report)),
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


def _controls(report: Mapping[str, Any]) -> str:
    parts = []
    for arm, group, memory in _controlled(report):
        if group:
            parts.append(_control_tables(report, group, arm, memory))
        else:
            parts.append(f"<p>Controls of {memory}: {MISSING} in this report.</p>")
    return "".join(parts)


def _controlled(report: Mapping[str, Any]) -> list[tuple[str, dict[str, Results], str]]:
    """(arm, its controls, its memory): the first of text memory and the one of KV memory are always there."""
    first, kv = f.control_arm(report), f.kv_arm(report)
    others = {arm: group for arm, group in (report.get("controls_by_arm") or {}).items() if arm != first}
    return [
        (first, f.results(report.get("controls"), "report.controls"), "text memory"),
        *((arm, f.results(group, f"report.controls_by_arm.{arm}"), "text memory") for arm, group in others.items()),
        (kv or "", f.results(report.get("controls_kv"), "report.controls_kv") if kv else {}, "KV memory"),
    ]


def _control_tables(report: Mapping[str, Any], controls: Mapping[str, Results], arm: str, memory: str) -> str:
    arms = f.results(report.get("arms"), "report.arms")
    base = f.baseline_arm(report)
    own, other = arms.get(arm, {}), arms.get(base, {})
    main, fine = f.kinds([*controls.values(), own, other])

    groups: dict[str, tuple[str, Results]] = {arm: (tables.swatch(report, arm), own)}
    for name, results in controls.items():
        groups[name] = (f"{escape(name)}<br><small>{escape(TAKEN_AWAY.get(name, ''))}</small>", results)
    groups[base] = (tables.swatch(report, base), other)

    def deltas(name: str, results: Results, kind: str) -> list[str]:
        """Points from the arm and from the baseline; nothing in an arm's own place."""
        return [
            "" if name == to else tables.points(f.difference(results.get(kind), figures.get(kind)))
            for to, figures in ((arm, own), (base, other))
        ]

    def folded(name: str, results: Results, kind: str) -> str:
        pairs = zip((arm, base), deltas(name, results, kind), strict=True)
        return tables.cell(results.get(kind)) + "".join(f"<small>{d} from {escape(to)}</small>" for to, d in pairs if d)

    first = f.HEADLINE_KIND if f.HEADLINE_KIND in main else main[0]
    rest = [kind for kind in [*main, *fine] if kind != first]
    title = f"{arm} ({memory}) and its controls"
    shown = tables.table(
        f"{title}: {first} queries",
        ["", f"accuracy, {first}", f"points from {arm}", f"points from {base}"],
        [(head, [tables.cell(r.get(first)), *deltas(name, r, first)]) for name, (head, r) in groups.items()],
    )
    hidden = tables.table(
        f"{title}: the other kinds of query",
        ["", *rest],
        [(head, [folded(name, r, kind) for kind in rest]) for name, (head, r) in groups.items()],
    )
    return f"{shown}<details><summary>The other kinds of query, {memory}</summary>{hidden}</details>"


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
    for arm, controls, _ in _controlled(report):
        if controls:
            kinds = f.kinds(list(controls.values()))[0]
            shown.append(_terminal(f"Controls, with points from {arm}", controls, kinds, arms.get(arm, {})))
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
