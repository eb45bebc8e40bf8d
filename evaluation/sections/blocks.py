"""What sections are made of: paragraphs, tables of texts, charts. HTML and Markdown are written with the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

from evaluation import figures as f
from evaluation import tables
from evaluation.figures import MISSING, Figure, Gain
from evaluation.statistics import shown_p


@dataclass(frozen=True)
class Text:
    """A paragraph. bad: something that must be seen."""

    text: str
    bad: bool = False


@dataclass(frozen=True)
class Table:
    """Cells are texts; a line break in one is kept. The first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """An inline SVG with its legend, which Markdown leaves out: a table beside it holds the same figures."""

    html: str


@dataclass(frozen=True)
class Folded:
    """Blocks that a page shows when asked to."""

    summary: str
    blocks: Sequence[Block]


Block: TypeAlias = "Text | Table | Chart | Folded"


def as_html(blocks: Sequence[Block]) -> str:
    return "".join(_html(block) for block in blocks)


def _html(block: Block) -> str:
    if isinstance(block, Text):
        return f'<p class="bad">{escape(block.text)}</p>' if block.bad else f"<p>{escape(block.text)}</p>"
    if isinstance(block, Table):
        rows = [(_cell(row[0]), [_cell(cell) for cell in row[1:]]) for row in block.rows]
        return tables.table(block.caption, block.head, rows)
    if isinstance(block, Chart):
        return f'<div class="scroll">{block.html}</div>'
    return f"<details><summary>{escape(block.summary)}</summary>{as_html(block.blocks)}</details>"


def _cell(text: str) -> str:
    """The first line is what counts; the others are smaller."""
    first, *rest = text.split("\n")
    if text == MISSING:
        return f'<span class="faint">{MISSING}</span>'
    return escape(first) + (f" <small>{'<br>'.join(map(escape, rest))}</small>" if rest else "")


def as_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(part for part in (_markdown(block) for block in blocks) if part)


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        return f"**{block.text}**" if block.bad else block.text
    if isinstance(block, Table):
        lines = [_row(block.head), "|" + "---|" * len(block.head), *map(_row, block.rows)]
        return f"{block.caption}:\n\n" + "\n".join(lines)
    return as_markdown(block.blocks) if isinstance(block, Folded) else ""


def _row(cells: Sequence[str]) -> str:
    plain = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(plain)} |"


# ---- Cells


def figure(found: Figure | None) -> str:
    """Such as 71.3% [68.0, 74.5], n and videos below."""
    return MISSING if found is None else f"{f.percent(found.accuracy)}\n{found.interval}\n{_lines(found.size)}"


def gain(found: Gain | None) -> str:
    """Such as +5.0 [+1.5, +8.0], p, n and videos below."""
    if found is None:
        return MISSING
    p = [] if found.p is None else [shown_p(found.p)]
    return "\n".join([f.points(found.gain), found.interval, *p, _lines(found.size)])


def _lines(size: str) -> str:
    """n and videos on lines of their own: columns stay narrow."""
    return size.replace(", ", "\n")


def value(found: Mapping[str, Any] | None) -> str:
    """A total of a benchmark, in percent if it is a share."""
    if found is None:
        return MISSING
    middle, low, high = (100 * float(found[key]) for key in ("value", "ci_low", "ci_high"))
    return f"{middle:.2f}\n[{low:.2f}, {high:.2f}]\n{_lines(f.size(found['n'], found.get('videos')))}"


def number(found: Any, digits: int = 3) -> str:
    if found is None:
        return MISSING
    return f"{found:.{digits}g}" if isinstance(found, float) and found < 1000 else f"{found:,.0f}"
