"""Tables of a report page as HTML: figures with their intervals, differences, names in their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation import charts
from evaluation import figures as f
from evaluation.figures import MISSING, Figure, Gain, Results
from evaluation.statistics import shown_p


def table(caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Headers are texts; row names and cells are HTML."""
    top = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, cells in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def cell(figure: Figure | None) -> str:
    if figure is None:
        return f'<span class="faint">{MISSING}</span>'
    return f"<b>{f.percent(figure.accuracy)}</b> <small>{figure.interval}<br>{_size(figure)}</small>"


def _size(found: Figure | Gain) -> str:
    """n and videos on lines of their own: columns stay narrow."""
    return found.size.replace(", ", "<br>")


def points(difference: float | None) -> str:
    return f'<span class="faint">{MISSING}</span>' if difference is None else f.points(difference)


def gained(gain: Gain | None) -> str:
    if gain is None:
        return f'<span class="faint">{MISSING}</span>'
    p = "" if gain.p is None else f"{escape(shown_p(gain.p))}<br>"
    return f"<b>{f.points(gain.gain)}</b> <small>{gain.interval}<br>{p}{_size(gain)}</small>"


def swatch(report: Mapping[str, Any], name: str) -> str:
    """An arm, or what was done with it (`<arm>/<control>`), in the arm's colour; grey for other names."""
    return charts.named(name, charts.arm_colours(report).get(name.partition("/")[0], charts.PALETTE[-1]))


def figures_table(caption: str, names: Mapping[str, str], groups: Mapping[str, Results], kinds: Sequence[str]) -> str:
    """names: row titles (HTML) by the names of `groups`."""
    rows = [(title, [cell(groups[name].get(kind)) for kind in kinds]) for name, title in names.items()]
    return table(caption, ["", *kinds], rows)
